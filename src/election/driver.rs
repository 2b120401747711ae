//! Runs the state machine of an election on a store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::clock::Clock;
use super::lease::{self, Hold, Home, Renewal, SharedLease};
use super::machine::{self, Answer, CallId, Effect, Input, Machine, Moment};
use super::metrics::Metrics;
use super::view::Holder;
use super::{Elections, FencingToken, LeaderRecord, Leadership, Options, Standing, timing};
use crate::daemon::{self, Health, last_tick};
use crate::model::{Timestamp, keys};
use crate::store::{
    Change, Entry, ErrorKind, Guard, Key, LeaseId, Listing, Result, Revision, SharedStore,
    StoreLife, Txn, WatchEvent,
};

/// Stands until told to resign.
pub(super) async fn drive(
    elections: Elections,
    options: Options,
    told: watch::Sender<Standing>,
    resign: CancellationToken,
    resigned: CancellationToken,
) {
    let _resigned = resigned.drop_guard();
    let mut leader = elections.leaders.watch(options.name.as_str());
    let mut lives = Lives::default();
    let mut driver = Driver::new(elections, options, told);
    let ttl = driver.options.ttl;
    let mut resigning = false;
    // What the watch knows need not be read.
    if let Ok(event) = timeout(timing::first_news_wait(ttl), leader.next_event()).await
        && let Some(input) = lives.news_of(&driver.key, event)
    {
        driver.feed(input);
    }
    while !driver.stopped {
        let wake = driver.wake_at();
        let input = tokio::select! {
            () = resign.cancelled(), if !resigning => {
                resigning = true;
                Input::Resign
            }
            (id, answer) = answered(&mut driver.call) => driver.take_in(id, answer),
            (id, turn) = turn_comes(&mut driver.waiting) => driver.take_turn(id, turn),
            event = leader.next_event() => match lives.news_of(&driver.key, event) {
                Some(input) => input,
                None => continue,
            },
            Some(()) = driver.endings.next() => continue,
            () = sleep_until(wake) => Input::Tick,
        };
        driver.feed(input);
    }
    // Keys of abandoned campaigns would keep others out for as long as their leases live.
    while driver.endings.next().await.is_some() {}
}

/// How long a wait may be that only an input other than time ends.
const NOTHING_DUE: Duration = Duration::from_secs(3600);

/// How all elections of a process are.
#[derive(Debug, Clone)]
pub(super) struct Healths {
    calls: daemon::Healths,
    campaigns: daemon::Healths,
}

impl Default for Healths {
    fn default() -> Self {
        Self {
            calls: daemon::Healths::new("elections"),
            campaigns: daemon::Healths::new("candidates for elections"),
        }
    }
}

/// What the machine's effects act on.
struct Driver {
    store: SharedStore,
    options: Options,
    key: Key,
    machine: Machine,
    clock: Clock,
    told: watch::Sender<Standing>,
    leading: Option<Held>,
    /// The lease that leaders of this process share, if they do.
    shared: Option<SharedLease>,
    /// The key of the last leadership, until it is given up.
    hold: Option<Hold>,
    /// Those that all candidates of this process have for campaigns.
    turns: Arc<Semaphore>,
    /// A campaign that waits for its turn.
    waiting: Option<Waiting>,
    /// Held during a campaign, and no longer: others wait for it.
    turn: Option<OwnedSemaphorePermit>,
    call: Option<Call>,
    endings: FuturesUnordered<BoxFuture<'static, ()>>,
    /// Whether the store answers.
    health: Health,
    /// Whether campaigns come to an end.
    campaigns: Health,
    metrics: Metrics,
    stopped: bool,
}

/// A request under way.
struct Call {
    id: CallId,
    sent: Instant,
    answer: BoxFuture<'static, Result<Answer>>,
}

/// A request for a lease that is not sent yet.
struct Waiting {
    id: CallId,
    turn: BoxFuture<'static, Turn>,
}

type Turn = std::result::Result<OwnedSemaphorePermit, AcquireError>;

/// A leadership that is lost with this value, also when the candidate is dropped.
struct Held {
    leadership: Leadership,
    _lost: DropGuard,
}

