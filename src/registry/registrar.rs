use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::{Departure, departure, read};
use crate::daemon::{Backoff, Health, OwnedTask, spawn_owned};
use crate::model::{
    BackendName, Endpoint, HaproxyReport, Registration, SlotState, Timestamp, keys,
};
use crate::presence::{Presence, PresenceState};
use crate::store::{Key, Mirror, Prefix, SharedStore};
use crate::tables::{Content, StoredTable};

/// How a registration stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistrarState {
    /// Not in the store yet.
    Starting,
    /// In the store, on a live lease.
    Registered,
    /// Not to be in the store now, and why: the store is away, or another server has the id.
    Failing(String),
}

/// What a leaving server waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// No load balancer sends it a new session: enough for a server that knows its own sessions.
    NoNewSessions,
    /// Its last session has ended too.
    NoSessions,
}

/// How a server left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// What was waited for has come; the sessions that its load balancers still have on it.
    Drained { sessions: u64 },
    /// The deadline came first; what was still waited for.
    TimedOut(String),
}

/// Keeps a server registered for as long as it lives: its key is on this process's own lease, and
/// is written again whenever it was lost.
///
/// Two servers with one id and different addresses: the second waits until the first is gone, and
/// says so. With the same address it is the same server, started again.
#[derive(Debug)]
pub struct Registrar {
    shared: Arc<Shared>,
    state: watch::Receiver<RegistrarState>,
    _task: OwnedTask<()>,
}

#[derive(Debug)]
struct Shared {
    store: SharedStore,
    backend: BackendName,
    endpoint: Endpoint,
    since: Timestamp,
    presence: Presence,
    /// It has the id for itself, so that it may write.
    claimed: AtomicBool,
    /// When the store was last seen to be away, or a report to vanish.
    trouble: Mutex<Option<Instant>>,
}

/// How long it may take after trouble until every live HAProxy has written its report again.
const REPORTS_RETURN: Duration = Duration::from_secs(5);

/// A write that takes longer met a store that was away.
const SLOW: Duration = Duration::from_secs(2);

impl Registrar {
    /// Starts to register, and goes on for as long as it takes. `ttl` is how long the registration
    /// outlives a killed process; the store may grant longer.
    pub fn start(
        store: SharedStore,
        backend: BackendName,
        endpoint: Endpoint,
        ttl: Duration,
    ) -> Self {
        let presence = Presence::start(store.clone(), ttl);
        let shared = Shared {
            store,
            backend,
            endpoint,
            since: Timestamp::now(),
            presence,
            claimed: AtomicBool::new(false),
            trouble: Mutex::default(),
        };
        let shared = Arc::new(shared);
        let (state, seen) = watch::channel(RegistrarState::Starting);
        let task = spawn_owned(register(shared.clone(), state));
        Self { shared, state: seen, _task: task }
    }

    /// How it stands; changes are seen at once.
    pub fn state(&self) -> watch::Receiver<RegistrarState> {
        self.state.clone()
    }

    /// Marks the server as leaving and waits for its load balancers, at most until the deadline. It
    /// stays registered until [`Self::close`].
    pub async fn leave(&self, until: Until, deadline: Duration) -> Left {
        if !self.shared.claimed.load(Ordering::Acquire) {
            return Left::Drained { sessions: 0 };
        }
        let ends = Instant::now() + deadline;
        let waiting = watch::Sender::new(String::from("the store to take the departure"));
        match tokio::time::timeout_at(ends, self.shared.leave(until, &waiting)).await {
            Ok(sessions) => Left::Drained { sessions },
            Err(_elapsed) => Left::TimedOut(waiting.borrow().clone()),
        }
    }

    /// Deregisters now. With the store away the registration is left to its lease; answers within
    /// two seconds.
    pub async fn close(&self) {
        self.shared.presence.close().await;
    }
}

