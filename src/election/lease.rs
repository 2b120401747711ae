//! The lease that the leaders of one process share, so that many of them cost one renewal.
//!
//! A campaign has a lease of its own, since its end takes back whatever the campaign may have
//! written. A leader moves its key to the shared lease at its first renewal: the key's creation
//! revision, which is the fencing token, stays the same. From then on the key is given up by being
//! deleted, as the shared lease lives on.

use std::sync::{Arc, Mutex as Lock, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, timeout};

use super::clock::Clock;
use super::timing;
use crate::store::{
    Commit, Error, ErrorKind, Guard, Key, Lease, LeaseId, Result, Revision, SharedStore, Txn,
};

/// A lease that is granted when it is needed, and renewed as long as somebody asks for that.
#[derive(Debug, Clone)]
pub(super) struct SharedLease {
    store: SharedStore,
    ttl: Duration,
    clock: Clock,
    held: Arc<Mutex<Held>>,
    /// How many keys may move to the lease at a time.
    moves: Arc<Semaphore>,
    /// Keys on the lease that are to go, by their fencing tokens.
    orphans: Arc<Lock<Vec<(Key, Revision)>>>,
}

/// So that many leaders that began at one moment do not wait for the store for too long.
const MOVES: usize = 32;

#[derive(Debug, Default)]
struct Held {
    lease: Option<Lease>,
    /// How the last renewal ended, and when it was sent.
    last: Option<(Duration, Result<()>)>,
}

/// That a lease lives: for this time to live, from so long before the one who asks did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Renewal {
    pub ttl: Duration,
    pub age: Duration,
}

impl Renewal {
    /// From the question on.
    pub fn now(ttl: Duration) -> Self {
        Self { ttl, age: Duration::ZERO }
    }
}

impl SharedLease {
    pub fn new(store: SharedStore, ttl: Duration) -> Self {
        let moves = Arc::new(Semaphore::new(MOVES));
        let (held, orphans) = (Arc::default(), Arc::default());
        Self { store, ttl, clock: Clock::start(), held, moves, orphans }
    }

    /// A lease that lives for its whole TTL from now on at least.
    pub async fn lease(&self) -> Result<Lease> {
        match self.renewed(None).await {
            Err(error) if error.kind() == ErrorKind::LeaseExpired => self.renewed(None).await,
            result => result,
        }
    }

    /// Renews this lease, unless that was done a moment ago.
    pub async fn renew(&self, lease: LeaseId) -> Result<Renewal> {
        if let Some(renewal) = self.renewed_lately(lease) {
            return Ok(renewal);
        }
        Ok(Renewal::now(self.renewed(Some(lease)).await?.ttl))
    }

    /// The last renewal, while it is fresh: of many who ask, most need not wait.
    fn renewed_lately(&self, wanted: LeaseId) -> Option<Renewal> {
        let held = self.held.try_lock().ok()?;
        let lease = held.lease.filter(|lease| lease.id == wanted)?;
        let Some((sent, Ok(()))) = &held.last else { return None };
        // On a clock that goes on in a suspend, in which the lease may end.
        let age = self.clock.now().saturating_sub(*sent);
        (age < timing::fresh_time(self.ttl)).then_some(Renewal { ttl: lease.ttl, age })
    }

    /// One renewal for all who ask within a moment.
    async fn renewed(&self, wanted: Option<LeaseId>) -> Result<Lease> {
        let asked = self.clock.now();
        let mut held = self.held.lock().await;
        if held.last.as_ref().is_none_or(|(sent, _)| *sent < asked) {
            sleep(timing::gather_wait(self.ttl)).await;
            let sent = self.clock.now();
            let renewed = self.ask(&mut held, wanted.is_none()).await;
            held.last = Some((sent, renewed));
        }
        if let Some((_, Err(error))) = &held.last {
            return Err(error.clone());
        }
        match held.lease {
            Some(lease) if wanted.is_none_or(|wanted| wanted == lease.id) => Ok(lease),
            _ => Err(self.ended(wanted)),
        }
    }

