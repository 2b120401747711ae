//! Members that die, hang or are cut off.

use std::time::{Duration, Instant};

use lbctl::store::{Commit, Error, ErrorKind, MAX_VALUE_LEN, SharedStore, Txn};

use super::store;
use crate::store::conformance::{Observer, commit, get, key, put};
use crate::support::etcd::{Etcd, Options};
use crate::support::{Proxy, eventually_async};

/// The deadline of one operation, with time for a busy machine.
const OPERATION: Duration = Duration::from_secs(8);

async fn in_time<T>(operation: impl Future<Output = T>) -> T {
    tokio::time::timeout(OPERATION, operation).await.expect("an operation missed its deadline")
}

/// A write that was under way when its member died may end as unknown; the next one goes through.
async fn put_again_if_unsure(store: &SharedStore, name: &str, value: &'static str) {
    match in_time(store.commit(Txn::new().put(key(name), value))).await {
        Ok(done) => assert_ne!(done, Commit::Conflict),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
            in_time(put(store, name, value)).await;
        }
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_follower_is_not_noticed() {
    let Some(mut etcd) = Etcd::start_with(3, Options::default()) else { return };
    // Each handle begins at a member of its own choice.
    let mut stores = Vec::new();
    for _ in 0..6 {
        stores.push(store(&etcd.url("lbctl")).await);
    }
    let mut observers = Vec::new();
    for store in &stores {
        observers.push(Observer::ready(store, "").await);
    }
    let follower = (etcd.leader() + 1) % 3;
    etcd.kill(follower);
    for (number, store) in stores.iter().enumerate() {
        put_again_if_unsure(store, &format!("k/{number}"), "after").await;
        assert_eq!(in_time(get(store, "k/0")).await.unwrap().value, "after");
        let lease = in_time(store.grant(Duration::from_secs(5))).await.unwrap();
        in_time(store.keep_alive(lease.id)).await.unwrap();
    }
    for observer in &mut observers {
        observer.catch_up(&stores[0]).await;
    }
    etcd.restart(follower);
    put(&stores[0], "end", "").await;
    for observer in &mut observers {
        observer.catch_up(&stores[0]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_leader_costs_an_election_and_no_data() {
    let Some(mut etcd) = Etcd::start_with(3, Options::default()) else { return };
    let store = store(&etcd.url("lbctl")).await;
    let mut observer = Observer::ready(&store, "").await;
    for round in 0..3 {
        let leader = etcd.leader();
        etcd.kill(leader);
        // A commit during the election may end as unknown, never as anything worse.
        let name = format!("k/{round}");
        eventually_async("a commit", || async {
            match in_time(store.commit(Txn::new().put(key(&name), "v"))).await {
                Ok(Commit::Committed(_)) => Some(()),
                Ok(Commit::Conflict) => panic!("a conflict without a guard"),
                Err(error) => {
                    assert!(error.kind().is_transient(), "{error}");
                    None
                }
            }
        })
        .await;
        assert!(in_time(get(&store, &name)).await.is_some());
        observer.catch_up(&store).await;
        etcd.restart(leader);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_hangs_is_passed_over() {
    let Some(mut etcd) = Etcd::start_with(3, Options::default()) else { return };
    let follower = (etcd.leader() + 1) % 3;
    let mut stores = Vec::new();
    for _ in 0..6 {
        let store = store(&etcd.url("lbctl")).await;
        put(&store, "k", "v").await;
        stores.push(store);
    }
    etcd.pause(follower);
    for store in &stores {
        assert_eq!(in_time(get(store, "k")).await.unwrap().value, "v");
        put_again_if_unsure(store, "k", "v").await;
    }
    etcd.resume(follower);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_the_others_says_so() {
    let Some(mut etcd) = Etcd::start_with(3, Options::default()) else { return };
    let store = store(&etcd.url("lbctl")).await;
    put(&store, "k", "v").await;
    let mut observer = Observer::ready(&store, "").await;
    etcd.kill(0);
    etcd.kill(1);
    let refused = in_time(store.get(&key("k"))).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    observer.until("the break to be said", |o| o.interrupted).await;
    etcd.launch(0);
    etcd.restart(1);
    observer.until("a reset", |o| !o.interrupted).await;
    put(&store, "k", "w").await;
    observer.catch_up(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_data_leases_and_logins() {
    let options = Options { password: true, tls: true, ..Options::default() };
    let Some(mut etcd) = Etcd::start_with(1, options) else { return };
    let store = store(&etcd.url("lbctl")).await;
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    commit(&store, Txn::new().put(key("k"), "v").put_leased(key("l"), "v", lease.id)).await;
    let mut observer = Observer::ready(&store, "").await;
    etcd.kill(0);
    observer.until("the break to be said", |o| o.interrupted).await;
    let down = in_time(store.get(&key("k"))).await.unwrap_err();
    assert_eq!(down.kind(), ErrorKind::Unavailable, "{down}");
    assert!(down.hint().is_some_and(|hint| hint.contains("etcd runs")), "{down:?}");
    etcd.restart(0);
    observer.until("a reset", |o| o.resets > 1).await;
    // The new process knows none of the old one's tokens.
    assert_eq!(get(&store, "k").await.unwrap().value, "v");
    assert_eq!(store.keep_alive(lease.id).await.unwrap(), lease.ttl);
    commit(&store, Txn::new().put_leased(key("l"), "w", lease.id)).await;
    observer.catch_up(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_unavailable_at_once() {
    let port = crate::support::free_port();
    let store = store(&format!("etcd://127.0.0.1:{port},localhost:{port}")).await;
    let started = Instant::now();
    let write = store.commit(Txn::new().put(key("k"), "v")).await.unwrap_err();
    assert_eq!(write.kind(), ErrorKind::Unavailable, "surely not applied: {write}");
    assert!(write.to_string().contains(&format!("127.0.0.1:{port}")), "{write}");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

async fn behind_a_proxy(etcd: &Etcd) -> (SharedStore, Proxy) {
    let proxy = Proxy::start(etcd.port(0)).await;
    let store = store(&format!("etcd://127.0.0.1:{}/lbctl", proxy.port())).await;
    (store, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_is_noticed_by_a_watch() {
    let Some(etcd) = Etcd::start() else { return };
    let direct = store(&etcd.url("lbctl")).await;
    let (store, proxy) = behind_a_proxy(&etcd).await;
    let mut observer = Observer::ready(&store, "").await;
    proxy.freeze();
    put(&direct, "k", "missed").await;
    observer.until("the break to be said", |o| o.interrupted).await;
    proxy.mend().await;
    observer.catch_up(&direct).await;
    assert_eq!(observer.resets, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_an_answer_is_unknown() {
    let Some(etcd) = Etcd::start() else { return };
    let (store, proxy) = behind_a_proxy(&etcd).await;
    put(&store, "k", "1").await;
    proxy.freeze();
    let error = in_time(store.commit(Txn::new().put(key("k"), "2"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
    let error = in_time(store.get(&key("k"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    proxy.mend().await;
    // Late or never, but not twice: the writes are this one and the first.
    let after = in_time(get(&store, "k")).await.unwrap();
    assert!(after.modified.0 - after.created.0 <= 1, "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_etcd_says_how_to_make_space() {
    let options = Options { quota: 4 * 1024 * 1024, ..Options::default() };
    let Some(etcd) = Etcd::start_with(1, options) else { return };
    let store = store(&etcd.url("lbctl")).await;
    let full = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("alarm disarm")), "{error:?}");
    };
    for round in 0..64 {
        let put = Txn::new().put(key(&format!("k/{round}")), vec![0; MAX_VALUE_LEN]);
        if let Err(error) = store.commit(put).await {
            full(error);
            assert!(get(&store, "k/0").await.is_some(), "reads go on");
            return;
        }
    }
    panic!("16 MiB went into 4 MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_are_larger_than_one_answer() {
    let Some(etcd) = Etcd::start() else { return };
    let store = store(&etcd.url("lbctl")).await;
    let mut names: Vec<String> = (0..1300).map(|i| format!("many/{i:04}")).collect();
    for batch in names.chunks(60) {
        commit(&store, batch.iter().fold(Txn::new(), |txn, n| txn.put(key(n), "v"))).await;
    }
    for i in 0..24 {
        names.push(format!("many/large/{i:02}"));
        put(&store, &names[names.len() - 1], vec![b'x'; MAX_VALUE_LEN]).await;
    }
    names.sort();
    assert_eq!(crate::store::conformance::names(&store, "many").await, names);
    let mut observer = Observer::ready(&store, "many").await;
    assert_eq!(observer.entries.len(), names.len());
    put(&store, "many/more", "").await;
    observer.catch_up(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_falls_behind_a_compaction_starts_over() {
    let Some(etcd) = Etcd::start() else { return };
    let (slow, proxy) = behind_a_proxy(&etcd).await;
    let direct = store(&etcd.url("lbctl")).await;
    let mut observer = Observer::ready(&slow, "").await;
    // Nobody reads the watch, so these fill what it holds in advance, the next ones the connection,
    // then etcd's own queue of 1024 answers, after which etcd lets the watch fall behind.
    for i in 0..300 {
        put(&direct, "small/0", i.to_string()).await;
    }
    for i in 0..40 {
        put(&direct, &format!("large/{}", i % 4), vec![b'x'; MAX_VALUE_LEN]).await;
    }
    let writers = (0..16).map(|writer| {
        let direct = &direct;
        async move {
            for round in 0..100 {
                put(direct, &format!("small/{writer}"), round.to_string()).await;
            }
        }
    });
    futures::future::join_all(writers).await;
    etcd.compact().await;
    put(&direct, "end", "").await;
    let fell_behind = |o: &Observer| {
        assert!(!o.interrupted, "a compaction is no break: a reset heals it at once");
        assert!(o.entries.len() < 21 || o.resets > 1, "it never fell behind, so nothing is tested");
        o.resets > 1
    };
    observer.until("a reset", fell_behind).await;
    observer.catch_up(&direct).await;
    drop(proxy);
}
