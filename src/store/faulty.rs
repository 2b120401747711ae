use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use futures::stream;
use tokio::sync::watch;

use super::{
    Commit, Entry, Error, ErrorKind, Key, Lease, LeaseId, Listing, Prefix, Result, Store, Txn,
    Watch, WatchEvent,
};

/// Between tries to watch the inner store.
const RETRY: Duration = Duration::from_millis(50);

/// How often what goes wrong, each from 0 (never) to 1 (always).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Faults {
    /// Refused before the store was asked: `Unavailable`.
    pub refuse: f64,
    /// Slept for up to `max_delay`, before the store is asked and again before its answer arrives.
    pub delay: f64,
    pub max_delay: Duration,
    /// Applied, and then the answer is lost: `Indeterminate`.
    pub lose_answer: f64,
    /// A watch breaks before an event: `Interrupted`, then a `Reset`.
    pub cut_watch: f64,
}

/// A store that fails on purpose. The same seed, calls and faults give the same failures, on a
/// runtime with one thread. Clones share the faults; two wrappers of one store fail apart, as two
/// hosts do.
#[derive(Debug, Clone)]
pub struct Faulty<S> {
    inner: S,
    state: Arc<Mutex<State>>,
    link: Arc<watch::Sender<Link>>,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    faults: Faults,
}

/// The way to the store: whether it is there, and how often it was cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Link {
    offline: bool,
    cuts: u64,
}

/// What was drawn for one call.
struct Draw {
    refused: bool,
    before: Duration,
    after: Duration,
    lost: bool,
}

impl<S: Store + Clone> Faulty<S> {
    /// Fails nothing until it is told to.
    pub fn new(inner: S, seed: u64) -> Self {
        let state = State { rng: Rng::with_seed(seed), faults: Faults::default() };
        Self {
            inner,
            state: Arc::new(Mutex::new(state)),
            link: Arc::new(watch::Sender::new(Link::default())),
        }
    }

    /// What fails from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Offline, every call is refused and every watch is broken until it is online again.
    pub fn set_offline(&self, offline: bool) {
        self.link.send_if_modified(|link| {
            let changed = link.offline != offline;
            link.offline = offline;
            link.cuts += u64::from(changed && offline);
            changed
        });
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self) -> Draw {
        let State { rng, faults } = &mut *self.state();
        let mut delay = || match rng.f64() < faults.delay {
            true => faults.max_delay.mul_f64(rng.f64()),
            false => Duration::ZERO,
        };
        let (before, after) = (delay(), delay());
        let (refuse, lose) = (faults.refuse, faults.lose_answer);
        Draw { refused: rng.f64() < refuse, before, after, lost: rng.f64() < lose }
    }

    fn draw_cut(&self) -> bool {
        let State { rng, faults } = &mut *self.state();
        rng.f64() < faults.cut_watch
    }

    fn failure(
        &self,
        kind: ErrorKind,
        operation: &'static str,
        subject: &(dyn std::fmt::Display + Sync),
    ) -> Error {
        Error::new(kind, self.inner.name(), operation, subject, "failed on purpose")
    }

