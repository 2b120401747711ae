//! What the user is told when the file cannot be used.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use lbctl::error::CommandError;
use lbctl::store::{ErrorKind, Txn};
use rusqlite::{Connection, TransactionBehavior};

use super::{child, open, try_open};
use crate::store::conformance::{get, key, put};
use crate::support::{Process, program};

/// The error of opening a file: its kind, and all that its user reads.
async fn refusal(path: &Path) -> (ErrorKind, String) {
    let error = try_open(path.to_owned()).await.expect_err("it was opened");
    (error.kind(), CommandError::from(error).report())
}

#[tokio::test]
async fn a_file_that_is_no_database_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    let text = "not a database, but more than a hundred bytes of somebody's notes. ".repeat(20);
    std::fs::write(&path, &text).unwrap();
    let (kind, report) = refusal(&path).await;
    assert_eq!(kind, ErrorKind::Corrupt);
    assert!(report.contains("not a database") && report.contains("hint: name another"), "{report}");
    assert!(report.contains("notes.txt"), "{report}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn a_database_of_another_program_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let before = std::fs::read(&path).unwrap();
    let (kind, report) = refusal(&path).await;
    assert_eq!(kind, ErrorKind::Corrupt);
    assert!(report.contains("belongs to another program"), "{report}");
    assert!(std::fs::read(&path).unwrap() == before, "the file was changed");
}

#[tokio::test]
async fn a_database_of_a_newer_lbctl_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lbctl.db");
    put(&open(path.clone()).await, "k", "").await;
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let (kind, report) = refusal(&path).await;
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(report.contains("newer lbctl (format 7"), "{report}");
}

#[tokio::test]
async fn a_damaged_database_is_corrupt() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lbctl.db");
    put(&open(path.clone()).await, "k", vec![b'x'; 100_000]).await;
    let other = Connection::open(&path).unwrap();
    other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(other);
    let mut bytes = std::fs::read(&path).unwrap();
    // All but the header, which says that it is ours.
    bytes[200..].fill(0xa5);
    let damaged = folder.path().join("damaged.db");
    std::fs::write(&damaged, bytes).unwrap();
    let (kind, report) = refusal(&damaged).await;
    assert_eq!(kind, ErrorKind::Corrupt, "{report}");
    assert!(report.contains("hint: "), "{report}");
}

#[tokio::test]
async fn a_folder_is_no_database() {
    let folder = tempfile::tempdir().unwrap();
    let (kind, report) = refusal(folder.path()).await;
    assert_eq!(kind, ErrorKind::Denied);
    assert!(report.contains("name a database file in a folder"), "{report}");
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (kind, report) = refusal(&file.join("lbctl.db")).await;
    assert_eq!(kind, ErrorKind::Denied, "{report}");
}

#[tokio::test]
async fn the_file_is_its_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made/lbctl.db");
    put(&open(path.clone()).await, "k", "").await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.path().join("made")), 0o700);
    for file in ["lbctl.db", "lbctl.db-wal", "lbctl.db-shm", "lbctl.db-wake"] {
        assert_eq!(mode(&folder.path().join("made").join(file)), 0o600, "{file}");
    }
}

/// Opens a file in a process that has no more rights than the file's mode gives its owner: root's
/// own right to pass over modes is taken away.
fn open_by_mode(folder: &Path, database: &Path) -> String {
    let opener = child::command("opener", database);
    let mut command = if rustix::process::geteuid().is_root() {
        let Some(setpriv) = program("setpriv") else { return String::new() };
        let mut command = std::process::Command::new(setpriv);
        command.args(["--bounding-set", "-dac_override,-dac_read_search", "--"]);
        command.arg(opener.get_program()).args(opener.get_args());
        command.envs(opener.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    } else {
        opener
    };
    let mut child = Process::start("opener", folder, &mut command);
    assert!(child.wait().success(), "{}", child.tail());
    child.log()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_folders_without_access_are_denied() {
    let logs = tempfile::tempdir().unwrap();
    for (file_mode, folder_mode) in [(0o400, 0o700), (0o000, 0o700), (0o600, 0o500), (0o600, 0o000)]
    {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("lbctl.db");
        let store = open(database.clone()).await;
        put(&store, "k", "").await;
        drop(store);
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        // A closed database has no write-ahead log: it must be made again.
        for suffix in ["-wal", "-shm", "-wake"] {
            let path = folder.path().join(format!("lbctl.db{suffix}"));
            crate::support::eventually("the file to be closed", || {
                (suffix == "-wake" || !path.exists()).then_some(())
            });
        }
        std::fs::remove_file(folder.path().join("lbctl.db-wake")).unwrap();
        set(&database, file_mode);
        set(folder.path(), folder_mode);
        let place = logs.path().join(format!("{file_mode:o}-{folder_mode:o}"));
        std::fs::create_dir(&place).unwrap();
        let said = open_by_mode(&place, &database);
        set(folder.path(), 0o700);
        let right = said.contains("Denied") && said.contains("owner of the database file");
        assert!(right || said.is_empty(), "{file_mode:o} {folder_mode:o}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_held_too_long_is_unavailable_and_reads_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lbctl.db");
    let (store, reader) = (open(path.clone()).await, open(path.clone()).await);
    put(&store, "k", "old").await;
    let mut other = Connection::open(&path).unwrap();
    let lock = other.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let put_new = store.commit(Txn::new().put(key("k"), "new"));
    let (refused, read) = tokio::join!(put_new, get(&reader, "k"));
    assert_eq!(read.unwrap().value, "old");
    let error = refused.expect_err("written beside a lock");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(CommandError::from(error).report().contains("fuser"));
    drop(lock);
    put(&store, "k", "new").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_file_is_unavailable_until_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let (path, away) = (folder.path().join("lbctl.db"), folder.path().join("away"));
    let store = open(path.clone()).await;
    put(&store, "k", "v").await;
    std::fs::rename(&path, &away).unwrap();
    for result in [
        store.get(&key("k")).await.map(drop),
        store.commit(Txn::new().put(key("k"), "w")).await.map(drop),
    ] {
        let error = result.expect_err("used a file that nobody else sees");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(CommandError::from(error).report().contains("was removed"));
    }
    assert!(!path.exists(), "a new file was made in its place");
    std::fs::rename(&away, &path).unwrap();
    assert_eq!(get(&store, "k").await.unwrap().value, "v");
}