impl Driver {
    fn new(elections: Elections, mut options: Options, told: watch::Sender<Standing>) -> Self {
        options.ttl = options.ttl.max(timing::SHORTEST_TTL);
        Self {
            key: keys::election(&options.name),
            machine: Machine::new(options.ttl),
            clock: Clock::start(),
            leading: None,
            call: None,
            endings: FuturesUnordered::new(),
            health: elections.healths.calls.one(format!("the election {}", options.name)),
            campaigns: elections
                .healths
                .campaigns
                .one(format!("standing in the election {}", options.name)),
            metrics: Metrics::new(&options.name),
            stopped: false,
            store: elections.store,
            shared: elections.lease,
            hold: None,
            turns: elections.turns,
            waiting: None,
            turn: None,
            options,
            told,
        }
    }

    fn wake_at(&self) -> Instant {
        match self.machine.wake_at() {
            Some(wake) => {
                let due = self.clock.instant(wake);
                let latest = due + self.machine.may_wait();
                last_tick(latest, timing::gather_wait(self.options.ttl)).max(due)
            }
            None => Instant::now() + NOTHING_DUE,
        }
    }

    fn feed(&mut self, input: Input) {
        let at = Moment { now: self.clock.now(), jitter: fastrand::f64() };
        for effect in self.machine.handle(at, input) {
            self.perform(effect);
        }
        if !self.machine.is_campaigning() {
            (self.waiting, self.turn) = (None, None);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Grant(id) => {
                self.turn = None;
                let turn = Box::pin(self.turns.clone().acquire_owned());
                self.waiting = Some(Waiting { id, turn });
            }
            Effect::Campaign(id, lease) => self.send(id, self.campaign(lease)),
            Effect::Read(id) => {
                let (store, key) = (self.store.clone(), self.key.clone());
                let read = async move { Ok(Answer::Read(store.get(&key).await?.map(holder))) };
                self.send(id, read);
            }
            Effect::KeepAlive(id, lease) => {
                let kept = self.keep_alive(lease);
                self.send(id, async move {
                    let Renewal { ttl, age } = kept.await?;
                    Ok(Answer::Renewed { ttl, age })
                });
            }
            Effect::Clear(id, created) => self.send(id, self.clear(created)),
            Effect::GaveUp { why } => self.campaigns.failed(&why),
            Effect::Resign(id, token, lease) => {
                let given_up = self.give_up(token, lease);
                self.send(id, given_up);
            }
            Effect::Revoke(lease) => self.end(lease),
            Effect::Lead { token, until } => self.lead(token, until),
            Effect::Extend { until } => {
                if let Some(held) = &self.leading {
                    held.leadership.extend(until);
                }
            }
            Effect::StepDown { why } => self.step_down(why),
            Effect::Follow { leader } => self.follow(leader),
            Effect::Stop => self.stopped = true,
        }
    }

    fn send(&mut self, id: CallId, answer: impl Future<Output = Result<Answer>> + Send + 'static) {
        let call = Call { id, sent: Instant::now(), answer: Box::pin(answer) };
        let given_up = self.call.replace(call);
        let deadline = timing::call_deadline(self.options.ttl);
        if given_up.is_some_and(|call| call.sent.elapsed() >= deadline) {
            self.health.failed(&"the store does not answer in time");
        }
    }

    fn record(&self) -> Bytes {
        LeaderRecord { id: self.options.id.to_string(), since: Some(Timestamp::now()) }.to_value()
    }

    /// Asks for a lease, now that it is this candidate's turn.
    fn take_turn(&mut self, id: CallId, turn: Turn) -> Input {
        // The turns are never closed.
        self.turn = turn.ok();
        let (store, ttl) = (self.store.clone(), self.options.ttl);
        self.send(id, async move { Ok(Answer::Granted(store.grant(ttl).await?)) });
        Input::Sent(id)
    }

    fn campaign(&self, lease: LeaseId) -> impl Future<Output = Result<Answer>> + use<> {
        let absent = Guard::Absent(self.key.clone());
        let txn = Txn::new().guard(absent).put_leased(self.key.clone(), self.record(), lease);
        let store = self.store.clone();
        // The key is read back, whatever the answer is.
        async move { store.commit(txn).await.map(|_commit| Answer::Campaigned) }
    }

