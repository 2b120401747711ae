use lbctl::store::{Commit, Mirror, Prefix, Revision, SharedStore, StoreLife, Txn};

use super::{Backend, Observer, key, names, prefix, put};
use crate::support::eventually_async;

async fn life(store: &SharedStore) -> StoreLife {
    store.list(&prefix("life")).await.unwrap().life
}

/// Writes through a handle that has just lost its way to the store, or all that it knew.
async fn put_at_last(store: &SharedStore, name: &str, value: &str) -> Revision {
    eventually_async("a write", || async {
        match store.commit(Txn::new().put(key(name), value.to_owned())).await.ok()? {
            Commit::Committed(revision) => Some(revision),
            Commit::Conflict => None,
        }
    })
    .await
}

/// The first reading decides, whatever it reads and whoever else reads at that moment.
pub async fn life_is_one_for_all_handles_and_stays(backend: &impl Backend) {
    let (one, other) = (backend.handle().await, backend.handle().await);
    let mut mirror = Mirror::new(one.watch(&Prefix::root()).await.unwrap());
    let ((), first, second) = tokio::join!(mirror.ready(), life(&one), life(&other));
    assert!(!first.is_unknown());
    assert_eq!((&first, mirror.life()), (&second, &first));
    put(&other, "k", "v").await;
    backend.lose_history().await;
    if backend.cut().await {
        backend.mend().await;
    }
    let after = put_at_last(&other, "k", "w").await;
    while mirror.revision() < after {
        mirror.changed().await;
    }
    assert_eq!((mirror.life(), mirror.rebirths()), (&first, 0));
    assert_eq!(life(&backend.handle().await).await, first);
}

/// Everybody who watched agrees on the new life, and goes on hearing what comes.
async fn all_go_on(backend: &impl Backend, mut observers: [Observer; 2], writer: &SharedStore) {
    for observer in &mut observers {
        observer.until("another life", |o| o.lives == 2).await;
    }
    put_at_last(writer, "k/after", "v").await;
    for observer in &mut observers {
        observer.catch_up(writer).await;
        assert_eq!(observer.lives, 2, "{observer:?}");
    }
    let lives = observers.map(|observer| observer.life);
    assert_eq!([life(writer).await, life(&backend.handle().await).await], lives);
}

async fn watchers(handles: &[SharedStore; 2]) -> [Observer; 2] {
    [Observer::ready(&handles[0], "k").await, Observer::ready(&handles[1], "k").await]
}

pub async fn a_store_put_back_to_a_copy_begins_another_life(backend: &impl Backend) {
    let handles = [backend.handle().await, backend.handle().await];
    put(&handles[0], "k/kept", "1").await;
    let mut observers = watchers(&handles).await;
    if !backend.copy().await {
        return;
    }
    for number in 0..5 {
        put(&handles[0], &format!("k/lost-{number}"), "").await;
    }
    put(&handles[0], "k/kept", "2").await;
    for observer in &mut observers {
        observer.catch_up(&handles[0]).await;
    }
    backend.put_back().await;
    all_go_on(backend, observers, &handles[0]).await;
    assert_eq!(names(&handles[1], "k").await, ["k/after", "k/kept"]);
}

pub async fn a_store_that_lost_all_begins_another_life(backend: &impl Backend) {
    let handles = [backend.handle().await, backend.handle().await];
    for number in 0..5 {
        put(&handles[0], &format!("k/lost-{number}"), "").await;
    }
    let observers = watchers(&handles).await;
    if !backend.lose_all().await {
        return;
    }
    all_go_on(backend, observers, &handles[0]).await;
    assert_eq!(names(&handles[1], "k").await, ["k/after"]);
}

/// As an import does at once: the revisions are soon where they were.
pub async fn commits_after_a_loss_are_not_mixed_with_those_before(backend: &impl Backend) {
    let handles = [backend.handle().await, backend.handle().await];
    put(&handles[0], "k/lost", "").await;
    let mut observers = watchers(&handles).await;
    if !backend.lose_all().await {
        return;
    }
    put_at_last(&handles[0], "k/0", "").await;
    for number in 1..10 {
        put(&handles[0], &format!("k/{number}"), "").await;
    }
    for observer in &mut observers {
        observer.catch_up(&handles[0]).await;
        assert_eq!(observer.lives, 2, "{observer:?}");
    }
}
