use std::collections::BTreeMap;

use lbctl::store::{
    Change, Entry, Key, Listing, Prefix, Revision, Store, StoreLife, Watch, WatchEvent,
};

use super::prefix;
use crate::support::DEADLINE;

/// A watcher that keeps what it heard and checks every event against the contract.
#[derive(Debug)]
pub struct Observer {
    watch: Watch,
    prefix: Prefix,
    pub entries: BTreeMap<Key, Entry>,
    pub revision: Revision,
    pub life: StoreLife,
    /// How often the life was another one.
    pub lives: usize,
    pub resets: usize,
    pub interrupted: bool,
}

impl Observer {
    /// Watches, without waiting for the first event.
    pub async fn start(store: &dyn Store, under: &str) -> Self {
        let prefix = prefix(under);
        Self {
            watch: store.watch(&prefix).await.unwrap(),
            prefix,
            entries: BTreeMap::new(),
            revision: Revision::default(),
            life: StoreLife::default(),
            lives: 0,
            resets: 0,
            interrupted: false,
        }
    }

    /// Watches and waits for the first `Reset`.
    pub async fn ready(store: &dyn Store, under: &str) -> Self {
        let mut observer = Self::start(store, under).await;
        observer.until("the first reset", |o| o.resets > 0).await;
        observer
    }

    pub async fn next(&mut self) -> WatchEvent {
        let event = tokio::time::timeout(DEADLINE, self.watch.next_event()).await;
        let event = event.unwrap_or_else(|_| panic!("no event; so far {self:?}"));
        match &event {
            WatchEvent::Reset(listing) => self.reset(listing),
            WatchEvent::Changed(changes) => self.change(changes),
            WatchEvent::Interrupted(_) => {
                assert!(!self.interrupted, "one break was said twice");
                self.interrupted = true;
            }
        }
        event
    }

    /// Takes events in until a condition holds.
    pub async fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                self.next().await;
            }
        };
        let waited = tokio::time::timeout(DEADLINE, wait).await;
        waited.unwrap_or_else(|_| panic!("waited {DEADLINE:?} for {what}; so far {self:?}"));
    }

    /// The next change, over any `Reset` that the store made on its own account.
    pub async fn next_change(&mut self) -> Vec<Change> {
        loop {
            if let WatchEvent::Changed(changes) = self.next().await {
                return changes;
            }
        }
    }

    /// Waits until what was heard is what a listing shows.
    pub async fn catch_up(&mut self, store: &dyn Store) {
        let listing = store.list(&self.prefix).await.unwrap();
        let wanted: BTreeMap<Key, Entry> =
            listing.entries.into_iter().map(|e| (e.key.clone(), e)).collect();
        self.until("the watch to catch up with a listing", |o| o.entries == wanted).await;
    }

    fn reset(&mut self, listing: &Listing) {
        if listing.life == self.life {
            let back = "a reset to the past";
            assert!(listing.revision >= self.revision, "{back}: {self:?}, {listing:?}");
        } else {
            assert!(!listing.life.is_unknown(), "{listing:?}");
            (self.life, self.lives) = (listing.life.clone(), self.lives + 1);
        }
        assert!(listing.entries.is_sorted_by(|a, b| a.key < b.key), "{listing:?}");
        for entry in &listing.entries {
            assert!(self.prefix.contains(&entry.key), "{entry:?} is not under {}", self.prefix);
            assert!(entry.created <= entry.modified, "{entry:?}");
            assert!(entry.modified <= listing.revision, "{entry:?} in {:?}", listing.revision);
        }
        self.entries = listing.entries.iter().map(|e| (e.key.clone(), e.clone())).collect();
        self.revision = listing.revision;
        self.resets += 1;
        self.interrupted = false;
    }

    fn change(&mut self, changes: &[Change]) {
        assert!(self.resets > 0, "a change before the first reset: {changes:?}");
        assert!(!self.interrupted, "a change between a break and its reset: {changes:?}");
        let revision = changes.first().expect("an empty change").revision();
        assert!(revision > self.revision, "{changes:?} is not after {:?}", self.revision);
        assert!(changes.is_sorted_by(|a, b| a.key() < b.key()), "{changes:?}");
        for change in changes {
            assert_eq!(change.revision(), revision, "two commits in one event: {changes:?}");
            assert!(self.prefix.contains(change.key()), "{change:?} is not under {}", self.prefix);
            match change {
                Change::Put(entry) => {
                    let old = self.entries.insert(entry.key.clone(), entry.clone());
                    let created = old.map_or(revision, |old| old.created);
                    assert_eq!(entry.created, created, "{entry:?}");
                }
                Change::Delete { key, .. } => {
                    let old = self.entries.remove(key);
                    assert!(old.is_some(), "{key} was deleted twice");
                }
            }
        }
        self.revision = revision;
    }
}
