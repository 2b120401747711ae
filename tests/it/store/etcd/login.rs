//! TLS, certificates and passwords.

use std::time::Duration;

use lbctl::store::{ErrorKind, Txn};

use super::store;
use crate::store::conformance::{Observer, get, key, put};
use crate::support::etcd::{Etcd, Options, PASSWORD, USER};

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
        let mut observer = Observer::ready(&store, "").await;
        put(&store, "a", "1").await;
        assert_eq!(get(&store, "a").await.unwrap().value, "1", "{options:?}");
        assert_eq!(observer.next_change().await[0].key(), &key("a"));
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
    for url in [wrong_password, no_user, system_authorities] {
        let error = store(&url).await.get(&key("a")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{url}: {error}");
        assert!(error.hint().is_some(), "{error}");
        let commit = store(&url).await.commit(Txn::new().put(key("a"), "1")).await;
        assert_eq!(commit.unwrap_err().kind(), ErrorKind::Denied, "{url}");
    }
    // TLS 1.3 tells of a missing certificate when the request is on its way already, so that the
    // closed connection may be all that is seen.
    let error = store(&no_certificate).await.commit(Txn::new().put(key("a"), "1")).await;
    let error = error.unwrap_err();
    assert_ne!(error.kind(), ErrorKind::Indeterminate, "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("cert")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_ends_is_renewed() {
    let options = Options { password: true, ..Options::default() };
    let Some(etcd) = Etcd::start_with(1, options) else { return };
    let store = store(&etcd.url("lbctl")).await;
    let mut observer = Observer::ready(&store, "").await;
    put(&store, "k", "1").await;
    let mut root = etcd.client().await;
    // Ends every login of the user, as does the end of a token's time.
    root.user_change_password(USER, PASSWORD).await.unwrap();
    put(&store, "k", "2").await;
    let lease = store.grant(Duration::from_secs(5)).await.unwrap();
    etcd.client().await.user_change_password(USER, PASSWORD).await.unwrap();
    store.keep_alive(lease.id).await.unwrap();
    // Makes every login older than the rights.
    etcd.client().await.role_add("some").await.unwrap();
    put(&store, "k", "3").await;
    observer.catch_up(&store).await;
}
