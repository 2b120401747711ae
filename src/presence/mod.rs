//! Keys that exist as long as this process does: all on one lease, which is kept alive, and
//! replaced with all its keys when it is lost.

mod keeper;
mod wishes;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::daemon::{OwnedTask, spawn_owned};
use crate::store::{Key, SharedStore};
use wishes::Wishes;

/// A shorter one would be renewed without a pause.
const SHORTEST_TTL: Duration = Duration::from_millis(100);

/// How this process's presence in the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PresenceState {
    /// No lease yet.
    Starting,
    /// The lease is alive, and the keys are written as they change.
    Held,
    /// The lease or a key cannot be written, and why; it is tried again until it works.
    Failing(String),
}

/// Keeps keys in the store on one lease.
///
/// Nothing is written while nothing changes, and many changes of a key while a write is under way
/// make one following write. Dropping it leaves the lease to its TTL; [`Self::close`] ends it.
///
/// Each key must belong to this process alone: a second one that writes it is noticed, said in the
/// log, and overwritten.
#[derive(Debug)]
pub struct Presence {
    shared: Arc<Shared>,
    _task: OwnedTask<()>,
}

impl Presence {
    /// Asks for a lease of `ttl` at once and for as long as it takes; the store may grant a longer
    /// one.
    pub fn start(store: SharedStore, ttl: Duration) -> Self {
        let shared = Arc::new(Shared::new(store, ttl));
        let task = spawn_owned(keeper::keep(shared.clone()));
        Self { shared, _task: task }
    }

    /// Leaves at least this long between the ends of writes and the next ones.
    #[must_use]
    pub fn with_min_interval(self, interval: Duration) -> Self {
        self.shared.lock().min_interval = interval;
        self
    }

    /// Wants the key to have this value. Does not wait; setting the same value again costs
    /// nothing.
    pub fn set(&self, key: Key, value: impl Into<Bytes>) {
        if self.shared.lock().wishes.want(key, Some(value.into())) {
            self.shared.changed.notify_one();
        }
    }

    /// Wants the key gone. Does not wait; a key that was never set is left alone.
    pub fn remove(&self, key: &Key) {
        if self.shared.lock().wishes.want(key.clone(), None) {
            self.shared.changed.notify_one();
        }
    }

    /// How it stands; changes are seen at once.
    pub fn state(&self) -> watch::Receiver<PresenceState> {
        self.shared.state.subscribe()
    }

    /// Waits until every `set` and `remove` so far is in the store (or was replaced by a later one
    /// that is), or the presence is closed. Waits as long as the store is away: bound it.
    pub async fn flushed(&self) {
        let wanted = self.shared.lock().wishes.generation();
        let mut flushed = self.shared.flushed.subscribe();
        tokio::select! {
            // The sender lives as long as `self`.
            _ = flushed.wait_for(|done| *done >= wanted) => {}
            () = self.shared.closed.cancelled() => {}
        }
    }

    /// Revokes the lease, so that all keys vanish now. Answers within two seconds: with the store
    /// away the lease is left to its TTL. Later calls of `set` and `remove` do nothing.
    pub async fn close(&self) {
        self.shared.closing.cancel();
        self.shared.closed.cancelled().await;
    }
}

#[derive(Debug)]
struct Shared {
    store: SharedStore,
    ttl: Duration,
    wanted: Mutex<Wanted>,
    /// A wish was added; one permit is kept.
    changed: Notify,
    /// A write was given up and a later one done; one permit is kept.
    doubted: Notify,
    state: watch::Sender<PresenceState>,
    /// The generation up to which all wishes are in the store.
    flushed: watch::Sender<u64>,
    closing: CancellationToken,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Wanted {
    wishes: Wishes,
    min_interval: Duration,
    troubles: Troubles,
}

/// What fails at present: the lease and the writes fail and recover apart.
#[derive(Debug, Default)]
struct Troubles {
    lease: Option<String>,
    write: Option<String>,
}

impl Shared {
    fn new(store: SharedStore, ttl: Duration) -> Self {
        Self {
            store,
            ttl: ttl.max(SHORTEST_TTL),
            wanted: Mutex::default(),
            changed: Notify::new(),
            doubted: Notify::new(),
            state: watch::Sender::new(PresenceState::Starting),
            flushed: watch::Sender::new(0),
            closing: CancellationToken::new(),
            closed: CancellationToken::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what fails, and publishes the state that follows from it.
    fn report(&self, change: impl FnOnce(&mut Troubles)) {
        let mut wanted = self.lock();
        change(&mut wanted.troubles);
        let Troubles { lease, write } = &wanted.troubles;
        let state = match lease.as_ref().or(write.as_ref()) {
            None => PresenceState::Held,
            Some(why) => PresenceState::Failing(why.clone()),
        };
        self.state.send_if_modified(|current| {
            let changed = *current != state;
            *current = state;
            changed
        });
    }

    fn publish_flushed(&self) {
        self.flushed.send_replace(self.lock().wishes.flushed());
    }
}

#[cfg(test)]
mod tests;