    /// Deletes a leader key that is on no lease and so would be there for ever.
    fn clear(&self, created: Revision) -> impl Future<Output = Result<Answer>> + use<> {
        let (key, store) = (self.key.clone(), self.store.clone());
        tracing::warn!(%key, "the leader key is on no lease, as if it was imported or put by hand: deleting it");
        let txn = Txn::new().guard(Guard::CreatedAt(key.clone(), created)).delete(key);
        async move { store.commit(txn).await.map(|_commit| Answer::Cleared) }
    }

    fn keep_alive(&self, own: LeaseId) -> BoxFuture<'static, Result<Renewal>> {
        let store = self.store.clone();
        match self.shared.clone().zip(self.hold.clone()) {
            None => Box::pin(async move { Ok(Renewal::now(store.keep_alive(own).await?)) }),
            Some((shared, hold)) => {
                let hold = Hold { own, ..hold };
                Box::pin(async move { hold.keep_alive(&store, &shared).await })
            }
        }
    }

    /// Ends a campaign's lease, and takes back a key that is not on it any more.
    fn end(&mut self, lease: LeaseId) {
        self.endings.push(Box::pin(revoke(self.store.clone(), lease)));
        if let Some((shared, hold)) = self.moved() {
            self.endings.push(Box::pin(async move {
                let deleted =
                    timeout(timing::LAST_CALL_DEADLINE, shared.give_up(&hold.key, hold.token));
                if !matches!(deleted.await, Ok(Ok(_))) {
                    tracing::debug!(key = %hold.key, "a leader key is deleted later");
                }
            }));
        }
    }

    /// The key of the last leadership, where it may be on the shared lease; it is not asked for
    /// again.
    fn moved(&mut self) -> Option<(SharedLease, Hold)> {
        let hold = self.hold.take()?;
        self.shared.clone().zip(Some(hold).filter(|hold| hold.home() != Home::Own))
    }

    /// The delete frees the key at once, the revocation also if the delete's outcome is unknown.
    fn give_up(&mut self, token: Revision, lease: LeaseId) -> BoxFuture<'static, Result<Answer>> {
        let (store, key) = (self.store.clone(), self.key.clone());
        if let Some((shared, _)) = self.moved() {
            let deleted = async move { shared.give_up(&key, token).await };
            return Box::pin(async move { deleted.await.map(|_commit| Answer::Resigned) });
        }
        Box::pin(async move {
            let deleted = lease::delete(&store, &key, token).await;
            store.revoke(lease).await?;
            deleted.map(|_commit| Answer::Resigned)
        })
    }

    /// Turns an answer into the machine's input.
    fn take_in(&mut self, id: CallId, answer: Result<Answer>) -> Input {
        let answer = answer.unwrap_or_else(|error| match error.kind() {
            ErrorKind::LeaseExpired => Answer::LeaseExpired,
            _ => {
                self.health.failed(&error);
                Answer::Failed
            }
        });
        if !matches!(answer, Answer::Failed) {
            self.health.succeeded();
            self.metrics.succeeded();
        }
        Input::Answer(id, answer)
    }

    fn lead(&mut self, token: Revision, until: Duration) {
        self.campaigns.succeeded();
        tracing::info!(election = %self.options.name, %token, "leading");
        self.hold = Some(Hold {
            key: self.key.clone(),
            token,
            own: LeaseId(0),
            record: self.record(),
            home: Arc::default(),
        });
        let token = FencingToken(token);
        let leadership = Leadership::new(token, self.key.clone(), self.clock, until);
        let lost = leadership.lost.clone().drop_guard();
        self.leading = Some(Held { leadership: leadership.clone(), _lost: lost });
        self.metrics.leads(true, token.0);
        self.told.send_replace(Standing::Leader(leadership));
    }

    fn step_down(&mut self, why: &'static str) {
        let token = self.leading.take().map(|held| held.leadership.token.0);
        let (election, token) = (&self.options.name, token.unwrap_or_default());
        if why == machine::RESIGNED {
            tracing::info!(%election, %token, "not leading any more: {why}");
        } else {
            // Nothing is lost by it, but a leader does not change for no reason.
            tracing::warn!(%election, %token, "not leading any more: {why}; it has stopped writing, and stands again");
        }
        self.metrics.leads(false, Revision::default());
        self.told.send_replace(Standing::Follower { leader: None });
    }

    fn follow(&mut self, leader: Option<Holder>) {
        match &leader {
            Some(holder) => {
                self.campaigns.succeeded();
                let (leader, token) = (&holder.id, holder.created);
                tracing::info!(election = %self.options.name, leader, %token, "following");
            }
            None => tracing::info!(election = %self.options.name, "nobody leads"),
        }
        self.metrics.leads(false, leader.as_ref().map_or(Revision::default(), |h| h.created));
        self.told.send_replace(Standing::Follower { leader: leader.map(|holder| holder.id) });
    }
}

