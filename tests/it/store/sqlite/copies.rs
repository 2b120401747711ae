//! A database that is replaced by a copy, with and without processes on it.

use std::path::{Path, PathBuf};
use std::process::Command;

use lbctl::store::{ErrorKind, Mirror, StoreLife, Txn};
use rusqlite::Connection;
use tempfile::TempDir;

use super::open;
use super::processes::check_integrity;
use crate::store::conformance::{get, key, names, put};
use crate::support::{DEADLINE, Process, eventually, lbctl};

/// A database, and the command on it.
struct Host {
    folder: TempDir,
}

impl Host {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn database(&self) -> PathBuf {
        self.path("lbctl.db")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(lbctl());
        let url = format!("sqlite:{}", self.database().display());
        command.args(["store", "--store", &url]).args(args).env("HOME", self.folder.path());
        command
    }

    /// Runs to the end; answers the exit code and all that was said.
    fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = self.command(args).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let (code, said) = self.run(args);
        assert_eq!(code, Some(0), "{args:?}: {said}");
        said
    }

    /// A key's value alone.
    #[track_caller]
    fn value(&self, key: &str) -> String {
        String::from_utf8(self.command(&["get", key]).output().unwrap().stdout).unwrap()
    }

    /// A process that has the database open and hears of every change.
    fn watcher(&self, name: &str) -> Process {
        let mut watcher = Process::start(name, self.folder.path(), &mut self.command(&["watch"]));
        watcher.wait_for_log("reset");
        watcher
    }

    fn kept_logs(&self) -> usize {
        let files = std::fs::read_dir(self.folder.path()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("lbctl.db-wal.replaced-")).count()
    }
}

/// How a copy comes about.
#[derive(Debug, Clone, Copy)]
enum Made {
    /// Bytes of the main file, once it has everything.
    Cp,
    /// A tool's, as `.backup` and `VACUUM INTO` write them.
    Tool,
    Lbctl,
}

impl Made {
    const ALL: [Self; 3] = [Self::Cp, Self::Tool, Self::Lbctl];

    fn make(self, host: &Host, copy: &Path) {
        match self {
            Self::Cp => _ = std::fs::copy(host.database(), copy).unwrap(),
            Self::Tool => {
                let source = Connection::open(host.database()).unwrap();
                source.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
            }
            Self::Lbctl => _ = host.ok(&["backup", copy.to_str().unwrap()]),
        }
    }
}

/// How it is put in place.
#[derive(Debug, Clone, Copy)]
enum Put {
    Cp,
    Mv,
    RmCp,
    Restore,
}

impl Put {
    const ALL: [Self; 4] = [Self::Cp, Self::Mv, Self::RmCp, Self::Restore];

    fn put(self, host: &Host, copy: &Path) {
        let database = host.database();
        match self {
            Self::Cp => _ = std::fs::copy(copy, database).unwrap(),
            Self::Mv => std::fs::rename(copy, database).unwrap(),
            Self::RmCp => {
                std::fs::remove_file(&database).unwrap();
                std::fs::copy(copy, database).unwrap();
            }
            Self::Restore => _ = host.ok(&["restore", copy.to_str().unwrap()]),
        }
    }
}

/// The whole database as a process alone on it finds it.
fn judge(host: &Host, what: &str) {
    assert_eq!(host.value("a"), "old", "{what}");
    assert_eq!(host.run(&["get", "b"]).0, Some(1), "{what}: a later key is there");
    check_integrity(&host.database());
}

