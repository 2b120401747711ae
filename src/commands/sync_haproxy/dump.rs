use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::files::{self, Mode};

/// HAProxy often reads the file as another user.
const MODE: u32 = 0o644;

/// Replaces the file that HAProxy loads its servers' state from (`server-state-file` with
/// `load-server-state-from-file global`), so that a reader sees the old one or the new one whole.
pub async fn write(path: &Path, mut state: String) -> anyhow::Result<()> {
    let path: PathBuf = path.to_owned();
    if !state.ends_with('\n') {
        // HAProxy calls a file whose last line does not end corrupted.
        state.push('\n');
    }
    let write = tokio::task::spawn_blocking(move || {
        files::replace(&path, state.as_bytes(), Mode::Set(MODE))
            .with_context(|| format!("cannot write the server state file {}", path.display()))
    });
    write.await.context("writing the server state file was cut short")?
}

/// Removes what a process that was killed in the middle of [`write()`] has left beside the file.
pub async fn remove_leftovers(path: &Path) {
    let path: PathBuf = path.to_owned();
    let removing = tokio::task::spawn_blocking(move || files::remove_leftovers(&path));
    let (removed, failed) = match removing.await {
        Ok(done) => done,
        Err(error) => return tracing::warn!(%error, "half-written state files stay"),
    };
    for file in removed {
        tracing::info!(file = %file.display(), "removed a half-written state file");
    }
    for (file, error) in failed {
        tracing::warn!(file = %file.display(), %error, "a half-written state file stays");
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

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