/// Waits for the answer to the request under way; cancel-safe.
async fn answered(call: &mut Option<Call>) -> (CallId, Result<Answer>) {
    let Some(under_way) = call else { return std::future::pending().await };
    let answer = (&mut under_way.answer).await;
    let id = under_way.id;
    *call = None;
    (id, answer)
}

/// Waits for the turn of a campaign that waits for one; cancel-safe.
async fn turn_comes(waiting: &mut Option<Waiting>) -> (CallId, Turn) {
    let Some(first) = waiting else { return std::future::pending().await };
    let turn = (&mut first.turn).await;
    let id = first.id;
    *waiting = None;
    (id, turn)
}

/// Ends the lease of an abandoned campaign, or leaves it to its time to live.
async fn revoke(store: SharedStore, lease: LeaseId) {
    match timeout(timing::LAST_CALL_DEADLINE, store.revoke(lease)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a lease is left to its time to live"),
        Err(_elapsed) => tracing::debug!(%lease, "a lease is left to its time to live"),
    }
}

/// In which life of the store the watch is, and how far.
#[derive(Debug, Default)]
struct Lives {
    life: StoreLife,
    revision: Revision,
}

impl Lives {
    fn news_of(&mut self, key: &Key, event: WatchEvent) -> Option<Input> {
        match event {
            WatchEvent::Reset(Listing { life, revision, entries }) => {
                let reborn = self.life.is_other(&life) || revision < self.revision;
                *self = Self { life, revision };
                let found = entries.into_iter().find(|entry| entry.key == *key).map(holder);
                Some(match found {
                    found if reborn => Input::Reborn(revision, found),
                    Some(holder) => Input::Seen(holder),
                    None => Input::Gone(revision),
                })
            }
            WatchEvent::Changed(changes) => {
                self.revision = changes.first().map_or(self.revision, Change::revision);
                let change = changes.into_iter().find(|change| change.key() == key)?;
                Some(match change {
                    Change::Put(entry) => Input::Seen(holder(entry)),
                    Change::Delete { revision, .. } => Input::Gone(revision),
                })
            }
            WatchEvent::Interrupted(_) => None,
        }
    }
}

