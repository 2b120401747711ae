//! This test program as another process on the same file.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lbctl::store::{Change, Mirror, SharedStore, Txn, WatchEvent};

use super::kills::commit_and_watch;
use super::{open, try_open};
use crate::store::conformance::{commit, key, prefix};
use crate::support::Process;

const ROLE: &str = "LBCTL_TEST_CHILD";
const DATABASE: &str = "LBCTL_TEST_DATABASE";

/// Starts a child in a role; its output is in its log.
pub fn start(role: &str, folder: &Path, database: &Path) -> Process {
    Process::start(role, folder, &mut command(role, database))
}

/// How a child in a role is started.
pub fn command(role: &str, database: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["store::sqlite::child::child", "--exact", "--ignored", "--nocapture"])
        .env(ROLE, role)
        .env(DATABASE, database);
    command
}

#[tokio::test]
#[ignore = "is started as a child by other tests"]
async fn child() {
    let Some(database) = std::env::var_os(DATABASE).map(PathBuf::from) else { return };
    match std::env::var(ROLE).unwrap().as_str() {
        "writer" => write_for_ever(open(database).await).await,
        "watcher" => watch_for_ever(open(database).await).await,
        "killed" => commit_and_watch(open(database).await).await,
        "holder" => hold_a_lease(open(database).await).await,
        "opener" => match try_open(database).await {
            Ok(_) => say("opened"),
            Err(error) => say(&format!("{:?} {error}; {:?}", error.kind(), error.hint())),
        },
        role => panic!("no role {role}"),
    }
}

/// Commits pairs and says each that was acknowledged.
async fn write_for_ever(store: SharedStore) {
    let me = std::process::id();
    for number in 0.. {
        let name = |side| key(&format!("pairs/{me}/{number:06}/{side}"));
        let large = vec![b'x'; 20_000];
        commit(&store, Txn::new().put(name("left"), large.clone()).put(name("right"), large)).await;
        say(&format!("committed pairs/{me}/{number:06}"));
    }
}

/// Says when each change of a watched key was heard.
async fn watch_for_ever(store: SharedStore) {
    let mut mirror = Mirror::new(store.watch(&prefix("times")).await.unwrap());
    mirror.ready().await;
    say("ready");
    loop {
        let WatchEvent::Changed(changes) = mirror.changed().await else { continue };
        for change in changes {
            let Change::Put(entry) = change else { continue };
            say(&format!("heard {} {}", entry.key.last(), monotonic_micros()));
        }
    }
}

async fn hold_a_lease(store: SharedStore) {
    let lease = store.grant(Duration::from_secs(600)).await.unwrap();
    commit(&store, Txn::new().put_leased(key("held"), "", lease.id)).await;
    say("holding");
    std::future::pending::<()>().await;
}

/// The clock that all processes of a host share, without jumps.
pub fn monotonic_micros() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}
