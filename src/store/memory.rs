use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::{
    Change, Commit, Entry, Error, ErrorKind, Guard, Key, Lease, LeaseId, Listing, MAX_TTL, Prefix,
    Result, Revision, Store, StoreLife, Txn, Watch, WatchEvent, Write,
};

/// A store in this process's memory, for tests and trials. Clones share their data. Time is
/// tokio's, so that a test with a paused clock decides when a lease ends.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    /// Tells watchers, which end leases at their deadlines, of a new lease.
    granted: Arc<Notify>,
}

/// What a [`MemoryStore`] held at one moment.
#[derive(Debug, Clone)]
pub struct MemoryCopy {
    revision: u64,
    entries: BTreeMap<Key, Entry>,
    leases: HashMap<LeaseId, HeldLease>,
}

#[derive(Debug, Default)]
struct State {
    life: StoreLife,
    revision: u64,
    last_lease: u64,
    entries: BTreeMap<Key, Entry>,
    leases: HashMap<LeaseId, HeldLease>,
    watchers: Vec<Watcher>,
}

#[derive(Debug, Clone, Copy)]
struct HeldLease {
    ttl: Duration,
    ends: Instant,
}

#[derive(Debug)]
struct Watcher {
    prefix: Prefix,
    events: mpsc::UnboundedSender<WatchEvent>,
}