fn holder(entry: Entry) -> Holder {
    let id = LeaderRecord::from_value(&entry.value).id;
    Holder { created: entry.created, lease: entry.lease, id }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::election::{Candidate, clock};
    use crate::store::{Commit, MemoryStore, Store as _};

    const TTL: Duration = Duration::from_secs(10);

    fn candidate(store: &MemoryStore, id: &str) -> Candidate {
        let options = Options { name: "test".parse().unwrap(), id: id.parse().unwrap(), ttl: TTL };
        Candidate::start(Arc::new(store.clone()), options)
    }

    async fn leadership(candidate: &Candidate) -> Leadership {
        let mut standing = candidate.standing();
        let leads = standing.wait_for(|s| matches!(s, Standing::Leader(_))).await.unwrap();
        let Standing::Leader(leadership) = &*leads else { unreachable!() };
        leadership.clone()
    }

    async fn follows(candidate: &Candidate, id: &str) {
        let followed =
            |s: &Standing| matches!(s, Standing::Follower { leader: Some(l) } if l == id);
        candidate.standing().wait_for(followed).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_leads_for_as_long_as_it_lives() {
        let store = MemoryStore::new();
        let a = candidate(&store, "a");
        let first = leadership(&a).await;
        let b = candidate(&store, "b");
        follows(&b, "a").await;
        tokio::time::sleep(TTL * 10).await;
        assert!(first.is_held() && a.leadership().is_some() && b.leadership().is_none());
        let written = first.commit(&store, Txn::new().put("x".parse().unwrap(), "1")).await;
        assert!(matches!(written, Ok(Commit::Committed(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_successor_takes_over_at_once_when_the_leader_resigns() {
        let store = MemoryStore::new();
        let a = candidate(&store, "a");
        let first = leadership(&a).await;
        let b = candidate(&store, "b");
        follows(&b, "a").await;
        let started = Instant::now();
        a.resign().await;
        assert!(first.lost.is_cancelled() && a.leadership().is_none());
        let second = leadership(&b).await;
        assert!(started.elapsed() < Duration::from_millis(10), "took {:?}", started.elapsed());
        assert!(second.token > first.token);
        let late = first.commit(&store, Txn::new().put("x".parse().unwrap(), "1")).await;
        assert_eq!(late.unwrap(), Commit::Conflict);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_leader_is_lost_at_once_and_replaced_when_its_lease_ends() {
        let store = MemoryStore::new();
        let a = candidate(&store, "a");
        let first = leadership(&a).await;
        let b = candidate(&store, "b");
        follows(&b, "a").await;
        let started = Instant::now();
        drop(a);
        first.lost.cancelled().await;
        leadership(&b).await;
        assert!(started.elapsed() <= TTL + Duration::from_secs(1), "took {:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_on_a_host_that_was_asleep_leads_no_more() {
        let store = MemoryStore::new();
        let a = candidate(&store, "a");
        let first = leadership(&a).await;
        clock::tests::suspend(TTL);
        assert!(!first.is_held() && a.leadership().is_none());
        assert!(!first.lost.is_cancelled(), "no timer has noticed yet");
        let woken = Instant::now();
        first.lost.cancelled().await;
        assert!(woken.elapsed() < TTL / 2, "took {:?}", woken.elapsed());
        // Here the lease has lived on, so that the same candidate comes back.
        assert!(leadership(&a).await.token > first.token);
    }

    #[tokio::test(start_paused = true)]
    async fn one_leads_again_after_a_store_was_lost_or_put_back_and_nobody_writes_without_a_pause()
    {
        let store = MemoryStore::new();
        let (a, b) = (candidate(&store, "a"), candidate(&store, "b"));
        let anybody = async || tokio::select! { l = leadership(&a) => l, l = leadership(&b) => l };
        let old = store.copy();
        for number in 0..1000 {
            let put = Txn::new().put("k".parse().unwrap(), number.to_string());
            let _written = store.commit(put).await.unwrap();
        }
        for copy in [old, MemoryStore::new().copy()] {
            let first = anybody().await;
            store.restore(copy);
            first.lost.cancelled().await;
            let second = anybody().await;
            tokio::time::sleep(TTL * 3).await;
            assert!(second.is_held(), "it leads on");
            let revision = store.list(&keys::elections()).await.unwrap().revision;
            assert!(revision.0 < 20, "{revision} commits");
            for number in 0..100 {
                let put = Txn::new().put("k".parse().unwrap(), number.to_string());
                let _written = store.commit(put).await.unwrap();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_key_without_a_lease_keeps_nobody_out() {
        let store = MemoryStore::new();
        let key = keys::election(&"test".parse().unwrap());
        let imported = LeaderRecord { id: "gone".into(), since: None }.to_value();
        let _put = store.commit(Txn::new().put(key, imported)).await.unwrap();
        let candidate = candidate(&store, "a");
        let leadership = tokio::time::timeout(TTL, leadership(&candidate));
        leadership.await.expect("it takes over soon");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_whose_key_is_deleted_steps_down_and_stands_again() {
        let store = MemoryStore::new();
        let a = candidate(&store, "a");
        let first = leadership(&a).await;
        let _deleted = store.commit(Txn::new().delete(first.key.clone())).await.unwrap();
        first.lost.cancelled().await;
        assert!(leadership(&a).await.token > first.token);
    }
}