/// Claims the key, then says how it stands until it is dropped.
async fn register(shared: Arc<Shared>, state: watch::Sender<RegistrarState>) {
    shared.claimable(&state).await;
    shared.claimed.store(true, Ordering::Release);
    shared.put(false);
    let mut held = shared.presence.state();
    let flushed = shared.presence.flushed();
    tokio::pin!(flushed);
    let mut written = false;
    loop {
        let now = match &*held.borrow_and_update() {
            PresenceState::Held if written => RegistrarState::Registered,
            PresenceState::Starting | PresenceState::Held => RegistrarState::Starting,
            PresenceState::Failing(why) => RegistrarState::Failing(why.clone()),
        };
        let failed = matches!(&*state.borrow(), RegistrarState::Failing(_));
        if failed || matches!(now, RegistrarState::Failing(_)) {
            shared.troubled();
        }
        state.send_if_modified(|last| std::mem::replace(last, now.clone()) != now);
        tokio::select! {
            () = &mut flushed, if !written => written = true,
            changed = held.changed() => if changed.is_err() { return },
        }
    }
}

impl Shared {
    fn key(&self) -> Key {
        keys::registration(&self.backend, &self.endpoint.id)
    }

    fn put(&self, leaving: bool) {
        let endpoint = Endpoint { leaving, ..self.endpoint.clone() };
        let registration = Registration { endpoint, since: self.since };
        match serde_json::to_vec(&registration) {
            Ok(value) => self.presence.set(self.key(), value),
            Err(error) => tracing::error!(%error, "a registration cannot be written as JSON"),
        }
    }

    /// Waits until no other server has the id.
    async fn claimable(&self, state: &watch::Sender<RegistrarState>) {
        let (id, backend) = (&self.endpoint.id, &self.backend);
        let mut health = Health::new(format!("registering {id} in {backend}"));
        let mut registry = mirror(&self.store, &keys::registry(backend), &mut health, state).await;
        loop {
            let failing = if let Some(error) = registry.stale() {
                Some(error.to_string())
            } else if !registry.is_loaded() {
                None
            } else if let Some(other) = self.namesake(&registry) {
                let problem = format!("the id {id} is taken by the server at {other}");
                Some(format!("{problem}; give each its own --id"))
            } else {
                health.succeeded();
                return;
            };
            if let Some(problem) = failing {
                health.failed(&problem);
                state.send_replace(RegistrarState::Failing(problem));
            }
            registry.changed().await;
        }
    }

    /// The address of another server that is registered under this one's id.
    fn namesake(&self, registry: &Mirror) -> Option<String> {
        let other = read(registry.entries().get(&self.key())?).ok()?.endpoint.address;
        (other != self.endpoint.address).then(|| other.to_string())
    }

    async fn leave(&self, until: Until, waiting: &watch::Sender<String>) -> u64 {
        self.put(true);
        let asked = Instant::now();
        self.presence.flushed().await;
        if asked.elapsed() > SLOW {
            self.troubled();
        }
        let mut health = Health::new("watching the drain");
        let (ignored, _) = watch::channel(RegistrarState::Starting);
        let keys = keys::backend(&self.backend);
        let mut table = mirror(&self.store, &keys, &mut health, &ignored).await;
        let mut reports = mirror(&self.store, &keys::haproxies(), &mut health, &ignored).await;
        table.ready().await;
        reports.ready().await;
        let mut known = BTreeSet::new();
        loop {
            let reporting: BTreeSet<Key> = reports.entries().keys().cloned().collect();
            if table.stale().or(reports.stale()).is_some() || !known.is_subset(&reporting) {
                self.troubled();
            }
            known = reporting;
            let unsettled = self.unsettled();
            let stored = StoredTable::read(&self.backend, table.entries().values());
            let at_least = stored.spec().map_or(Duration::ZERO, |spec| spec.drain_at_least);
            let least = asked + at_least;
            // Clients that stay with their server come back while it drains.
            let early = (Instant::now() < least && self.holds_a_slot(&stored)).then_some(least);
            let what = match self.departure(&stored, &reports) {
                Departure::Drained { .. } if unsettled.is_some() => {
                    "every HAProxy to report again".to_owned()
                }
                Departure::Drained { .. } if early.is_some() => {
                    "the least time of a drain to pass".to_owned()
                }
                Departure::Drained { sessions }
                    if sessions == 0 || until == Until::NoNewSessions =>
                {
                    return sessions;
                }
                Departure::Drained { sessions } => format!("{sessions} sessions to end"),
                Departure::Waiting(what) => what,
            };
            tracing::debug!("waiting for {what}");
            waiting.send_replace(what);
            tokio::select! {
                _ = table.changed() => {}
                _ = reports.changed() => {}
                () = sleep_until(unsettled.unwrap_or_else(Instant::now)), if unsettled.is_some() => {}
                () = sleep_until(least), if early.is_some() => {}
            }
        }
    }