impl MemoryStore {
    pub fn new() -> Self {
        let state = State { life: StoreLife::random(), ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), granted: Arc::default() }
    }

    /// A copy of all that it holds.
    pub fn copy(&self) -> MemoryCopy {
        let State { revision, entries, leases, .. } = &*self.lock();
        MemoryCopy { revision: *revision, entries: entries.clone(), leases: leases.clone() }
    }

    /// Puts an earlier copy in the place of what it holds, as an operator does who restores a
    /// backup: another life begins.
    pub fn restore(&self, copy: MemoryCopy) {
        let MemoryCopy { revision, entries, leases } = copy;
        let mut state = self.lock();
        // No lease's number is ever given out twice, as in the other stores.
        let State { last_lease, watchers, .. } = std::mem::take(&mut *state);
        let life = StoreLife::random();
        *state = State { life, revision, last_lease, entries, leases, watchers };
        state.expire(Instant::now());
        state.tell_anew();
        drop(state);
        self.granted.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.expire(Instant::now());
        state
    }

    /// The next event of a watcher, which also ends leases: nobody else may touch the store then.
    async fn next_event(
        &self,
        received: &mut mpsc::UnboundedReceiver<WatchEvent>,
    ) -> Option<WatchEvent> {
        loop {
            let granted = self.granted.notified();
            let expiry = self.lock().next_expiry();
            let ended = async {
                match expiry {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                event = received.recv() => return event,
                () = ended => {}
                () = granted => {}
            }
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn expire(&mut self, now: Instant) {
        let mut dead: Vec<(Instant, LeaseId)> = self
            .leases
            .iter()
            .filter(|(_, l)| l.ends <= now)
            .map(|(id, l)| (l.ends, *id))
            .collect();
        dead.sort();
        for (_, id) in dead {
            self.end_lease(id);
        }
    }

    fn end_lease(&mut self, id: LeaseId) {
        if self.leases.remove(&id).is_none() {
            return;
        }
        let held: Vec<Write> = self
            .entries
            .values()
            .filter(|e| e.lease == Some(id))
            .map(|e| Write::Delete { key: e.key.clone() })
            .collect();
        if !held.is_empty() {
            self.apply(held);
        }
    }

    fn holds(&self, guard: &Guard) -> bool {
        let entry = self.entries.get(guard.key());
        match guard {
            Guard::Absent(_) => entry.is_none(),
            Guard::CreatedAt(_, revision) => entry.is_some_and(|e| e.created == *revision),
            Guard::UnmodifiedSince(_, revision) => entry.is_some_and(|e| e.modified <= *revision),
        }
    }

    fn apply(&mut self, writes: Vec<Write>) -> Revision {
        let changes_nothing = |write: &Write| match write {
            Write::Put { .. } => false,
            Write::Delete { key } => !self.entries.contains_key(key),
        };
        if writes.iter().all(changes_nothing) {
            return Revision(self.revision);
        }
        self.revision += 1;
        let revision = Revision(self.revision);
        let mut changes: Vec<Change> = Vec::with_capacity(writes.len());
        for write in writes {
            match write {
                Write::Put { key, value, lease } => {
                    let created = self.entries.get(&key).map_or(revision, |e| e.created);
                    let entry =
                        Entry { key: key.clone(), value, created, modified: revision, lease };
                    self.entries.insert(key, entry.clone());
                    changes.push(Change::Put(entry));
                }
                Write::Delete { key } => {
                    if self.entries.remove(&key).is_some() {
                        changes.push(Change::Delete { key, revision });
                    }
                }
            }
        }
        changes.sort_by(|a, b| a.key().cmp(b.key()));
        self.watchers.retain(|watcher| {
            let seen: Vec<Change> =
                changes.iter().filter(|c| watcher.prefix.contains(c.key())).cloned().collect();
            if seen.is_empty() {
                return !watcher.events.is_closed();
            }
            watcher.events.send(WatchEvent::Changed(seen)).is_ok()
        });
        revision
    }

    fn tell_anew(&mut self) {
        let watchers = std::mem::take(&mut self.watchers);
        let told = watchers.into_iter().filter(|watcher| {
            watcher.events.send(WatchEvent::Reset(self.listing(&watcher.prefix))).is_ok()
        });
        self.watchers = told.collect();
    }

    fn listing(&self, prefix: &Prefix) -> Listing {
        Listing {
            life: self.life.clone(),
            revision: Revision(self.revision),
            entries: self.entries.values().filter(|e| prefix.contains(&e.key)).cloned().collect(),
        }
    }

    fn next_expiry(&self) -> Option<Instant> {
        self.leases.values().map(|l| l.ends).min()
    }
}

fn expired(operation: &'static str, lease: LeaseId) -> Error {
    Error::new(ErrorKind::LeaseExpired, "memory", operation, lease, "the lease has ended")
}

#[async_trait]
impl Store for MemoryStore {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        Ok(self.lock().entries.get(key).cloned())
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        Ok(self.lock().listing(prefix))
    }

    async fn commit(&self, txn: Txn) -> Result<Commit> {
        txn.check("memory")?;
        let mut state = self.lock();
        if !txn.guards.iter().all(|g| state.holds(g)) {
            return Ok(Commit::Conflict);
        }
        for write in &txn.writes {
            if let Write::Put { lease: Some(lease), .. } = write
                && !state.leases.contains_key(lease)
            {
                return Err(expired("commit", *lease));
            }
        }
        Ok(Commit::Committed(state.apply(txn.writes)))
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch> {
        let (events, received) = mpsc::unbounded_channel();
        {
            let mut state = self.lock();
            // The receiver is alive: it was made just above.
            _ = events.send(WatchEvent::Reset(state.listing(prefix))).is_ok();
            state.watchers.push(Watcher { prefix: prefix.clone(), events });
        }
        let watching = (self.clone(), received);
        Ok(Watch::new(stream::unfold(watching, |(store, mut received)| async move {
            let event = store.next_event(&mut received).await?;
            Some((event, (store, received)))
        })))
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        let ttl = ttl.min(MAX_TTL);
        let mut state = self.lock();
        state.last_lease += 1;
        let id = LeaseId(state.last_lease);
        state.leases.insert(id, HeldLease { ttl, ends: Instant::now() + ttl });
        drop(state);
        self.granted.notify_waiters();
        Ok(Lease { id, ttl })
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        let mut state = self.lock();
        let held = state.leases.get_mut(&lease).ok_or_else(|| expired("keep_alive", lease))?;
        held.ends = Instant::now() + held.ttl;
        Ok(held.ttl)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.lock().end_lease(lease);
        Ok(())
    }
}
