use std::time::Duration;

use futures::future::join_all;
use lbctl::store::{Commit, Guard, Revision, SharedStore, Store, Txn};

use super::{Backend, Observer, commit, delete, get, key, names, prefix, put};

pub async fn absent_guard_creates_once(backend: &impl Backend) {
    let (a, b) = (backend.handle().await, backend.handle().await);
    let create =
        |value: &'static str| Txn::new().guard(Guard::Absent(key("k"))).put(key("k"), value);
    let revision = commit(&a, create("first")).await;
    assert_eq!(b.commit(create("second")).await.unwrap(), Commit::Conflict);
    let entry = get(&b, "k").await.unwrap();
    assert_eq!((&entry.value[..], entry.created), (&b"first"[..], revision));
    delete(&b, "k").await;
    commit(&a, create("third")).await;
}

pub async fn created_guard_holds_until_deletion(backend: &impl Backend) {
    let (a, b) = (backend.handle().await, backend.handle().await);
    let created = put(&a, "leader", "a").await;
    let fenced = || Txn::new().guard(Guard::CreatedAt(key("leader"), created)).put(key("k"), "v");
    put(&b, "leader", "a again").await;
    commit(&b, fenced()).await;
    delete(&a, "leader").await;
    assert_eq!(b.commit(fenced()).await.unwrap(), Commit::Conflict);
    put(&a, "leader", "b").await;
    assert_eq!(b.commit(fenced()).await.unwrap(), Commit::Conflict);
}

pub async fn unmodified_guard_sees_every_write(backend: &impl Backend) {
    let (a, b) = (backend.handle().await, backend.handle().await);
    let guarded =
        |since| Txn::new().guard(Guard::UnmodifiedSince(key("k"), since)).put(key("o"), "");
    let first = put(&a, "k", "1").await;
    commit(&b, guarded(first)).await;
    let second = put(&b, "k", "2").await;
    assert_eq!(a.commit(guarded(first)).await.unwrap(), Commit::Conflict);
    commit(&a, guarded(second)).await;
    let later = put(&a, "other", "").await;
    commit(&a, guarded(later)).await;
    delete(&a, "k").await;
    assert_eq!(a.commit(guarded(later)).await.unwrap(), Commit::Conflict);
    assert_eq!(a.commit(guarded(Revision(u64::MAX >> 1))).await.unwrap(), Commit::Conflict);
}

pub async fn conflict_writes_nothing(backend: &impl Backend) {
    let store = backend.handle().await;
    let kept = put(&store, "kept", "old").await;
    let mut observer = Observer::ready(&store, "").await;
    let txn = Txn::new()
        .guard(Guard::CreatedAt(key("kept"), kept))
        .guard(Guard::Absent(key("kept")))
        .put(key("new"), "x")
        .delete(key("kept"));
    assert_eq!(store.commit(txn).await.unwrap(), Commit::Conflict);
    assert_eq!(names(&store, "").await, ["kept"]);
    assert_eq!(get(&store, "kept").await.unwrap().modified, kept);
    let revision = put(&store, "sentinel", "").await;
    let heard = observer.next_change().await;
    assert_eq!((heard.len(), heard[0].revision()), (1, revision), "{heard:?}");
}

pub async fn commit_is_all_at_one_revision(backend: &impl Backend) {
    let store = backend.handle().await;
    put(&store, "old", "").await;
    let created = put(&store, "again", "1").await;
    let txn = (0..20).fold(Txn::new(), |txn, i| txn.put(key(&format!("many/{i:02}")), "x"));
    let revision = commit(&store, txn.delete(key("old")).put(key("again"), "2")).await;
    let listing = store.list(&prefix("many")).await.unwrap();
    assert_eq!(listing.entries.len(), 20);
    assert!(listing.entries.iter().all(|e| (e.created, e.modified) == (revision, revision)));
    assert_eq!(get(&store, "old").await, None);
    let again = get(&store, "again").await.unwrap();
    assert_eq!((again.created, again.modified), (created, revision));
}