    async fn ask(&self, held: &mut Held, may_grant: bool) -> Result<()> {
        let lease = match held.lease {
            Some(lease) => {
                let renewed = self.store.keep_alive(lease.id).await;
                if renewed.as_ref().is_err_and(|e| e.kind() == ErrorKind::LeaseExpired) {
                    held.lease = None;
                }
                Lease { ttl: renewed?, ..lease }
            }
            None if may_grant => self.store.grant(self.ttl).await?,
            None => return Err(self.ended(None)),
        };
        held.lease = Some(lease);
        self.delete_orphans().await;
        Ok(())
    }

    fn ended(&self, lease: Option<LeaseId>) -> Error {
        let subject = lease.map(|lease| lease.to_string()).unwrap_or_default();
        let reason = "the lease that the leaders of this process share has ended";
        Error::new(ErrorKind::LeaseExpired, self.store.name(), "keep_alive", subject, reason)
    }

    /// Deletes a leader key that may be on the lease. Where the store does not answer, it is deleted
    /// later, or ends with the lease.
    pub async fn give_up(&self, key: &Key, token: Revision) -> Result<Commit> {
        // First of all, should this be dropped on the way.
        self.orphans().push((key.clone(), token));
        let deleted = delete(&self.store, key, token).await?;
        self.orphans().retain(|orphan| *orphan != (key.clone(), token));
        Ok(deleted)
    }

    async fn delete_orphans(&self) {
        let orphans = self.orphans().clone();
        for (key, token) in orphans {
            match delete(&self.store, &key, token).await {
                Ok(_) => self.orphans().retain(|orphan| *orphan != (key.clone(), token)),
                Err(error) => return tracing::debug!(%error, "a leader key is deleted later"),
            }
        }
    }

    fn orphans(&self) -> MutexGuard<'_, Vec<(Key, Revision)>> {
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deletes the leader key of this fencing token; a conflict where it is gone.
pub(super) async fn delete(store: &SharedStore, key: &Key, token: Revision) -> Result<Commit> {
    let own = Guard::CreatedAt(key.clone(), token);
    store.commit(Txn::new().guard(own).delete(key.clone())).await
}

/// Which lease a leader's key is on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Home {
    /// The campaign's.
    #[default]
    Own,
    /// The campaign's or the shared one: the answer to the move was not heard.
    Unsure(LeaseId),
    Shared(LeaseId),
}

/// A leader's key with its leases.
#[derive(Debug, Clone)]
pub(super) struct Hold {
    pub key: Key,
    pub token: Revision,
    /// The campaign's.
    pub own: LeaseId,
    /// What the key says.
    pub record: bytes::Bytes,
    pub home: Arc<Lock<Home>>,
}

