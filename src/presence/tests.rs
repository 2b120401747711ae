use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::store::{
    Commit, Entry, Faults, Faulty, Lease, LeaseId, Listing, MemoryStore, Prefix, Result, Store,
    Txn, Watch,
};

const TTL: Duration = Duration::from_secs(9);

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

/// A memory store, the way to it, and a presence on it.
fn presence() -> (MemoryStore, Faulty<MemoryStore>, Presence) {
    let memory = MemoryStore::new();
    let faulty = Faulty::new(memory.clone(), 1);
    let presence = Presence::start(Arc::new(faulty.clone()), TTL);
    (memory, faulty, presence)
}

/// A store that takes its time for what goes to its disk, and for nothing else.
#[derive(Debug, Clone)]
struct Slow {
    inner: MemoryStore,
    grant: Duration,
    get: Duration,
    commit: Duration,
}

#[async_trait]
impl Store for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        sleep(self.get).await;
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        self.inner.list(prefix).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit> {
        sleep(self.commit).await;
        self.inner.commit(txn).await
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch> {
        self.inner.watch(prefix).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        sleep(self.grant).await;
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.inner.revoke(lease).await
    }
}

/// Ends the lease that `a` is on, and waits until the key is there again.
async fn comes_back_after_its_lease(slow: Slow) {
    let presence = Presence::start(Arc::new(slow.clone()), Duration::from_secs(1));
    presence.set(key("a"), "1");
    let minute = Duration::from_secs(60);
    let flushed = timeout(minute, presence.flushed()).await;
    assert!(flushed.is_ok(), "never there with {slow:?}: {:?}", *presence.state().borrow());
    let lease = slow.inner.get(&key("a")).await.unwrap().unwrap().lease.unwrap();
    slow.inner.revoke(lease).await.unwrap();
    let back = async {
        while value(&slow.inner, "a").await.is_none() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(timeout(minute, back).await.is_ok(), "never back with {slow:?}");
}

/// A write that was given up comes now, on the lease that the key is on.
async fn comes_late(store: &MemoryStore, name: &str, value: &'static str) {
    let lease = store.get(&key(name)).await.unwrap().unwrap().lease.unwrap();
    let late = Txn::new().put_leased(key(name), value, lease);
    assert!(matches!(store.commit(late).await.unwrap(), Commit::Committed(_)));
}

async fn value(store: &MemoryStore, name: &str) -> Option<Bytes> {
    store.get(&key(name)).await.unwrap().map(|entry| entry.value)
}

async fn revision(store: &MemoryStore) -> u64 {
    store.list(&Prefix::root()).await.unwrap().revision.0
}

async fn reaches(presence: &Presence, wanted: impl Fn(&PresenceState) -> bool) {
    let mut state = presence.state();
    let reached = timeout(TTL * 4, state.wait_for(wanted)).await;
    assert!(reached.is_ok(), "stays {:?}", *presence.state().borrow());
}

#[tokio::test(start_paused = true)]
async fn a_key_lives_until_the_presence_is_closed() {
    let (store, _, presence) = presence();
    assert_eq!(*presence.state().borrow(), PresenceState::Starting);
    presence.set(key("a"), "1");
    presence.flushed().await;
    assert_eq!(*presence.state().borrow(), PresenceState::Held);
    sleep(TTL * 10).await;
    assert_eq!(value(&store, "a").await.unwrap(), "1");
    assert_eq!(revision(&store).await, 1, "nothing changed, so nothing was written");
    presence.close().await;
    assert_eq!(value(&store, "a").await, None);
    presence.close().await;
    presence.flushed().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_of_a_dropped_presence_lives_as_long_as_its_lease() {
    let (store, _, presence) = presence();
    presence.set(key("a"), "1");
    presence.flushed().await;
    drop(presence);
    sleep(TTL / 2).await;
    assert!(value(&store, "a").await.is_some());
    sleep(TTL).await;
    assert_eq!(value(&store, "a").await, None);
}

#[tokio::test(start_paused = true)]
async fn many_changes_while_a_write_is_under_way_make_one_more() {
    let (store, faulty, presence) = presence();
    reaches(&presence, |state| *state == PresenceState::Held).await;
    let second = Duration::from_secs(1);
    faulty.set_faults(Faults { delay: 1.0, max_delay: second, ..Faults::default() });
    for i in 0..1000 {
        presence.set(key("a"), i.to_string());
        tokio::task::yield_now().await;
    }
    presence.flushed().await;
    assert_eq!(value(&store, "a").await.unwrap(), "999");
    assert_eq!(revision(&store).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_minimum_interval_lies_between_writes() {
    let (store, _, presence) = presence();
    let presence = presence.with_min_interval(Duration::from_secs(1));
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(10) {
        presence.set(key("a"), format!("{:?}", started.elapsed()));
        sleep(Duration::from_millis(7)).await;
    }
    presence.flushed().await;
    let writes = revision(&store).await;
    assert!((9..=12).contains(&writes), "{writes} writes in ten seconds");
}

#[tokio::test(start_paused = true)]
async fn more_keys_than_one_commit_holds_all_arrive() {
    let (store, _, presence) = presence();
    (0..250).for_each(|i| presence.set(key(&format!("k/{i}")), "1"));
    presence.flushed().await;
    assert_eq!(store.list(&"k".parse().unwrap()).await.unwrap().entries.len(), 250);
    let fewest = 250_u64.div_ceil(crate::store::MAX_TXN_LEN as u64);
    assert_eq!(revision(&store).await, fewest, "in as few commits as there can be");
}

#[tokio::test(start_paused = true)]
async fn a_store_away_for_longer_than_the_lease_gets_all_keys_again() {
    let (store, faulty, presence) = presence();
    presence.set(key("a"), "1");
    presence.set(key("gone"), "1");
    presence.flushed().await;
    faulty.set_offline(true);
    presence.set(key("b"), "1");
    presence.remove(&key("gone"));
    reaches(&presence, |state| matches!(state, PresenceState::Failing(_))).await;
    sleep(TTL * 2).await;
    assert_eq!(value(&store, "a").await, None, "its lease has ended");
    faulty.set_offline(false);
    presence.flushed().await;
    reaches(&presence, |state| *state == PresenceState::Held).await;
    assert!(value(&store, "a").await.is_some() && value(&store, "b").await.is_some());
    assert_eq!(value(&store, "gone").await, None);
    sleep(TTL * 3).await;
    assert!(value(&store, "a").await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_short_break_costs_neither_the_lease_nor_a_key() {
    let (store, faulty, presence) = presence();
    presence.set(key("a"), "1");
    presence.flushed().await;
    for _ in 0..20 {
        faulty.set_offline(true);
        sleep(TTL / 2).await;
        faulty.set_offline(false);
        sleep(TTL / 2).await;
    }
    assert_eq!(revision(&store).await, 1, "the key was never deleted nor written again");
}

#[tokio::test(start_paused = true)]
async fn the_last_values_arrive_through_lost_answers_and_refusals() {
    for seed in 0..50 {
        let memory = MemoryStore::new();
        let faulty = Faulty::new(memory.clone(), seed);
        let (max_delay, fault) = (TTL / 6, 0.3);
        let faults = Faults {
            refuse: fault,
            delay: fault,
            max_delay,
            lose_answer: fault,
            ..Faults::default()
        };
        faulty.set_faults(faults);
        let presence = Presence::start(Arc::new(faulty.clone()), TTL);
        for i in 0..30 {
            presence.set(key("a"), i.to_string());
            match i % 2 {
                0 => presence.set(key("b"), "1"),
                _ => presence.remove(&key("b")),
            }
            sleep(Duration::from_millis(fastrand::u64(0..500))).await;
        }
        assert!(timeout(TTL * 20, presence.flushed()).await.is_ok(), "seed {seed}: never flushed");
        faulty.set_faults(Faults::default());
        sleep(TTL * 2).await;
        presence.flushed().await;
        assert_eq!(value(&memory, "a").await.unwrap(), "29", "seed {seed}");
        assert_eq!(value(&memory, "b").await, None, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_holds_neither_renewals_nor_the_close_up() {
    let (store, faulty, presence) = presence();
    presence.set(key("a"), "1");
    presence.flushed().await;
    faulty.set_faults(Faults { delay: 1.0, max_delay: TTL * 1000, ..Faults::default() });
    reaches(&presence, |state| matches!(state, PresenceState::Failing(_))).await;
    sleep(TTL * 2).await;
    faulty.set_faults(Faults::default());
    reaches(&presence, |state| *state == PresenceState::Held).await;
    presence.flushed().await;
    assert!(value(&store, "a").await.is_some());
    faulty.set_faults(Faults { delay: 1.0, max_delay: TTL * 1000, ..Faults::default() });
    let started = Instant::now();
    presence.close().await;
    assert!(started.elapsed() <= Duration::from_secs(2), "took {:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_value_that_no_store_holds_is_said_and_holds_nothing_else_up() {
    let (store, _, presence) = presence();
    presence.set(key("huge"), vec![0; crate::store::MAX_VALUE_LEN + 1]);
    presence.set(key("a"), "1");
    reaches(
        &presence,
        |state| matches!(state, PresenceState::Failing(why) if why.contains("huge")),
    )
    .await;
    sleep(Duration::from_secs(1)).await;
    assert!(value(&store, "a").await.is_some());
    presence.remove(&key("huge"));
    presence.flushed().await;
    reaches(&presence, |state| *state == PresenceState::Held).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_another_process_took_over_is_not_deleted() {
    let (store, _, presence) = presence();
    presence.set(key("a"), "1");
    presence.flushed().await;
    let other = Presence::start(Arc::new(store.clone()), TTL);
    other.set(key("a"), "2");
    other.flushed().await;
    presence.remove(&key("a"));
    presence.flushed().await;
    presence.close().await;
    assert_eq!(value(&store, "a").await.unwrap(), "2");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_somebody_deleted_comes_back() {
    let (store, _, presence) = presence();
    presence.set(key("a"), "1");
    presence.flushed().await;
    let deleted = store.commit(Txn::new().delete(key("a"))).await.unwrap();
    assert!(matches!(deleted, Commit::Committed(_)));
    sleep(Duration::from_secs(16)).await;
    assert!(value(&store, "a").await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_gets_the_time_that_it_needs_whatever_the_ttl() {
    let quick = Duration::ZERO;
    let (inner, slow) = (MemoryStore::new, Duration::from_millis(1500));
    let grants = Slow { inner: inner(), grant: 3 * slow, get: quick, commit: quick };
    comes_back_after_its_lease(grants).await;
    let commits = Slow { inner: inner(), grant: quick, get: quick, commit: slow };
    comes_back_after_its_lease(commits).await;
}

#[tokio::test(start_paused = true)]
async fn keys_are_read_back_from_a_slow_store_too() {
    let inner = MemoryStore::new();
    let (quick, get) = (Duration::ZERO, Duration::from_millis(1500));
    let slow = Slow { inner: inner.clone(), grant: quick, get, commit: quick };
    let presence = Presence::start(Arc::new(slow), Duration::from_secs(1));
    presence.set(key("a"), "1");
    presence.flushed().await;
    comes_late(&inner, "a", "0").await;
    sleep(Duration::from_secs(100)).await;
    assert_eq!(value(&inner, "a").await.unwrap(), "1");
}

/// Such as one of the process before this one.
#[tokio::test(start_paused = true)]
async fn a_write_that_comes_late_over_the_first_of_a_lease_is_soon_undone() {
    let (store, _, presence) = presence();
    presence.set(key("a"), "1");
    presence.flushed().await;
    comes_late(&store, "a", "0").await;
    sleep(Duration::from_secs(6)).await;
    assert_eq!(value(&store, "a").await.unwrap(), "1");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_was_given_up_and_comes_late_is_soon_undone() {
    let (store, faulty, presence) = presence();
    presence.set(key("a"), "1");
    presence.flushed().await;
    // The keys were read back for the first time, and are not for another half a minute.
    sleep(Duration::from_secs(10)).await;
    faulty.set_faults(Faults { lose_answer: 1.0, ..Faults::default() });
    presence.set(key("a"), "2");
    reaches(&presence, |state| matches!(state, PresenceState::Failing(_))).await;
    faulty.set_faults(Faults::default());
    presence.set(key("a"), "3");
    presence.flushed().await;
    comes_late(&store, "a", "2").await;
    sleep(Duration::from_secs(6)).await;
    assert_eq!(value(&store, "a").await.unwrap(), "3");
}
