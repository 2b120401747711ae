//! The etcd backend where etcd itself is the point: logins, fail-over, compaction, restarts. What
//! every store must do is in the conformance suite.

use std::time::Duration;

use lbctl::store::{Commit, ErrorKind, Key, Prefix, SharedStore, Txn, Watch, WatchEvent, open};

use crate::support::DEADLINE;
use crate::support::etcd::{Etcd, Options};

#[tokio::test(flavor = "multi_thread")]
async fn works_with_every_kind_of_login() {
    for options in [
        Options { tls: true, ..Options::default() },
        Options { mutual_tls: true, ..Options::default() },
        Options { password: true, ..Options::default() },
        Options { mutual_tls: true, password: true, ..Options::default() },
    ] {
        let Some(etcd) = Etcd::start_with(1, options) else { return };
        let store = store(&etcd.url("lbctl")).await;
        let mut watch = store.watch(&Prefix::root()).await.unwrap();
        assert!(matches!(next(&mut watch).await, WatchEvent::Reset(l) if l.entries.is_empty()));
        put(&store, "a", "1").await;
        assert_eq!(value(&store, "a").await.as_deref(), Some("1"), "{options:?}");
        assert_eq!(changed(&mut watch).await, ["a"]);
        let lease = store.grant(Duration::from_secs(5)).await.unwrap();
        store.keep_alive(lease.id).await.unwrap();
        store.revoke(lease.id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_login_is_denied_with_a_hint() {
    let options = Options { mutual_tls: true, password: true, ..Options::default() };
    let Some(etcd) = Etcd::start_with(1, options) else { return };
    let right = etcd.url("lbctl");
    let wrong_password = right.replace("root:", "root:not-");
    let no_user = right
        .replace(right.split_once("//").unwrap().1.split_once('@').unwrap().0, "")
        .replace("//@", "//");
    let no_certificate = right.split_once("&cert").unwrap().0.to_owned();
    let system_authorities = right.replace("ca=", "cert=").split_once('?').unwrap().0.to_owned();
    for url in [wrong_password, no_user, no_certificate, system_authorities] {
        let error = store(&url).await.get(&key("a")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{url}: {error}");
        assert!(error.hint().is_some(), "{error}");
        let commit = store(&url).await.commit(Txn::new().put(key("a"), "1")).await;
        assert_eq!(commit.unwrap_err().kind(), ErrorKind::Denied, "{url}");
    }
}

async fn store(url: &str) -> SharedStore {
    open(&url.parse().unwrap()).await.unwrap()
}

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

async fn put(store: &SharedStore, name: &str, value: &str) {
    let commit = store.commit(Txn::new().put(key(name), value.to_owned())).await.unwrap();
    assert!(matches!(commit, Commit::Committed(_)));
}

async fn value(store: &SharedStore, name: &str) -> Option<String> {
    let entry = store.get(&key(name)).await.unwrap()?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}

async fn next(watch: &mut Watch) -> WatchEvent {
    tokio::time::timeout(DEADLINE, watch.next_event()).await.expect("the watch is silent")
}

/// The keys of the next commit that the watch hears of.
async fn changed(watch: &mut Watch) -> Vec<String> {
    match next(watch).await {
        WatchEvent::Changed(changes) => changes.iter().map(|c| c.key().to_string()).collect(),
        other => panic!("not a change: {other:?}"),
    }
}
