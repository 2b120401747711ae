use std::collections::BTreeMap;
use std::time::Duration;

use lbctl::daemon::spawn_owned;
use lbctl::store::{Change, Key, Revision, SharedStore, Txn, WatchEvent};

use super::{Backend, Observer, commit, delete, get, key, prefix, put};

/// What a writer committed: the revision, and the keys put or deleted in it.
type Log = BTreeMap<Revision, BTreeMap<Key, bool>>;

/// Commits over a few keys of its own: one, two or three at a time, some of them deletions.
async fn write(store: SharedStore, writer: usize, rounds: usize) -> Log {
    let mut random = fastrand::Rng::with_seed(writer as u64);
    let mut present = [false; 4];
    let mut log = Log::new();
    for round in 0..rounds {
        let (mut txn, mut keys) = (Txn::new(), BTreeMap::new());
        for (slot, present) in present.iter_mut().enumerate() {
            let name = key(&format!("w/{writer}/{slot}"));
            match random.u8(0..4) {
                0 if *present => {
                    (txn, *present) = (txn.delete(name.clone()), false);
                    keys.insert(name, false);
                }
                1 => {
                    (txn, *present) = (txn.put(name.clone(), round.to_string()), true);
                    keys.insert(name, true);
                }
                _ => {}
            }
        }
        if !keys.is_empty() {
            log.insert(commit(&store, txn).await, keys);
        }
    }
    log
}

async fn write_from_many(
    backend: &impl Backend,
    rounds: usize,
) -> Vec<lbctl::daemon::OwnedTask<Log>> {
    let mut writers = Vec::new();
    for writer in 0..3 {
        writers.push(spawn_owned(write(backend.handle().await, writer, rounds)));
    }
    writers
}

fn keys_of(changes: &[Change]) -> BTreeMap<Key, bool> {
    changes.iter().map(|c| (c.key().clone(), matches!(c, Change::Put(_)))).collect()
}

pub async fn watch_hears_every_commit_once(backend: &impl Backend) {
    let reader = backend.handle().await;
    let mut observer = Observer::ready(&reader, "w").await;
    let writers = write_from_many(backend, 40).await;
    let listening = spawn_owned(async move {
        let mut heard = Log::new();
        while !observer.entries.contains_key(&key("w/end")) {
            if let WatchEvent::Changed(changes) = observer.next().await {
                let twice = heard.insert(changes[0].revision(), keys_of(&changes));
                assert_eq!(twice, None);
            }
        }
        (heard, observer.resets)
    });
    let mut written = Log::new();
    for writer in writers {
        written.extend(writer.join().await.expect("a writer panicked"));
    }
    let end = put(&reader, "w/end", "").await;
    written.insert(end, [(key("w/end"), true)].into());
    let (heard, resets) = listening.join().await.expect("the listener panicked");
    assert_eq!(resets, 1, "a reset without a break");
    assert_eq!(heard, written);
}

pub async fn watch_started_between_writes_misses_nothing(backend: &impl Backend) {
    let reader = backend.handle().await;
    let writers = write_from_many(backend, 40).await;
    let mut observers = Vec::new();
    while !writers.iter().all(lbctl::daemon::OwnedTask::is_finished) && observers.len() < 20 {
        let store = backend.handle().await;
        observers.push(Observer::ready(&store, "w").await);
    }
    for writer in writers {
        writer.join().await.expect("a writer panicked");
    }
    for observer in &mut observers {
        observer.catch_up(&reader).await;
        assert_eq!(observer.resets, 1, "a reset without a break");
    }
}

pub async fn watch_hears_its_prefix_only(backend: &impl Backend) {
    let store = backend.handle().await;
    put(&store, "a/before", "").await;
    put(&store, "ab", "").await;
    let mut observer = Observer::ready(&store, "a").await;
    assert_eq!(observer.entries.keys().map(Key::as_str).collect::<Vec<_>>(), ["a/before"]);
    put(&store, "ab", "2").await;
    put(&store, "a", "2").await;
    put(&store, "b/a/x", "2").await;
    let both = Txn::new().put(key("a/x"), "").put(key("ab/x"), "").delete(key("a/before"));
    let revision = commit(&store, both).await;
    let heard = observer.next_change().await;
    assert_eq!(heard[0].revision(), revision);
    assert_eq!(keys_of(&heard), [(key("a/before"), false), (key("a/x"), true)].into());
}