impl Hold {
    pub fn home(&self) -> Home {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_at(&self, home: Home) {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = home;
    }

    /// Renews the lease that the key is on, which becomes the shared one.
    pub async fn keep_alive(&self, store: &SharedStore, shared: &SharedLease) -> Result<Renewal> {
        if let Home::Unsure(lease) = self.home() {
            let found = store.get(&self.key).await?;
            let moved = found.is_some_and(|e| e.created == self.token && e.lease == Some(lease));
            self.is_at(if moved { Home::Shared(lease) } else { Home::Own });
        }
        match self.home() {
            Home::Shared(lease) => shared.renew(lease).await,
            Home::Own | Home::Unsure(_) => match self.move_to(store, shared).await {
                Some(ttl) => Ok(Renewal::now(ttl)),
                // It may be on either.
                None => Ok(Renewal::now(store.keep_alive(self.own).await?.min(shared.ttl))),
            },
        }
    }

    /// Answers the shared lease's TTL, if the key is on it now. The campaign's own lease ends by
    /// itself then.
    async fn move_to(&self, store: &SharedStore, shared: &SharedLease) -> Option<Duration> {
        let lease = shared.lease().await.ok()?;
        // Who waits for too long moves the next time.
        let permit = timeout(timing::move_wait(shared.ttl), shared.moves.acquire()).await;
        let Ok(Ok(_permit)) = permit else { return None };
        let own = Guard::CreatedAt(self.key.clone(), self.token);
        let put = Txn::new().guard(own).put_leased(self.key.clone(), self.record.clone(), lease.id);
        self.is_at(Home::Unsure(lease.id));
        match store.commit(put).await {
            Ok(Commit::Committed(_)) => self.is_at(Home::Shared(lease.id)),
            // The key is gone, which the watch tells.
            Ok(Commit::Conflict) => self.is_at(Home::Own),
            Err(error) if error.kind() == ErrorKind::Indeterminate => {}
            Err(_) => self.is_at(Home::Own),
        }
        matches!(self.home(), Home::Shared(_)).then_some(lease.ttl)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::election::{Candidate, Elections, Leadership, Options, Standing};
    use crate::store::{Entry, Faults, Faulty, Listing, MemoryStore, Prefix, Store, Watch};

    const TTL: Duration = Duration::from_secs(10);
    const COUNT: usize = 50;

    /// Counts renewals.
    #[derive(Debug, Clone)]
    struct Counting {
        inner: Faulty<MemoryStore>,
        renewals: Arc<AtomicUsize>,
    }

    #[async_trait]
    impl Store for Counting {
        fn name(&self) -> &'static str {
            self.inner.name()
        }

        async fn get(&self, key: &Key) -> Result<Option<Entry>> {
            self.inner.get(key).await
        }

        async fn list(&self, prefix: &Prefix) -> Result<Listing> {
            self.inner.list(prefix).await
        }

        async fn commit(&self, txn: Txn) -> Result<Commit> {
            self.inner.commit(txn).await
        }

        async fn watch(&self, prefix: &Prefix) -> Result<Watch> {
            self.inner.watch(prefix).await
        }

        async fn grant(&self, ttl: Duration) -> Result<Lease> {
            self.inner.grant(ttl).await
        }

        async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
            self.renewals.fetch_add(1, Ordering::Relaxed);
            self.inner.keep_alive(lease).await
        }

        async fn revoke(&self, lease: LeaseId) -> Result<()> {
            self.inner.revoke(lease).await
        }
    }

    /// Candidates of one process, which all lead.
    struct Process {
        memory: MemoryStore,
        store: Counting,
        candidates: Vec<Candidate>,
    }

    impl Process {
        async fn start() -> Self {
            let memory = MemoryStore::new();
            let inner = Faulty::new(memory.clone(), 1);
            let store = Counting { inner, renewals: Arc::default() };
            let elections = Elections::together(Arc::new(store.clone()), TTL);
            let stand = |number| {
                let name = format!("e{number}").parse().unwrap();
                elections.stand(Options { name, id: "a".parse().unwrap(), ttl: TTL })
            };
            let process = Self { memory, store, candidates: (0..COUNT).map(stand).collect() };
            for candidate in &process.candidates {
                leads(candidate).await;
            }
            process
        }

        fn renewals(&self) -> usize {
            self.store.renewals.swap(0, Ordering::Relaxed)
        }

        async fn keys(&self) -> Vec<Entry> {
            self.memory.list(&crate::model::keys::elections()).await.unwrap().entries
        }

        async fn held(&self) -> usize {
            self.candidates.iter().filter(|c| c.leadership().is_some()).count()
        }
    }

