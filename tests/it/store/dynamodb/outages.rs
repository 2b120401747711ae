//! Answers that are lost, and what is counted and said.

use std::time::{Duration, Instant};

use lbctl::store::{Commit, ErrorKind, Guard, Store, Txn, WatchEvent, dynamodb};

use super::Dynamo;
use crate::store::conformance::{Backend as _, Observer, commit, get, key, put};
use crate::support::eventually_async;
use crate::support::moto::config;
use crate::support::proxy::Mode;

/// A commit whose answer never comes is found in the table once the way is whole again, within the
/// same call.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_found_to_be_done() {
    let Some(dynamo) = Dynamo::start().await else { return };
    let (store, witness) = (dynamo.open().await, dynamo.client().await);
    put(&store, "k", "before").await;
    let mut observer = Observer::ready(&store, "").await;
    let create = || Txn::new().guard(Guard::Absent(key("new"))).put(key("new"), "v");
    for round in 0..5 {
        // The reads before the write get their answers, and its own does not.
        let write = store.commit(create());
        let lose = async {
            dynamo.proxy.set(Mode::Late(Duration::from_millis(300)));
            eventually_async("the write to arrive", || async {
                dynamo.has(&witness, "new").await.then_some(())
            })
            .await;
            dynamo.proxy.cut().await;
            dynamo.proxy.mend().await;
        };
        let (result, ()) = tokio::join!(write, lose);
        let Commit::Committed(revision) = result.unwrap() else {
            panic!("round {round}: conflict")
        };
        let entry = get(&store, "new").await.unwrap();
        assert_eq!((entry.created, &entry.value[..]), (revision, &b"v"[..]));
        commit(&store, Txn::new().delete(key("new"))).await;
    }
    observer.until("everything", |o| o.entries.len() == 1).await;
}

/// With no answer at all in time, what may have been done is called so.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_an_answer_is_indeterminate_and_a_read_unavailable() {
    let Some(dynamo) = Dynamo::start().await else { return };
    let store = dynamo.open().await;
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    dynamo.proxy.set(Mode::Mute);
    let started = Instant::now();
    let name = key("k");
    let (renewed, read) = tokio::join!(store.keep_alive(lease.id), store.get(&name));
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    let (renewed, read) = (renewed.unwrap_err(), read.unwrap_err());
    assert_eq!(renewed.kind(), ErrorKind::Indeterminate, "{renewed}");
    assert_eq!(read.kind(), ErrorKind::Unavailable, "{read}");
    dynamo.proxy.mend().await;
    store.keep_alive(lease.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_over_an_outage_hears_what_it_missed() {
    let Some(dynamo) = Dynamo::start().await else { return };
    let store = dynamo.open().await;
    let mut observer = Observer::ready(&store, "").await;
    dynamo.proxy.cut().await;
    loop {
        if let WatchEvent::Interrupted(error) = observer.next().await {
            assert!(error.to_string().contains("watch"), "{error}");
            break;
        }
    }
    dynamo.proxy.mend().await;
    put(&dynamo.handle().await, "k", "v").await;
    observer.until("the key", |o| o.entries.contains_key(&key("k"))).await;
}

/// As a restore does: the table is away for a while, and comes back as it was before.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_comes_back_older_after_an_outage_is_in_another_life() {
    let Some(dynamo) = Dynamo::start().await else { return };
    let store = dynamo.open().await;
    put(&store, "k", "1").await;
    let mut observer = Observer::ready(&store, "").await;
    dynamo.copy().await;
    for _ in 0..5 {
        put(&store, "k", "2").await;
    }
    observer.catch_up(&store).await;
    dynamo.delete_table().await;
    while !matches!(observer.next().await, WatchEvent::Interrupted(_)) {}
    dynamo.init().await;
    dynamo.put_copied().await;
    observer.until("another life", |o| o.lives > 1 && o.entries.len() == 1).await;
    observer.catch_up(&dynamo.open().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_names_the_remedy_and_init_is_idempotent() {
    let Some(mut dynamo) = Dynamo::start().await else { return };
    let url = dynamo.parsed();
    let nothing = dynamodb::TableState::default();
    let config = config(&url).await;
    assert_eq!(dynamodb::init(&url, &config, false).await.unwrap(), nothing);
    dynamo.table = "elsewhere".into();
    let store = dynamo.open().await;
    let error = store.get(&key("a/b")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let text = error.to_string();
    assert!(text.contains("dynamodb get \"a/b\"") && text.contains("elsewhere"), "{text}");
    assert!(error.hint().unwrap().contains("lbctl store init"), "{error:?}");
    let url = dynamo.parsed();
    for _ in 0..2 {
        let missing = dynamodb::init(&url, &config, true).await.unwrap();
        assert!(missing.table && missing.expiry && missing.recovery, "{missing:?}");
    }
}

/// More keys than one transaction could delete with the lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_with_many_keys_ends_in_several_commits() {
    let Some(dynamo) = Dynamo::start().await else { return };
    let store = dynamo.open().await;
    let lease = store.grant(Duration::from_secs(600)).await.unwrap();
    for half in 0..3 {
        let put = |txn: Txn, i| txn.put_leased(key(&format!("many/{half}/{i}")), "", lease.id);
        commit(&store, (0..50).fold(Txn::new(), put)).await;
    }
    store.revoke(lease.id).await.unwrap();
    assert_eq!(store.list(&"many".parse().unwrap()).await.unwrap().entries, []);
    assert!(store.keep_alive(lease.id).await.is_err());
}

/// A listing over several pages of a query: one has up to 1 MB.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_has_more_than_one_page() {
    let Some(dynamo) = Dynamo::start().await else { return };
    let store = dynamo.open().await;
    for i in 0..12 {
        put(&store, &format!("large/{i:02}"), vec![i; 200_000]).await;
    }
    let listing = store.list(&"large".parse().unwrap()).await.unwrap();
    let whole = listing.entries.iter().zip(0..12u8).all(|(e, i)| e.value == vec![i; 200_000]);
    assert!(whole && listing.entries.len() == 12);
}