    /// Whether it has a slot whose time to drain is not over.
    fn holds_a_slot(&self, table: &StoredTable) -> bool {
        let mut own = table.records().filter(|(_, record)| record.endpoint.id == self.endpoint.id);
        own.any(|(_, record)| record.state != SlotState::Rest)
    }

    /// The store was away, or a report vanished: HAProxies whose reports ended with their leases may
    /// be alive and send traffic here, so that their silence means nothing for a while.
    fn troubled(&self) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Until when reports may be missing.
    fn unsettled(&self) -> Option<Instant> {
        if matches!(&*self.presence.state().borrow(), PresenceState::Failing(_)) {
            self.troubled();
        }
        let trouble = *self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.map(|at| at + REPORTS_RETURN).filter(|until| *until > Instant::now())
    }

    /// Entries that cannot be read hold nothing up: they are nothing that sends traffic here.
    fn departure(&self, table: &StoredTable, reports: &Mirror) -> Departure {
        let reports: Vec<HaproxyReport> = reports
            .entries()
            .values()
            .filter_map(|entry| serde_json::from_slice(&entry.value).ok())
            .collect();
        let slots = table.slots.iter().filter_map(|(slot, stored)| match &stored.content {
            Content::Sound(record) => Some((*slot, stored.modified, record)),
            Content::Damaged(_) => None,
        });
        departure(&self.endpoint.id, &self.backend, slots, &reports)
    }
}