pub async fn watch_hears_leases_expire_by_itself<B: Backend>(backend: &B) {
    let (watcher, owner) = (backend.handle().await, backend.handle().await);
    let mut observer = Observer::ready(&watcher, "").await;
    let lease = owner.grant(B::TTL).await.unwrap();
    let leased = Txn::new().put_leased(key("x"), "", lease.id).put_leased(key("y"), "", lease.id);
    commit(&owner, leased.put(key("z"), "")).await;
    drop(owner);
    observer.until("the keys to come", |o| o.entries.len() == 3).await;
    observer.until("the keys to expire", |o| o.entries.len() == 1).await;
    assert!(observer.entries.contains_key(&key("z")));
    assert_eq!(observer.resets, 1, "a reset without a break");
}

pub async fn watch_outlives_its_handle(backend: &impl Backend) {
    let store = backend.handle().await;
    let mut observer = Observer::start(&store, "").await;
    drop(store);
    let other = backend.handle().await;
    observer.until("the first reset", |o| o.resets > 0).await;
    put(&other, "k", "").await;
    observer.catch_up(&other).await;
    assert_eq!(observer.entries.len(), 1);
}

pub async fn watch_that_is_not_read_heals(backend: &impl Backend) {
    let store = backend.handle().await;
    let mut observer = Observer::ready(&store, "").await;
    for i in 0..400 {
        put(&store, &format!("k/{}", i % 7), i.to_string()).await;
    }
    observer.catch_up(&store).await;
    put(&store, "more", "").await;
    observer.catch_up(&store).await;
}

/// As in a loop that writes between two looks at what it hears: wherever a watch is when nobody asks
/// it any more, others do not wait for it.
pub async fn watch_that_is_left_halfway_holds_up_nobody(backend: &impl Backend) {
    let store = backend.handle().await;
    let (mut left, mut heard) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        left.push(store.watch(&prefix("left")).await.unwrap());
    }
    let mut random = fastrand::Rng::with_seed(1);
    for round in 0..40 {
        for watch in &mut left {
            let moment = Duration::from_millis(random.u64(0..100));
            heard.extend(tokio::time::timeout(moment, watch.next_event()).await);
        }
        let write = put(&store, "left/k", round.to_string());
        tokio::time::timeout(Duration::from_secs(5), write).await.expect("a write that waits");
    }
    let broken = heard.iter().find(|event| matches!(event, WatchEvent::Interrupted(_)));
    assert!(broken.is_none(), "{broken:?}");
}

pub async fn watch_heals_after_a_cut(backend: &impl Backend) {
    let store = backend.handle().await;
    put(&store, "k", "before").await;
    let mut observer = Observer::ready(&store, "").await;
    for round in 1..=3 {
        if !backend.cut().await {
            return;
        }
        observer.until("the break to be said", |o| o.interrupted).await;
        backend.mend().await;
        observer.until("a reset", |o| o.resets > round).await;
        let writer = backend.handle().await;
        put(&writer, "k", round.to_string()).await;
        delete(&writer, "other").await;
        observer.catch_up(&writer).await;
    }
}

pub async fn watch_started_during_a_cut_heals(backend: &impl Backend) {
    let store = backend.handle().await;
    put(&store, "k", "v").await;
    if !backend.cut().await {
        return;
    }
    let mut observer = Observer::start(&store, "").await;
    observer.until("the break to be said", |o| o.interrupted).await;
    let error = store.get(&key("k")).await.expect_err("an answer over a cut way");
    assert!(error.kind().is_transient(), "{error}");
    backend.mend().await;
    observer.until("a reset", |o| o.resets > 0).await;
    assert_eq!(get(&backend.handle().await, "k").await.as_ref(), observer.entries.get(&key("k")));
}

pub async fn watch_heals_after_history_is_lost(backend: &impl Backend) {
    let store = backend.handle().await;
    put(&store, "k", "v").await;
    let mut observer = Observer::ready(&store, "").await;
    if !backend.lose_history().await {
        return;
    }
    let writer = backend.handle().await;
    put(&writer, "after", "").await;
    observer.until("a reset", |o| o.resets > 1).await;
    observer.catch_up(&writer).await;
}
