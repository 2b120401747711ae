//! Writers, counters, a lease and watchers on one cluster, each with a handle of its own, and what
//! became of all they did.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use lbctl::daemon::{OwnedTask, spawn_owned};
use lbctl::store::{Entry, Error, ErrorKind, Guard, Key, Result, Revision, SharedStore, Txn};
use tokio_util::sync::CancellationToken;

use super::store;
use crate::store::conformance::{commit, key};
use crate::store::history::{Attempt, Heard, History, Told, Watcher};
use crate::support::eventually_async;

const WRITERS: usize = 4;
const COUNTERS: usize = 2;
const WATCHERS: usize = 3;

/// Keys of one writer.
const KEYS: usize = 8;

/// All of the load is under it.
const PREFIX: &str = "load";

/// The last commit.
const END: &str = "end";

/// Far longer than anything that happens to one member.
const TTL: Duration = Duration::from_secs(30);

/// Runs until [`Load::end`].
pub struct Load {
    url: String,
    shared: Arc<Shared>,
    workers: Vec<OwnedTask<Worker>>,
    watchers: Vec<Watcher>,
    lease: OwnedTask<Vec<Error>>,
}

#[derive(Default)]
struct Shared {
    stop: CancellationToken,
    /// Acknowledged commits of each worker.
    progress: [AtomicU64; WRITERS + COUNTERS],
}

/// A writer or a counter with what it was told.
struct Worker {
    store: SharedStore,
    /// Another handle, which may be at another member: what was written here is seen there.
    reader: SharedStore,
    number: usize,
    rng: Rng,
    attempts: Vec<Attempt>,
    /// Those that one member's fault must not cause: any but "outcome unknown".
    errors: Vec<Error>,
    unknown: Vec<Error>,
    slowest: Duration,
}

/// What the load came to.
pub struct Outcome {
    pub history: History,
    pub errors: Vec<Error>,
    pub unknown: Vec<Error>,
    /// The operation that took longest.
    pub slowest: Duration,
}

impl Load {
    pub async fn start(url: &str, rng: &mut Rng) -> Self {
        let shared = Arc::new(Shared::default());
        let mut watchers = Vec::new();
        for _ in 0..WATCHERS {
            watchers.push(Watcher::start(store(url).await, PREFIX, END));
        }
        let mut workers = Vec::new();
        for number in 0..WRITERS + COUNTERS {
            let worker = Worker::new(url, number, rng.fork()).await;
            workers.push(spawn_owned(worker.work(shared.clone())));
        }
        let lease = spawn_owned(keep(store(url).await, shared.clone()));
        let load = Self { url: url.to_owned(), shared, workers, watchers, lease };
        load.progress().await;
        load
    }

    /// Waits until every worker has had a commit acknowledged that it began after now.
    pub async fn progress(&self) {
        let now = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        let before = self.shared.progress.each_ref().map(now);
        eventually_async("every writer to write", || async {
            let progress = self.shared.progress.each_ref().map(now);
            // The first one may have begun before.
            progress.iter().zip(before).all(|(now, before)| *now >= before + 2).then_some(())
        })
        .await;
    }

    /// Stops the workers, lets the watchers hear everything, and reads all back.
    pub async fn end(self) -> Outcome {
        self.shared.stop.cancel();
        let (mut attempts, mut errors, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        let mut slowest = Duration::ZERO;
        for worker in self.workers {
            let worker = worker.join().await.expect("a writer panicked");
            attempts.extend(worker.attempts);
            errors.extend(worker.errors);
            unknown.extend(worker.unknown);
            slowest = slowest.max(worker.slowest);
        }
        errors.extend(self.lease.join().await.expect("the lease was lost"));
        let store = store(&self.url).await;
        let history = History::end(attempts, self.watchers, &store, PREFIX, END).await;
        Outcome { history, errors, unknown, slowest }
    }
}

fn counter_key() -> Key {
    key(&format!("{PREFIX}/counter"))
}

impl Worker {
    async fn new(url: &str, number: usize, rng: Rng) -> Self {
        let (store, reader) = (store(url).await, store(url).await);
        let (attempts, errors, unknown) = (Vec::new(), Vec::new(), Vec::new());
        Self { store, reader, number, rng, attempts, errors, unknown, slowest: Duration::ZERO }
    }

