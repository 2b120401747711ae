use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Replaces the file that HAProxy loads its servers' state from (`server-state-file` with
/// `load-server-state-from-file global`), so that a reader sees the old one or the new one whole.
pub async fn write(path: &Path, state: String) -> anyhow::Result<()> {
    let path: PathBuf = path.to_owned();
    let write = tokio::task::spawn_blocking(move || replace(&path, &state));
    write.await.context("writing the server state file was cut short")?
}

/// Removes what a process that was killed in the middle of [`write()`] has left beside the file.
pub async fn remove_leftovers(path: &Path) {
    let path: PathBuf = path.to_owned();
    let removed = tokio::task::spawn_blocking(move || {
        for leftover in leftovers(&path) {
            match std::fs::remove_file(&leftover) {
                Ok(()) => {
                    tracing::info!(file = %leftover.display(), "removed a half-written state file");
                }
                Err(error) => {
                    tracing::warn!(file = %leftover.display(), %error, "a half-written state file stays");
                }
            }
        }
    });
    if let Err(error) = removed.await {
        tracing::warn!(%error, "half-written state files stay");
    }
}

/// Regular files of this user's, named as [`replace`] names them and nobody else.
fn leftovers(path: &Path) -> Vec<PathBuf> {
    let (prefix, own) = (temporary_prefix(path), rustix::process::geteuid().as_raw());
    let is_ours = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        let rest = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
        let named = rest.is_some_and(|rest| {
            rest.len() == RANDOM_LEN && rest.iter().all(u8::is_ascii_alphanumeric)
        });
        // Of a link, the link itself.
        named && entry.metadata().is_ok_and(|file| file.is_file() && file.uid() == own)
    };
    // One that cannot be read is told by the first write.
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

/// A state that HAProxy may load, and the backends whose servers it would not load back as they are.
///
/// HAProxy takes a server's address from the file only where the configuration has a name for it and
/// `init-addr last`; of one that is configured by address it takes all but the address (seen on 2.6
/// to 3.4), so that it would be ready somewhere else. And it adds a port of the file to the client's
/// where the configuration has no port. Such rows of `backends` are left out: the server begins as it
/// is configured, which is disabled.
pub fn loadable(state: &str, backends: &BTreeSet<&str>) -> (String, BTreeSet<String>) {
    let mut left_out = BTreeSet::new();
    let mut kept = String::with_capacity(state.len());
    let without_port = without_port(state);
    for line in state.lines() {
        match Row::of(line).filter(|row| backends.contains(row.backend)) {
            Some(row) if row.name == "-" => {
                left_out.insert(row.backend.to_owned());
            }
            Some(row) if row.port != "0" && without_port.contains(&row.family()) => {}
            _ => {
                kept.push_str(line);
                kept.push('\n');
            }
        }
    }
    (kept, left_out)
}

/// One server of "show servers state", as far as its line in the file depends on it.
struct Row<'a> {
    backend: &'a str,
    server: &'a str,
    name: &'a str,
    port: &'a str,
}

impl<'a> Row<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let fields: Vec<&str> = line.split(' ').collect();
        let field = |column: usize| fields.get(column).copied();
        let (backend, server) = (field(BACKEND)?, field(SERVER)?);
        Some(Self { backend, server, name: field(NAME)?, port: field(PORT)? })
    }

    /// What the servers of one `server-template` line have in common.
    fn family(&self) -> (&'a str, &'a str) {
        (self.backend, self.server.trim_end_matches(|c: char| c.is_ascii_digit()))
    }
}

/// The families that have a server without a port: their line has none.
fn without_port(state: &str) -> BTreeSet<(&str, &str)> {
    let rows = state.lines().filter_map(Row::of);
    rows.filter(|row| row.port == "0").map(|row| row.family()).collect()
}

/// A state without what moves by itself: the seconds since a server's last change.
pub fn lasting(state: &str) -> String {
    let mut lasting = String::with_capacity(state.len());
    for line in state.lines() {
        for (column, field) in line.split(' ').enumerate() {
            if column != SINCE_LAST_CHANGE {
                lasting.push_str(field);
                lasting.push(' ');
            }
        }
        lasting.push('\n');
    }
    lasting
}

/// Columns of "show servers state" (management guide).
const BACKEND: usize = 1;
const SERVER: usize = 3;
const SINCE_LAST_CHANGE: usize = 9;
const NAME: usize = 17;
const PORT: usize = 18;

fn replace(path: &Path, state: &str) -> anyhow::Result<()> {
    let problem = || format!("cannot write the server state file {}", path.display());
    let mut file = tempfile::Builder::new()
        .prefix(&temporary_prefix(path))
        .rand_bytes(RANDOM_LEN)
        .tempfile_in(folder_of(path))
        .with_context(problem)?;
    file.write_all(state.as_bytes()).with_context(problem)?;
    if !state.ends_with('\n') {
        // HAProxy calls a file whose last line does not end corrupted.
        file.write_all(b"\n").with_context(problem)?;
    }
    // HAProxy often reads it as another user.
    let readable = std::fs::Permissions::from_mode(0o644);
    file.as_file().set_permissions(readable).with_context(problem)?;
    file.as_file().sync_all().with_context(problem)?;
    file.persist(path).with_context(problem)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_file_is_replaced_whole_and_readable_for_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        for text in ["a longer first state\n", "short"] {
            write(&path, text.to_owned()).await.unwrap();
            let written = std::fs::read_to_string(&path).unwrap();
            assert_eq!(written, text.trim_end().to_owned() + "\n");
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a leftover stayed");
    }

    #[tokio::test]
    async fn what_a_killed_process_has_left_is_removed_and_nothing_else() {
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
        remove_leftovers(&path).await;
        assert!(!named(".state.lbctl-AbCd12").exists());
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

    #[test]
    fn a_server_whose_address_would_not_be_loaded_is_left_out() {
        let row = |backend: &str, name: &str| {
            format!("3 {backend} 1 s1 10.0.0.1 2 4 100 1 2 6 3 3 6 0 0 0 {name} 80 - 0 0 - - 0\n")
        };
        let rows = [row("app", "-"), row("api", "unused.invalid"), row("other", "-")];
        let state = format!("1\n# header\n{}", rows.concat());
        let (kept, left_out) = loadable(&state, &["app", "api"].into());
        assert_eq!(kept, format!("1\n# header\n{}{}", rows[1], rows[2]));
        assert_eq!(left_out, ["app".to_owned()].into());
    }

    #[test]
    fn a_port_that_would_be_added_to_the_clients_is_left_out() {
        let row = |server: &str, port: u16| {
            format!("3 app 1 {server} 10.0.0.1 2 4 1 1 2 6 3 3 6 0 0 0 unused.invalid {port} - 0\n")
        };
        let rows = [row("srv1", 18080), row("srv2", 0), row("web1", 80)];
        let (kept, left_out) = loadable(&rows.concat(), &["app"].into());
        assert_eq!((kept, left_out.len()), (rows[1..].concat(), 0));
    }

    #[test]
    fn only_the_time_may_pass_without_another_file() {
        let row =
            |since: u32, up: u8| format!("1\n3 app 1 s1 127.0.0.1 {up} 0 100 1 {since} 6 3 4\n");
        assert_eq!(lasting(&row(1, 2)), lasting(&row(77, 2)));
        assert_ne!(lasting(&row(1, 0)), lasting(&row(1, 2)));
    }

    #[tokio::test]
    async fn a_missing_folder_is_named() {
        let error = write(Path::new("/no/such/state"), String::new()).await.unwrap_err();
        assert!(error.to_string().contains("/no/such/state"), "{error}");
    }
}
