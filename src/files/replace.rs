use std::ffi::OsString;
use std::fs::{DirEntry, File, Permissions};
use std::io::{Result, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

/// The rights of a file that is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// These, whatever the file before had.
    Set(u32),
    /// Those of the file before, or these where there was none.
    KeepOr(u32),
}

/// Replaces a file, so that a reader sees the old or the new one whole, also after the power fails. A
/// link is replaced itself; see [`Path::canonicalize`] for the file that it leads to.
pub fn replace(path: &Path, content: &[u8], mode: Mode) -> Result<()> {
    let folder = folder_of(path);
    let mode = match mode {
        Mode::Set(mode) => mode,
        Mode::KeepOr(mode) => std::fs::metadata(path).map_or(mode, |file| file.mode() & 0o7777),
    };
    let mut file = tempfile::Builder::new()
        .prefix(&temporary_prefix(path))
        .rand_bytes(RANDOM_LEN)
        .tempfile_in(folder)?;
    file.write_all(content)?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(folder)?.sync_all()
}

/// Removes what a process that was killed in the middle of [`replace`] has left beside the file:
/// regular files of this user's, named as it names them and nobody else. Answers those that it
/// removed, and those that it could not, with the reason.
pub fn remove_leftovers(path: &Path) -> (Vec<PathBuf>, Vec<(PathBuf, std::io::Error)>) {
    let (mut removed, mut failed) = (Vec::new(), Vec::new());
    for leftover in leftovers(path) {
        match std::fs::remove_file(&leftover) {
            Ok(()) => removed.push(leftover),
            Err(error) => failed.push((leftover, error)),
        }
    }
    (removed, failed)
}

fn leftovers(path: &Path) -> Vec<PathBuf> {
    let (prefix, own) = (temporary_prefix(path), geteuid().as_raw());
    let is_ours = |entry: &DirEntry| {
        let name = entry.file_name();
        let rest = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
        let named = rest.is_some_and(|rest| {
            rest.len() == RANDOM_LEN && rest.iter().all(u8::is_ascii_alphanumeric)
        });
        // Of a link, the link itself.
        named && entry.metadata().is_ok_and(|file| file.is_file() && file.uid() == own)
    };
    // A folder that cannot be read is told by the first write.
    let Ok(entries) = std::fs::read_dir(folder_of(path)) else { return Vec::new() };
    entries.flatten().filter(is_ours).map(|entry| entry.path()).collect()
}

/// How many random characters a temporary file's name ends with.
const RANDOM_LEN: usize = 6;

fn temporary_prefix(path: &Path) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".lbctl-");
    prefix
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_replaced_whole_with_the_rights_that_are_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mode = || std::fs::metadata(&path).unwrap().mode() & 0o7777;
        for (text, asked, wanted) in [
            ("a longer first text", Mode::KeepOr(0o640), 0o640),
            ("short", Mode::KeepOr(0o600), 0o640),
            ("", Mode::Set(0o644), 0o644),
        ] {
            replace(&path, text.as_bytes(), asked).unwrap();
            assert_eq!((std::fs::read_to_string(&path).unwrap().as_str(), mode()), (text, wanted));
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a leftover stayed");
        assert!(replace(Path::new("/no/such/folder/file"), b"", Mode::Set(0o600)).is_err());
    }

    #[test]
    fn what_a_killed_process_has_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let named = |name: &str| folder.path().join(name);
        let kept =
            ["state", "state.old", ".state.lbctl-toolong", ".other.lbctl-AbCd12", ".tmpAbCd12"];
        for name in kept.iter().chain(&[".state.lbctl-AbCd12"]) {
            std::fs::write(named(name), "1\n").unwrap();
        }
        std::fs::create_dir(named(".state.lbctl-folder")).unwrap();
        std::os::unix::fs::symlink(named("state"), named(".state.lbctl-linked")).unwrap();
        let (removed, failed) = remove_leftovers(&path);
        assert_eq!((removed, failed.len()), (vec![named(".state.lbctl-AbCd12")], 0));
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, kept.len() + 2);
        // As `replace` names it.
        let file = tempfile::Builder::new()
            .prefix(&temporary_prefix(&path))
            .rand_bytes(RANDOM_LEN)
            .tempfile_in(folder.path())
            .unwrap();
        assert_eq!(leftovers(&path), [file.path()]);
    }
}