/// Adds one to a number in the store, trying until no other writer came between.
async fn increment(store: &dyn Store) {
    loop {
        let old = get(store, "counter").await.unwrap();
        let number: u64 = String::from_utf8(old.value.to_vec()).unwrap().parse().unwrap();
        let txn = Txn::new()
            .guard(Guard::UnmodifiedSince(key("counter"), old.modified))
            .put(key("counter"), (number + 1).to_string());
        if matches!(store.commit(txn).await.unwrap(), Commit::Committed(_)) {
            return;
        }
    }
}

pub async fn compare_and_swap_loses_no_update(backend: &impl Backend) {
    const HANDLES: usize = 4;
    const EACH: usize = 15;
    let handles = handles(backend, HANDLES).await;
    put(&handles[0], "counter", "0").await;
    let writers = handles.iter().map(|store| {
        let store = store.clone();
        lbctl::daemon::spawn_owned(async move {
            for _ in 0..EACH {
                increment(&store).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.join().await.expect("a writer panicked");
    }
    let counter = get(&handles[0], "counter").await.unwrap();
    assert_eq!(counter.value, (HANDLES * EACH).to_string());
}

pub async fn one_of_many_creators_wins(backend: &impl Backend) {
    let handles = handles(backend, 5).await;
    for round in 0..8 {
        let name = format!("prize/{round}");
        let claims = handles.iter().enumerate().map(|(i, store)| {
            let txn = Txn::new().guard(Guard::Absent(key(&name))).put(key(&name), i.to_string());
            async move { (i, store.commit(txn).await.unwrap()) }
        });
        let results = join_all(claims).await;
        let winners: Vec<_> =
            results.iter().filter(|(_, c)| matches!(c, Commit::Committed(_))).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        assert_eq!(get(&handles[0], &name).await.unwrap().value, winners[0].0.to_string());
    }
}

pub async fn revisions_strictly_increase(backend: &impl Backend) {
    let handles = handles(backend, 3).await;
    let mut last = handles[0].list(&prefix("")).await.unwrap().revision;
    for round in 0..12 {
        let store = &handles[round % 3];
        let revision = match round % 4 {
            3 => delete(store, "k").await,
            _ => put(store, "k", round.to_string()).await,
        };
        assert!(revision > last, "{revision} came after {last}");
        let listing = handles[(round + 1) % 3].list(&prefix("")).await.unwrap();
        assert!(listing.revision >= revision, "{} misses {revision}", listing.revision);
        last = revision;
    }
}

pub async fn recreated_key_has_a_new_created(backend: &impl Backend) {
    let store = backend.handle().await;
    let first = put(&store, "k", "1").await;
    let second = put(&store, "k", "2").await;
    let entry = get(&store, "k").await.unwrap();
    assert_eq!((entry.created, entry.modified), (first, second));
    delete(&store, "k").await;
    assert_eq!(get(&store, "k").await, None);
    let third = put(&store, "k", "3").await;
    let entry = get(&store, "k").await.unwrap();
    assert_eq!((entry.created, entry.modified), (third, third));
}

pub async fn deleting_absent_keys_changes_nothing(backend: &impl Backend) {
    let store = backend.handle().await;
    let before = put(&store, "there", "").await;
    let mut observer = Observer::ready(&store, "").await;
    let deleted = commit(&store, Txn::new().delete(key("a")).delete(key("b"))).await;
    assert!(deleted >= before, "{deleted} is before {before}");
    let after = commit(&store, Txn::new().delete(key("a")).put(key("c"), "")).await;
    assert!(after >= deleted && after > before, "{before}, {deleted}, {after}");
    let heard = observer.next_change().await;
    let heard: Vec<_> = heard.iter().map(|c| (c.key().as_str(), c.revision())).collect();
    assert_eq!(heard, [("c", after)]);
}

pub async fn prefixes_are_exact(backend: &impl Backend) {
    let store = backend.handle().await;
    for name in ["a", "ab", "a/b", "a/b/c", "a/bc", "a-b", "a0", "b/a"] {
        put(&store, name, name).await;
    }
    assert_eq!(names(&store, "a").await, ["a/b", "a/b/c", "a/bc"]);
    assert_eq!(names(&store, "a/b").await, ["a/b/c"]);
    assert_eq!(names(&store, "a/b/c").await, [""; 0]);
    assert_eq!(names(&store, "c").await, [""; 0]);
    assert_eq!(names(&store, "").await.len(), 8);
    for wild in ["%", "_", "a%", "*", "?"] {
        assert_eq!(names(&store, wild).await, [""; 0], "{wild}");
    }
}

pub async fn listings_are_in_key_order(backend: &impl Backend) {
    let store = backend.handle().await;
    let mut wanted = [
        "x/2",
        "x/10",
        "x/1",
        "x/B",
        "x/a",
        "x/\u{e4}",
        "x/a/b",
        "x/a-",
        "x/\u{10000}",
        "x/\u{ffff}",
        "x/~",
        "x/ ",
    ];
    let mut observer = Observer::ready(&store, "x").await;
    commit(&store, wanted.iter().fold(Txn::new(), |txn, name| txn.put(key(name), ""))).await;
    wanted.sort_unstable();
    assert_eq!(names(&store, "x").await, wanted);
    let heard = observer.next_change().await;
    assert_eq!(heard.iter().map(|c| c.key().as_str()).collect::<Vec<_>>(), wanted);
}

pub async fn listing_is_of_one_revision(backend: &impl Backend) {
    let (writer, reader) = (backend.handle().await, backend.handle().await);
    let write =
        |i: u32| Txn::new().put(key("p/left"), i.to_string()).put(key("p/right"), i.to_string());
    commit(&writer, write(0)).await;
    let writing = lbctl::daemon::spawn_owned(async move {
        for i in 1..60 {
            commit(&writer, write(i)).await;
        }
    });
    while !writing.is_finished() {
        let listing = reader.list(&prefix("p")).await.unwrap();
        let [left, right] = &listing.entries[..] else { panic!("{listing:?}") };
        assert_eq!((&left.value, left.modified), (&right.value, right.modified));
        assert!(left.modified <= listing.revision, "{listing:?}");
    }
    writing.join().await.expect("the writer panicked");
}

pub async fn cancelled_commits_are_whole_or_nothing(backend: &impl Backend) {
    let (store, reader) = (backend.handle().await, backend.handle().await);
    let mut random = fastrand::Rng::with_seed(7);
    for i in 0..80 {
        let (left, right) = (key(&format!("p/{i:02}/left")), key(&format!("p/{i:02}/right")));
        let commit = store.commit(Txn::new().put(left, "x").put(right, "x"));
        let patience = Duration::from_micros(random.u64(0..3000));
        // Whether it was done or dropped is for the listing to show.
        _ = tokio::time::timeout(patience, commit).await.is_ok();
        check_pairs(&reader).await;
    }
    // A commit that was dropped on its way may come late, and whole all the same.
    put(&store, "after", "").await;
    check_pairs(&reader).await;
}

async fn check_pairs(store: &dyn Store) {
    let listing = store.list(&prefix("p")).await.unwrap();
    for pair in listing.entries.chunks(2) {
        let [left, right] = pair else { panic!("half a commit: {pair:?}") };
        assert_eq!(left.modified, right.modified, "half a commit: {pair:?}");
    }
}

pub async fn cancelled_calls_leave_the_store_usable(backend: &impl Backend) {
    let store = backend.handle().await;
    put(&store, "k", "v").await;
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..30 {
        let patience = Duration::from_micros(random.u64(0..1500));
        let (name, everything) = (key("k"), prefix(""));
        _ = tokio::time::timeout(patience, store.get(&name)).await.is_ok();
        _ = tokio::time::timeout(patience, store.list(&everything)).await.is_ok();
        _ = tokio::time::timeout(patience, store.keep_alive(lease.id)).await.is_ok();
        _ = tokio::time::timeout(patience, store.watch(&everything)).await.is_ok();
    }
    store.keep_alive(lease.id).await.unwrap();
    let mut observer = Observer::ready(&store, "").await;
    put(&store, "k", "w").await;
    observer.catch_up(&store).await;
}

async fn handles(backend: &impl Backend, count: usize) -> Vec<SharedStore> {
    let mut handles = Vec::new();
    for _ in 0..count {
        handles.push(backend.handle().await);
    }
    handles
}