#[test]
fn a_copy_put_in_place_after_a_kill_holds_as_it_is() {
    for made in Made::ALL {
        for how in Put::ALL {
            let what = format!("{made:?} {how:?}");
            let (host, copy) = (Host::new(), TempDir::new().unwrap());
            let copy = copy.path().join("copy.db");
            host.ok(&["put", "a", "old"]);
            made.make(&host, &copy);
            let mut watcher = host.watcher("watcher");
            host.ok(&["put", "a", "new"]);
            host.ok(&["put", "b", "new"]);
            watcher.kill();
            assert!(host.path("lbctl.db-wal").metadata().unwrap().len() > 0, "no log is left");
            how.put(&host, &copy);
            judge(&host, &what);
            host.ok(&["put", "c", "after"]);
            assert_eq!(host.value("c"), "after", "{what}");
            // A restore has the log copied first, into the database that it keeps.
            let kept = usize::from(!matches!(how, Put::Restore));
            assert_eq!(host.kept_logs(), kept, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_put_in_place_under_running_processes_is_taken_up_by_all() {
    for made in Made::ALL {
        for how in Put::ALL {
            let what = format!("{made:?} {how:?}");
            let (host, copy) = (Host::new(), TempDir::new().unwrap());
            let copy = copy.path().join("copy.db");
            host.ok(&["put", "a", "old"]);
            made.make(&host, &copy);
            let watchers = [host.watcher("one"), host.watcher("two")];
            // Two in one process: they share SQLite's locks.
            let (store, second) = (open(host.database()).await, open(host.database()).await);
            let mut mirror = Mirror::new(store.watch(&"".parse().unwrap()).await.unwrap());
            mirror.ready().await;
            let life = mirror.life().clone();
            put(&store, "a", "new").await;
            put(&second, "b", "new").await;
            let before = store.list(&"".parse().unwrap()).await.unwrap().revision;
            while !mirror.entries().contains_key(&key("b")) {
                mirror.changed().await;
            }
            let cloned = (store.clone(), second.clone());
            tokio::task::spawn_blocking({
                let (folder, copy) = (host, copy.clone());
                move || {
                    how.put(&folder, &copy);
                    folder
                }
            })
            .await
            .map(|host| (host, cloned))
            .map(|(host, (store, second))| Checked { host, store, second })
            .unwrap()
            .check(&mut mirror, &life, before.0, &what)
            .await;
            drop(watchers);
        }
    }
}

struct Checked {
    host: Host,
    store: lbctl::store::SharedStore,
    second: lbctl::store::SharedStore,
}

impl Checked {
    async fn check(self, mirror: &mut Mirror, life: &StoreLife, before: u64, what: &str) {
        let Self { host, store, second } = self;
        let healed = async {
            while mirror.entries().contains_key(&key("b")) || mirror.stale().is_some() {
                mirror.changed().await;
            }
        };
        tokio::time::timeout(DEADLINE, healed).await.unwrap_or_else(|_| panic!("{what}: no Reset"));
        assert_eq!(mirror.entries()[&key("a")].value, "old", "{what}");
        assert!(life.is_other(mirror.life()), "{what}: it passes for the same life");
        assert!(mirror.revision().0 > before, "{what}: revisions are given out twice");
        assert_eq!(get(&second, "a").await.unwrap().value, "old", "{what}");
        put(&store, "c", "after").await;
        put(&second, "d", "after").await;
        assert_eq!(names(&second, "").await, ["a", "c", "d"], "{what}");
        host.ok(&["put", "e", "after"]);
        assert_eq!(names(&store, "").await, ["a", "c", "d", "e"], "{what}");
        check_integrity(&host.database());
        for name in ["one", "two"] {
            let log = host.path(&format!("{name}.log"));
            eventually(&format!("{what}: watcher {name} to hear of it"), || {
                let said = std::fs::read_to_string(&log).unwrap();
                (said.contains("  e  after")).then_some(())
            });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_emptied_is_unavailable_until_a_copy_is_there() {
    let host = Host::new();
    let store = open(host.database()).await;
    put(&store, "a", "old").await;
    let copy = host.path("copy.db");
    assert!(Command::new(lbctl()).arg("--version").output().unwrap().status.success());
    Made::Tool.make(&host, &copy);
    std::fs::File::create(host.database()).unwrap();
    let error = store.commit(Txn::new().put(key("b"), "x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.hint().unwrap().contains("lbctl store restore"), "{error:?}");
    assert_eq!(std::fs::metadata(host.database()).unwrap().len(), 0, "something was written");
    std::fs::copy(&copy, host.database()).unwrap();
    assert_eq!(get(&store, "a").await.unwrap().value, "old");
}

/// Another program that has the log copied changes the main file, and nothing of what is stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_by_another_program_is_no_replacement() {
    let host = Host::new();
    let store = open(host.database()).await;
    put(&store, "a", "1").await;
    let listing = store.list(&"".parse().unwrap()).await.unwrap();
    let other = Connection::open(host.database()).unwrap();
    other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    put(&store, "b", "2").await;
    let after = store.list(&"".parse().unwrap()).await.unwrap();
    assert_eq!(after.life, listing.life);
    assert_eq!(after.revision.0, listing.revision.0 + 1);
    assert_eq!(host.kept_logs(), 0);
}

#[test]
fn a_clean_end_leaves_everything_in_the_file_alone() {
    let host = Host::new();
    host.ok(&["put", "a", "0"]);
    let mut watcher = host.watcher("watcher");
    host.ok(&["put", "a", "1"]);
    watcher.signal("TERM");
    watcher.wait();
    // `store watch` ends by the signal itself; the next to close is the last one.
    host.ok(&["put", "b", "2"]);
    assert!(!host.path("lbctl.db-wal").exists(), "the log was left behind");
    let alone = host.path("alone.db");
    std::fs::copy(host.database(), &alone).unwrap();
    let alone = Connection::open(alone).unwrap();
    let keys: i64 = alone.query_row("SELECT count(*) FROM entries", [], |row| row.get(0)).unwrap();
    assert_eq!(keys, 2);
}

#[test]
fn a_restore_is_checked_first_and_keeps_what_was_there() {
    let host = Host::new();
    let backup = host.path("backup.db");
    let backup = backup.to_str().unwrap();
    host.ok(&["put", "a", "old"]);
    assert!(host.ok(&["backup", backup]).contains("wrote 1 key of revision 1"));
    host.ok(&["put", "b", "new"]);
    let said = host.ok(&["restore", backup, "--dry-run"]);
    assert!(said.contains("would restore 1 key of revision 1"), "{said}");
    assert_eq!(host.value("b"), "new");
    let notes = host.path("notes");
    std::fs::write(&notes, "no database, but more than a hundred bytes".repeat(30)).unwrap();
    for bad in [notes.to_str().unwrap(), "/nonexistent", host.database().to_str().unwrap()] {
        let (code, said) = host.run(&["restore", bad]);
        assert_ne!(code, Some(0), "{bad}: {said}");
        assert_eq!(host.value("b"), "new");
    }
    let (code, said) = host.run(&["backup", host.database().to_str().unwrap()]);
    assert_eq!(code, Some(78), "{said}");
    host.ok(&["restore", backup]);
    assert_eq!(host.run(&["get", "b"]).0, Some(1));
    host.ok(&["restore", host.path("lbctl.db-before-restore").to_str().unwrap()]);
    assert_eq!(host.value("b"), "new");
}

#[test]
fn a_store_that_is_no_file_is_not_backed_up_here() {
    for (url, about) in
        [("etcd://127.0.0.1:1", "etcdctl snapshot"), ("dynamodb://table", "DynamoDB")]
    {
        for command in ["backup", "restore"] {
            let args = ["store", "--store", url, command, "file"];
            let output = Command::new(lbctl()).args(args).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(78), "{said}");
            assert!(said.contains(about), "{said}");
        }
    }
}