/// Watches a prefix, for as long as it takes to begin.
async fn mirror(
    store: &SharedStore,
    prefix: &Prefix,
    health: &mut Health,
    state: &watch::Sender<RegistrarState>,
) -> Mirror {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        match store.watch(prefix).await {
            Ok(watch) => return Mirror::new(watch),
            Err(error) => {
                health.failed(&error);
                state.send_replace(RegistrarState::Failing(error.to_string()));
                backoff.wait().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BackendSpec, SlotNumber, SlotRecord};
    use crate::registry::read_all;
    use crate::store::{MemoryStore, Store as _, Txn};

    const TTL: Duration = Duration::from_secs(10);

    fn endpoint(id: &str, port: u16) -> Endpoint {
        let address = format!("10.0.0.1:{port}").parse().unwrap();
        let id = id.parse().unwrap();
        Endpoint { id, address, name: None, group: None, zone: None, weight: None, leaving: false }
    }

    fn registrar(store: &MemoryStore, endpoint: Endpoint) -> Registrar {
        Registrar::start(Arc::new(store.clone()), "web".parse().unwrap(), endpoint, TTL)
    }

    async fn registered(store: &MemoryStore) -> Vec<Endpoint> {
        let listing = store.list(&keys::registry(&"web".parse().unwrap())).await.unwrap();
        read_all(&listing.entries).registrations.into_iter().map(|r| r.endpoint).collect()
    }

    async fn until(registrar: &Registrar, wanted: impl Fn(&RegistrarState) -> bool) {
        registrar.state().wait_for(wanted).await.unwrap();
    }

    async fn put_slot(store: &MemoryStore, id: &str, state: SlotState) {
        let now = Timestamp::UNIX_EPOCH;
        let record = SlotRecord { endpoint: endpoint(id, 1), state, since: now, started: now };
        let key = keys::slot(&"web".parse().unwrap(), SlotNumber::new(1).unwrap());
        let value = serde_json::to_vec(&record).unwrap();
        assert!(matches!(
            store.commit(Txn::new().put(key, value)).await.unwrap(),
            crate::store::Commit::Committed(_)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_registered_while_it_lives_and_gone_when_it_is_closed() {
        let store = MemoryStore::new();
        let registrar = registrar(&store, endpoint("a", 1));
        until(&registrar, |s| *s == RegistrarState::Registered).await;
        tokio::time::sleep(TTL * 3).await;
        assert_eq!(registered(&store).await, [endpoint("a", 1)]);
        registrar.close().await;
        assert_eq!(registered(&store).await, []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_server_with_the_id_waits_until_the_first_is_gone() {
        let store = MemoryStore::new();
        let first = registrar(&store, endpoint("a", 1));
        until(&first, |s| *s == RegistrarState::Registered).await;
        let second = registrar(&store, endpoint("a", 2));
        until(&second, |s| matches!(s, RegistrarState::Failing(w) if w.contains("is taken by")))
            .await;
        assert_eq!(second.leave(Until::NoSessions, TTL).await, Left::Drained { sessions: 0 });
        assert_eq!(registered(&store).await, [endpoint("a", 1)]);
        drop(first);
        until(&second, |s| *s == RegistrarState::Registered).await;
        assert_eq!(registered(&store).await, [endpoint("a", 2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_started_again_takes_its_own_id_over_at_once() {
        let store = MemoryStore::new();
        let killed = registrar(&store, endpoint("a", 1));
        until(&killed, |s| *s == RegistrarState::Registered).await;
        drop(killed);
        let again = registrar(&store, endpoint("a", 1));
        let start = Instant::now();
        until(&again, |s| *s == RegistrarState::Registered).await;
        assert!(start.elapsed() < TTL / 2);
        tokio::time::sleep(TTL * 2).await;
        assert_eq!(registered(&store).await, [endpoint("a", 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn leaving_is_marked_and_waits_for_the_slot() {
        let store = MemoryStore::new();
        put_slot(&store, "a", SlotState::Ready).await;
        let registrar = registrar(&store, endpoint("a", 1));
        until(&registrar, |s| *s == RegistrarState::Registered).await;
        let left = registrar.leave(Until::NoNewSessions, TTL).await;
        assert_eq!(left, Left::TimedOut("slot 1 to be drained".into()));
        assert_eq!(registered(&store).await, [Endpoint { leaving: true, ..endpoint("a", 1) }]);
        let (left, ()) = tokio::join!(registrar.leave(Until::NoNewSessions, TTL), async {
            put_slot(&store, "a", SlotState::Drain).await;
        });
        assert_eq!(left, Left::Drained { sessions: 0 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_lasts_as_long_as_the_table_says_unless_the_slot_rests_before() {
        for (state, waits) in [(SlotState::Drain, true), (SlotState::Rest, false)] {
            let store = MemoryStore::new();
            put_spec(&store, TTL / 2).await;
            put_slot(&store, "a", state).await;
            let registrar = registrar(&store, endpoint("a", 1));
            until(&registrar, |s| *s == RegistrarState::Registered).await;
            let start = Instant::now();
            let left = registrar.leave(Until::NoNewSessions, TTL).await;
            assert_eq!(left, Left::Drained { sessions: 0 });
            assert_eq!(start.elapsed() >= TTL / 2, waits, "{state:?}");
        }
    }

    async fn put_spec(store: &MemoryStore, drain_at_least: Duration) {
        let spec = BackendSpec {
            slots: 1,
            ramp: crate::model::Ramp::default(),
            drain_deadline: TTL,
            drain_at_least,
            rest: TTL,
            unplaced: Vec::new(),
            origin: None,
        };
        let key = keys::spec(&"web".parse().unwrap());
        let txn = Txn::new().put(key, serde_json::to_vec(&spec).unwrap());
        assert!(matches!(store.commit(txn).await.unwrap(), crate::store::Commit::Committed(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_without_a_slot_leaves_at_once() {
        let store = MemoryStore::new();
        put_spec(&store, TTL / 2).await;
        let registrar = registrar(&store, endpoint("a", 1));
        until(&registrar, |s| *s == RegistrarState::Registered).await;
        assert_eq!(registrar.leave(Until::NoSessions, TTL).await, Left::Drained { sessions: 0 });
    }
}
