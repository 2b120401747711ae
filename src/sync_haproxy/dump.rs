use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Replaces the file that HAProxy loads its servers' state from (`server-state-file` with
/// `load-server-state-from-file global`), so that a reader sees the old one or the new one whole.
pub async fn write(path: &Path, state: String) -> anyhow::Result<()> {
    let path: PathBuf = path.to_owned();
    let write = tokio::task::spawn_blocking(move || replace(&path, &state));
    write.await.context("writing the server state file was cut short")?
}

fn replace(path: &Path, state: &str) -> anyhow::Result<()> {
    let problem = || format!("cannot write the server state file {}", path.display());
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(problem)?;
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
    async fn a_missing_folder_is_named() {
        let error = write(Path::new("/no/such/state"), String::new()).await.unwrap_err();
        assert!(error.to_string().contains("/no/such/state"), "{error}");
    }
}
