//! Commands that only look: they make nothing and end nothing.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Output};
use std::time::Duration;

use lbctl::store::Txn;
use rusqlite::Connection;

use super::open;
use crate::store::conformance::{commit, get, key, put};
use crate::support::{SmallDisk, lbctl};

fn run(database: &std::path::Path, args: &[&str]) -> Output {
    let url = format!("sqlite:{}", database.display());
    let mut command = Command::new(lbctl());
    command.args(args).env("LBCTL_STORE_URL", url).env("HOME", "/nonexistent");
    command.output().unwrap()
}

#[test]
fn a_look_makes_no_store() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("new/lbctl.db");
    let looks: [(&[&str], i32); 8] = [
        (&["status"], 0),
        (&["store", "list"], 0),
        (&["store", "export"], 0),
        (&["store", "get", "k"], 1),
        (&["store", "put", "k", "v", "--dry-run"], 0),
        (&["store", "delete", "k", "--dry-run"], 1),
        (&["store", "backup", "/nonexistent/file"], 1),
        (&["discover", "--backend", "web", "--source", "registry", "--slots", "3", "--dry-run"], 0),
    ];
    for (args, code) in looks {
        let output = run(&database, args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        assert!(!folder.path().join("new").exists(), "{args:?} made a store");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("there is no store"), "{args:?}: {said}");
    }
}

/// systemd-nspawn shows its containers another boot id than the host's.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_from_another_boot_ends_no_leases() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("lbctl.db");
    let store = open(database.clone()).await;
    let lease = store.grant(Duration::from_secs(600)).await.unwrap();
    commit(&store, Txn::new().put_leased(key("leased"), "", lease.id)).await;
    let other = Connection::open(&database).unwrap();
    other.execute("UPDATE meta SET boot = 'that of the host'", []).unwrap();
    let file = folder.path().join("lines");
    std::fs::write(&file, r#"{"key":"imported","value":""}"#).unwrap();
    for args in [
        &["status"][..],
        &["store", "list"],
        &["store", "export"],
        &["store", "get", "leased"],
        &["store", "put", "k", "v"],
        &["store", "delete", "k"],
        &["store", "import", file.to_str().unwrap()],
        &["store", "backup", folder.path().join("backup").to_str().unwrap()],
    ] {
        let output = run(&database, args);
        assert!(output.status.success(), "{args:?}: {output:?}");
    }
    assert!(get(&store, "imported").await.is_some());
    let boot: String = other.query_row("SELECT boot FROM meta", [], |row| row.get(0)).unwrap();
    assert_eq!(boot, "that of the host");
    assert!(get(&store, "leased").await.is_some(), "the host's lease was ended");
    store.keep_alive(lease.id).await.unwrap();
}

/// A time namespace has a boot clock of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_from_another_time_ends_no_leases() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("lbctl.db");
    let store = open(database.clone()).await;
    let lease = store.grant(Duration::from_secs(600)).await.unwrap();
    commit(&store, Txn::new().put_leased(key("leased"), "", lease.id)).await;
    let mut unshare = Command::new("unshare");
    unshare.args(["--time", "--boottime", "864000", "--fork", "--"]).arg(lbctl());
    unshare
        .args(["store", "list"])
        .env("LBCTL_STORE_URL", format!("sqlite:{}", database.display()));
    let output = unshare.output().unwrap();
    if !output.status.success() {
        eprintln!("skipped: no time namespaces here: {output:?}");
        return;
    }
    assert!(String::from_utf8_lossy(&output.stdout).contains("leased"), "{output:?}");
    assert!(get(&store, "leased").await.is_some(), "the lease was ended");
}

#[test]
fn a_store_url_that_is_not_utf_8_is_a_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let url = [b"sqlite:", folder.path().as_os_str().as_bytes(), b"/x\xff.db"].concat();
    let url = OsStr::from_bytes(&url);
    let variable =
        Command::new(lbctl()).arg("status").env("LBCTL_STORE_URL", url).output().unwrap();
    let said = String::from_utf8(variable.stderr).unwrap();
    assert_eq!(variable.status.code(), Some(78), "{said}");
    assert!(said.contains("LBCTL_STORE_URL") && said.contains("not UTF-8"), "{said}");
    let flag = Command::new(lbctl()).arg("status").arg("--store").arg(url).output().unwrap();
    let said = String::from_utf8(flag.stderr).unwrap();
    assert_eq!(flag.status.code(), Some(2), "{said}");
    assert!(said.contains("UTF-8"), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_row_spoils_no_listing_and_no_watch() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("lbctl.db");
    let store = open(database.clone()).await;
    let mut early = lbctl::store::Mirror::new(store.watch(&"".parse().unwrap()).await.unwrap());
    early.ready().await;
    put(&store, "before", "").await;
    let other = Connection::open(&database).unwrap();
    for (key, value) in [
        ("'lbctl/a//b'", "x''"),
        ("CAST(x'6c6263746c2f63ff' AS TEXT)", "x''"),
        ("'lbctl/large'", "zeroblob(300000)"),
    ] {
        other
            .execute_batch(&format!(
                "BEGIN IMMEDIATE; UPDATE meta SET revision = revision + 1;
                 INSERT INTO entries SELECT {key}, {value}, revision, revision, NULL FROM meta;
                 INSERT INTO changes SELECT revision, {key}, {value}, revision, NULL FROM meta;
                 COMMIT;"
            ))
            .unwrap();
    }
    put(&store, "later", "").await;
    while !early.entries().contains_key(&key("later")) {
        early.changed().await;
    }
    let mut late = lbctl::store::Mirror::new(store.watch(&"".parse().unwrap()).await.unwrap());
    late.ready().await;
    assert!(late.stale().is_none() && early.stale().is_none());
    for name in ["before", "later"] {
        assert!(late.entries().contains_key(&key(name)));
        assert!(get(&store, name).await.is_some());
    }
    let output = run(&database, &["store", "list"]);
    let (stdout, said) = (output.stdout, String::from_utf8(output.stderr).unwrap());
    assert!(String::from_utf8(stdout).unwrap().contains("later"));
    assert!(said.contains("left out"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_full_recovers() {
    let Some(disk) = SmallDisk::mount() else { return };
    let store = open(disk.path().join("lbctl.db")).await;
    let mut mirror = lbctl::store::Mirror::new(store.watch(&"".parse().unwrap()).await.unwrap());
    mirror.ready().await;
    put(&store, "kept", "1").await;
    let lease = store.grant(Duration::from_secs(600)).await.unwrap();
    std::fs::write(disk.path().join("ballast"), vec![0; 1_000_000]).unwrap();
    let fill = || async {
        for number in 0..40 {
            let large = Txn::new().put(key(&format!("large/{number}")), vec![b'x'; 100_000]);
            if let Err(error) = store.commit(large).await {
                return error;
            }
        }
        panic!("the disk takes everything");
    };
    let error = fill().await;
    assert!(error.kind().is_transient(), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("make room")), "{error:?}");
    assert_eq!(get(&store, "kept").await.unwrap().value, "1");
    std::fs::remove_file(disk.path().join("ballast")).unwrap();
    put(&store, "after", "2").await;
    store.keep_alive(lease.id).await.unwrap();
    while !mirror.entries().contains_key(&key("after")) {
        mirror.changed().await;
    }
}