    async fn leads(candidate: &Candidate) -> Leadership {
        let mut standing = candidate.standing();
        let leads = standing.wait_for(|s| matches!(s, Standing::Leader(_))).await.unwrap();
        let Standing::Leader(leadership) = &*leads else { unreachable!() };
        leadership.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn many_leaders_of_a_process_are_renewed_as_one() {
        let process = Process::start().await;
        let first: Vec<Leadership> =
            process.candidates.iter().filter_map(Candidate::leadership).collect();
        sleep(TTL).await;
        process.renewals();
        sleep(TTL * 10).await;
        let renewals = process.renewals();
        // They ask at any time, and are gathered; each by itself it would be three times their number.
        let most = 10 * (TTL.as_millis() / timing::gather_wait(TTL).as_millis()) as usize;
        assert!((20..=most).contains(&renewals), "{renewals} renewals in ten TTLs");
        assert!(
            first.iter().all(Leadership::is_held),
            "the tokens are still those of the campaigns"
        );
        let leases: std::collections::BTreeSet<_> =
            process.keys().await.iter().map(|entry| entry.lease).collect();
        assert_eq!(leases.len(), 1);
    }

    /// Each has to wait far longer for its turn than a request may take.
    #[tokio::test(start_paused = true)]
    async fn all_of_many_come_to_lead_though_the_store_is_slow() {
        let store = Faulty::new(MemoryStore::new(), 1);
        let (delay, max_delay) = (1.0, TTL / 20);
        store.set_faults(Faults { delay, max_delay, ..Faults::default() });
        let elections = Elections::together(Arc::new(store), TTL);
        let stand = |number| {
            let name = format!("e{number}").parse().unwrap();
            elections.stand(Options { name, id: "a".parse().unwrap(), ttl: TTL })
        };
        let candidates: Vec<Candidate> = (0..20 * COUNT).map(stand).collect();
        for candidate in &candidates {
            timeout(TTL * 20, leads(candidate)).await.expect("it comes to lead");
        }
        sleep(TTL * 3).await;
        let leading = candidates.iter().filter(|c| c.leadership().is_some()).count();
        assert_eq!(leading, candidates.len());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_resigns_frees_its_key_and_leaves_the_others_theirs() {
        let process = Process::start().await;
        sleep(TTL).await;
        process.candidates[0].resign().await;
        assert_eq!(process.keys().await.len(), COUNT - 1);
        sleep(TTL * 2).await;
        assert_eq!(process.held().await, COUNT - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_lease_ends_all_and_they_stand_again() {
        let process = Process::start().await;
        sleep(TTL).await;
        let lost: Vec<Leadership> =
            process.candidates.iter().filter_map(Candidate::leadership).collect();
        assert_eq!(lost.len(), COUNT);
        let lease = process.keys().await[0].lease.unwrap();
        process.memory.revoke(lease).await.unwrap();
        for leadership in &lost {
            leadership.lost.cancelled().await;
        }
        for (candidate, before) in process.candidates.iter().zip(&lost) {
            assert!(leads(candidate).await.token > before.token);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_could_not_be_deleted_goes_once_the_store_answers() {
        let process = Process::start().await;
        sleep(TTL).await;
        let refused = Faults { refuse: 1.0, ..Faults::default() };
        process.store.inner.set_faults(refused);
        process.candidates[0].resign().await;
        assert_eq!(process.keys().await.len(), COUNT);
        process.store.inner.set_faults(Faults::default());
        sleep(TTL / 2).await;
        assert_eq!(process.keys().await.len(), COUNT - 1);
        assert_eq!(process.held().await, COUNT - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn lost_answers_neither_end_a_leadership_nor_leave_a_key_behind() {
        let process = Process::start().await;
        let lossy = Faults { lose_answer: 0.3, refuse: 0.1, ..Faults::default() };
        process.store.inner.set_faults(lossy);
        sleep(TTL * 5).await;
        process.store.inner.set_faults(Faults::default());
        sleep(TTL * 2).await;
        for candidate in &process.candidates {
            leads(candidate).await;
        }
        let keys = process.keys().await;
        for candidate in &process.candidates {
            let leadership = candidate.leadership().unwrap();
            assert!(
                keys.iter().any(|e| e.key == leadership.key && e.created == leadership.token.0)
            );
            candidate.resign().await;
        }
        sleep(TTL * 2).await;
        assert_eq!(process.keys().await, []);
    }
}