    async fn work(mut self, shared: Arc<Shared>) -> Self {
        while !shared.stop.is_cancelled() {
            let told = if self.number < WRITERS { self.write().await } else { self.count().await };
            if matches!(told, Some(Told::Committed(_))) {
                shared.progress[self.number].fetch_add(1, Ordering::SeqCst);
            }
            // The cluster shares two cores with all its users.
            tokio::time::sleep(Duration::from_millis(self.rng.u64(0..10))).await;
        }
        self
    }

    /// Writes one of its keys together with its last one, and reads what it wrote.
    async fn write(&mut self) -> Option<Told> {
        let at = self.rng.usize(..KEYS);
        let own = key(&format!("{PREFIX}/{}/{at}", self.number));
        let last = key(&format!("{PREFIX}/{}/last", self.number));
        let value = format!("{}-{}", self.number, self.attempts.len());
        let txn = Txn::new().put(own.clone(), value.clone()).put(last, value.clone());
        let told = self.attempt(txn, value).await;
        let written = self.read(&own).await?;
        if let Told::Committed(revision) = told {
            let modified = written.map(|entry| entry.modified);
            assert!(modified >= Some(revision), "{own} of {revision:?} is read as of {modified:?}");
        }
        Some(told)
    }

    /// Adds one to the counter that all counters share.
    async fn count(&mut self) -> Option<Told> {
        let key = counter_key();
        let (guard, count) = match self.read(&key).await? {
            None => (Guard::Absent(key.clone()), 0),
            Some(entry) => {
                (Guard::UnmodifiedSince(key.clone(), entry.modified), count_of(&entry.value))
            }
        };
        let value = format!("{} {}-{}", count + 1, self.number, self.attempts.len());
        Some(self.attempt(Txn::new().guard(guard).put(key, value.clone()), value).await)
    }

    async fn attempt(&mut self, txn: Txn, value: String) -> Told {
        let keys = txn.writes.iter().map(|write| write.key().clone()).collect();
        let started = Instant::now();
        let result = self.store.commit(txn).await;
        let told = Told::of(&result);
        _ = self.note(started, result);
        self.attempts.push(Attempt { keys, value, told });
        told
    }

    /// `None` where it failed.
    async fn read(&mut self, key: &Key) -> Option<Option<Entry>> {
        let started = Instant::now();
        let result = self.reader.get(key).await;
        self.note(started, result)
    }

    fn note<T>(&mut self, started: Instant, result: Result<T>) -> Option<T> {
        self.slowest = self.slowest.max(started.elapsed());
        match result {
            Ok(value) => return Some(value),
            Err(error) if error.kind() == ErrorKind::Indeterminate => self.unknown.push(error),
            Err(error) => self.errors.push(error),
        }
        None
    }
}

fn count_of(value: &[u8]) -> u64 {
    let text = std::str::from_utf8(value).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// Keeps one lease alive, and its key there.
async fn keep(store: SharedStore, shared: Arc<Shared>) -> Vec<Error> {
    let mut errors = Vec::new();
    let lease = store.grant(TTL).await.unwrap();
    let leased = key("leased");
    commit(&store, Txn::new().put_leased(leased.clone(), "", lease.id)).await;
    while !shared.stop.is_cancelled() {
        errors.extend(store.keep_alive(lease.id).await.err());
        match store.get(&leased).await {
            Ok(entry) => assert!(entry.is_some(), "the key of a live lease is gone"),
            Err(error) => errors.push(error),
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    errors
}

impl Outcome {
    /// Judges everything that must hold whatever failed.
    pub fn judge(&self) {
        let commits = self.history.judge().unwrap();
        let counter = counter_key();
        let counts: BTreeMap<Revision, u64> = commits
            .iter()
            .filter(|(_, (_, keys))| keys.contains(&counter))
            .map(|(revision, (value, _))| (*revision, count_of(value.as_bytes())))
            .collect();
        // One that nobody heard of may be missing.
        let rises = counts.values().is_sorted_by(|a, b| a < b);
        assert!(rises, "an increment was lost: {counts:?}");
    }

    /// For the one who reads the test's output.
    pub fn summary(&self) -> String {
        let Self { history, errors, unknown, slowest } = self;
        let events: Vec<usize> = history.watchers.iter().map(Vec::len).collect();
        let resets = history.watchers.iter().flatten();
        let resets = resets.filter(|heard| matches!(heard, Heard::Reset { .. })).count();
        format!(
            "{} commits, {} unknown, {} other errors, the slowest operation took {slowest:.1?}; \
             {events:?} events with {resets} resets",
            history.attempts.len(),
            unknown.len(),
            errors.len(),
        )
    }
}
