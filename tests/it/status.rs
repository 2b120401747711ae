//! `lbctl status` on a store that the test fills.

use std::path::Path;
use std::process::{Command, Output};

use lbctl::model::{BackendName, Timestamp, keys};
use lbctl::store::{Commit, SharedStore, Txn, open};
use serde_json::{Value, json};

use super::support::world::put_held;
use super::support::{Process, lbctl};

fn url(dir: &Path) -> String {
    format!("sqlite:{}", dir.join("store.db").display())
}

fn status(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(lbctl());
    command.args(["--store", &url(dir), "status"]).args(args);
    command
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

async fn put(store: &SharedStore, key: lbctl::store::Key, value: Value) {
    let txn = Txn::new().put(key, value.to_string().into_bytes());
    assert!(matches!(store.commit(txn).await.unwrap(), Commit::Committed(_)));
}

fn slot(id: &str, port: u16) -> Value {
    let long_ago = Timestamp::UNIX_EPOCH;
    json!({
        "id": id, "address": format!("127.0.0.1:{port}"), "state": "ready",
        "since": long_ago, "started": long_ago,
    })
}

async fn filled(dir: &Path) -> SharedStore {
    let store = open(&url(dir).parse().unwrap()).await.unwrap();
    let web: BackendName = "web".parse().unwrap();
    let spec = json!({
        "slots": 4, "ramp": {"min": 10, "max": 100, "step": 10, "interval": "10s"},
        "drain_deadline": "30s", "rest": "10s", "unplaced": ["app-9"],
    });
    put(&store, keys::spec(&web), spec).await;
    put(&store, keys::slot(&web, 1.try_into().unwrap()), slot("app-1", 8001)).await;
    let report = json!({
        "name": "lb-1", "pid": 7, "version": "2.6.12", "at": Timestamp::now(),
        "backends": {"web": {"applied": 2, "converged": true, "drift": 0}},
    });
    put_held(&*store, keys::haproxy(&"lb-1".parse().unwrap()), report.to_string()).await;
    store
}

#[tokio::test]
async fn the_table_is_plain_in_a_pipe_and_names_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let _store = filled(dir.path()).await;
    let shown = text(&status(dir.path(), &[]).output().unwrap());
    assert!(
        shown.contains("backend web: 1 ready, 0 draining, 0 resting, 3 of 4 slots free"),
        "{shown}"
    );
    assert!(shown.contains("no slot is free for 1: app-9"), "{shown}");
    assert!(shown.contains("converged"), "{shown}");
    assert!(!shown.contains('\x1b'), "colours in a pipe: {shown:?}");
}

/// The memory of a slot and a leader's word belong to a table as its slots do.
#[tokio::test]
async fn every_key_of_a_table_is_known_and_one_that_is_damaged_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let web: BackendName = "web".parse().unwrap();
    put(&store, keys::confirmed(&web), json!({"life": "", "token": 1})).await;
    let left = json!({"id": "x", "address": "127.0.0.1:9", "at": Timestamp::UNIX_EPOCH});
    let removed = keys::removals(&web, 3.try_into().unwrap());
    put(&store, removed.clone(), json!({"servers": [left]})).await;
    let shown = || text(&status(dir.path(), &[]).output().unwrap());
    assert!(!shown().contains("unreadable"), "{}", shown());
    put(&store, removed.clone(), json!("?")).await;
    assert!(shown().contains(&format!("unreadable {removed}")), "{}", shown());
}

#[tokio::test]
async fn json_tells_a_program_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let read = || -> Value {
        serde_json::from_str(&text(&status(dir.path(), &["--output", "json"]).output().unwrap()))
            .unwrap()
    };
    let before = read();
    assert_eq!(before["backends"][0]["slots"][0]["weight"], 100);
    assert_eq!(before["haproxies"][0]["converged"], true);
    put(&store, keys::slot(&"web".parse().unwrap(), 2.try_into().unwrap()), slot("app-2", 8002))
        .await;
    let after = read();
    assert_eq!(after["haproxies"][0]["converged"], false);
    assert_eq!(after["haproxies"][0]["slots_behind"], 1);
}

#[tokio::test]
async fn watch_shows_a_change_when_it_comes_and_ends_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let mut watch = Process::start("status", dir.path(), &mut status(dir.path(), &["--watch"]));
    watch.wait_for_log("app-1");
    assert!(!watch.log().contains("app-2"));
    put(&store, keys::slot(&"web".parse().unwrap(), 2.try_into().unwrap()), slot("app-2", 8002))
        .await;
    watch.wait_for_log("app-2");
    watch.signal("INT");
    assert_eq!(watch.wait().code(), Some(0), "{}", watch.tail());
}

#[test]
fn an_empty_store_says_what_to_do_next() {
    let dir = tempfile::tempdir().unwrap();
    let shown = text(&status(dir.path(), &[]).output().unwrap());
    assert_eq!(shown, "the store holds no table yet: run `lbctl discover` to make one\n");
}