    /// One call with its faults around it.
    async fn call<T: Send>(
        &self,
        operation: &'static str,
        subject: &(dyn std::fmt::Display + Sync),
        future: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let draw = self.draw();
        pause(draw.before).await;
        if draw.refused || self.link.borrow().offline {
            return Err(self.failure(ErrorKind::Unavailable, operation, subject));
        }
        let result = future.await;
        pause(draw.after).await;
        if draw.lost || self.link.borrow().offline {
            // Nothing can have been applied by a question.
            let kind = match operation {
                "get" | "list" => ErrorKind::Unavailable,
                _ => ErrorKind::Indeterminate,
            };
            return Err(self.failure(kind, operation, subject));
        }
        result
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

#[async_trait]
impl<S: Store + Clone> Store for Faulty<S> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.call("get", key, self.inner.get(key)).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        self.call("list", prefix, self.inner.list(prefix)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit> {
        let subject = txn.writes.first().map(|w| w.key().to_string()).unwrap_or_default();
        self.call("commit", &subject, self.inner.commit(txn)).await
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch> {
        let watching = Watching {
            store: self.clone(),
            prefix: prefix.clone(),
            link: self.link.subscribe(),
            cuts: self.link.borrow().cuts,
            open: None,
            said: false,
        };
        Ok(Watch::new(stream::unfold(watching, |mut watching| async move {
            let event = watching.next().await;
            Some((event, watching))
        })))
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        self.call("grant", &"", self.inner.grant(ttl)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        self.call("keep_alive", &lease, self.inner.keep_alive(lease)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.call("revoke", &lease, self.inner.revoke(lease)).await
    }
}

/// One watch, over as many watches of the inner store as there were cuts.
struct Watching<S> {
    store: Faulty<S>,
    prefix: Prefix,
    link: watch::Receiver<Link>,
    /// The cuts that this watch has gone through.
    cuts: u64,
    open: Option<Watch>,
    /// `Interrupted` was said and no `Reset` since.
    said: bool,
}

impl<S: Store + Clone> Watching<S> {
    async fn next(&mut self) -> WatchEvent {
        loop {
            let event = match &mut self.open {
                None => self.reopen().await.map(WatchEvent::Interrupted),
                Some(watch) => tokio::select! {
                    biased;
                    () = cut(&mut self.link, self.cuts) => self.broken(),
                    event = watch.next_event() => match self.store.draw_cut() {
                        true => self.broken(),
                        false => Some(event),
                    },
                },
            };
            match event {
                // Once a break is enough.
                Some(WatchEvent::Interrupted(_)) if self.said => {}
                Some(event) => {
                    self.said = matches!(event, WatchEvent::Interrupted(_));
                    return event;
                }
                None => {}
            }
        }
    }

    /// Waits for the way to be there, then watches anew.
    async fn reopen(&mut self) -> Option<Error> {
        if self.link.borrow().offline && !self.said {
            return Some(self.store.failure(ErrorKind::Unavailable, "watch", &self.prefix));
        }
        // The sender lives in `self.store`, so this cannot fail.
        _ = self.link.wait_for(|link| !link.offline).await.is_ok();
        self.cuts = self.link.borrow().cuts;
        let draw = self.store.draw();
        pause(draw.before + draw.after).await;
        match self.store.inner.watch(&self.prefix).await {
            Ok(watch) => {
                self.open = Some(watch);
                None
            }
            Err(error) => {
                pause(RETRY).await;
                Some(error)
            }
        }
    }

    fn broken(&mut self) -> Option<WatchEvent> {
        self.open = None;
        let kind = ErrorKind::Unavailable;
        Some(WatchEvent::Interrupted(self.store.failure(kind, "watch", &self.prefix)))
    }
}

/// Ends when the link was cut since `seen`.
async fn cut(link: &mut watch::Receiver<Link>, seen: u64) {
    if link.wait_for(|link| link.cuts != seen).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStore, Mirror};

    fn harsh() -> Faults {
        let max_delay = Duration::from_millis(20);
        Faults { refuse: 0.2, delay: 0.3, max_delay, lose_answer: 0.2, cut_watch: 0.2 }
    }

    fn key(number: u32) -> Key {
        format!("k/{number:03}").parse().unwrap()
    }

    async fn put(store: &impl Store, number: u32) -> Option<ErrorKind> {
        store.commit(Txn::new().put(key(number), "v")).await.err().map(|error| error.kind())
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_commit_is_absent_and_a_lost_one_is_there() {
        let store = MemoryStore::new();
        let faulty = Faulty::new(store.clone(), 1);
        faulty.set_faults(harsh());
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..100 {
            let failure = put(&faulty, number).await;
            let there = store.get(&key(number)).await.unwrap().is_some();
            assert_eq!(there, failure != Some(ErrorKind::Unavailable), "{number}: {failure:?}");
            seen.insert(failure.map(ErrorKind::as_str));
        }
        assert_eq!(seen.len(), 3, "{seen:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_seed_decides_all_that_fails() {
        async fn failures(seed: u64) -> Vec<(Option<ErrorKind>, Duration)> {
            let started = tokio::time::Instant::now();
            let faulty = Faulty::new(MemoryStore::new(), seed);
            faulty.set_faults(harsh());
            let mut failures = Vec::new();
            for number in 0..50 {
                failures.push((put(&faulty, number).await, started.elapsed()));
            }
            failures
        }
        assert_eq!(failures(5).await, failures(5).await);
        assert_ne!(failures(5).await, failures(6).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_cut_again_and_again_ends_up_right() {
        let store = MemoryStore::new();
        let faulty = Faulty::new(store.clone(), 2);
        let mut mirror = Mirror::new(faulty.watch(&Prefix::root()).await.unwrap());
        faulty.set_faults(harsh());
        let (mut breaks, mut resets) = (0, 0);
        for number in 0..100 {
            assert_eq!(put(&store, number).await, None);
            while !mirror.entries().contains_key(&key(number)) {
                match mirror.changed().await {
                    WatchEvent::Interrupted(_) => breaks += 1,
                    WatchEvent::Reset(_) => resets += 1,
                    WatchEvent::Changed(_) => {}
                }
            }
        }
        assert!(breaks > 10 && resets >= breaks, "{breaks} breaks, {resets} resets");
        assert_eq!(mirror.entries().len(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn offline_refuses_and_online_heals() {
        let faulty = Faulty::new(MemoryStore::new(), 3);
        let mut mirror = Mirror::new(faulty.watch(&Prefix::root()).await.unwrap());
        mirror.ready().await;
        faulty.set_offline(true);
        assert_eq!(put(&faulty, 1).await, Some(ErrorKind::Unavailable));
        assert!(matches!(mirror.changed().await, WatchEvent::Interrupted(_)));
        let silence = tokio::time::timeout(Duration::from_secs(60), mirror.changed()).await;
        assert!(silence.is_err(), "{silence:?}");
        faulty.set_offline(false);
        assert_eq!(put(&faulty, 2).await, None);
        assert!(matches!(mirror.changed().await, WatchEvent::Reset(_)));
        assert!(mirror.stale().is_none());
    }
}
