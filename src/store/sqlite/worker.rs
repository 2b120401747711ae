//! The thread that a store's handle has: SQLite's calls block, so they never run on the runtime,
//! and one after the other they need no lock.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::database::{Database, Write};
use super::feed::{Feed, Subscriber};
use super::file;

/// How often a watched store is looked at when no file event came: a writer may die between its
/// commit and its signal.
const POLL: Duration = Duration::from_millis(250);

/// The same where this host has no file events left to give.
const POLL_WITHOUT_EVENTS: Duration = Duration::from_millis(20);

/// How much the thread takes on at once: it tells watchers in between.
const MOST: usize = 256;

/// What the thread is asked.
pub(super) enum Job {
    Call(Box<dyn FnOnce(&mut Database) + Send>),
    Write(Box<dyn Write>),
    Subscribe(Subscriber),
    /// Another process may have committed.
    Wake,
    /// The process ends: close the database.
    Close,
}

/// The way to the thread, which ends once nobody holds it any more.
pub(super) type Jobs = Arc<Sender<Job>>;

pub(super) struct Worker {
    database: Database,
    feed: Feed,
    /// For file events; weak, so that the events do not keep the thread.
    jobs: Weak<Sender<Job>>,
    events: Option<RecommendedWatcher>,
}

impl Worker {
    pub(super) fn new(database: Database, jobs: &Jobs) -> Self {
        Self { database, feed: Feed::default(), jobs: Arc::downgrade(jobs), events: None }
    }

    /// Works until nobody can ask any more.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let job = match self.patience() {
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(patience) => jobs.recv_timeout(patience),
            };
            match job {
                Ok(job) => {
                    if !self.work(std::iter::once(job).chain(jobs.try_iter()).take(MOST)) {
                        return self.database.close();
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.database.close(),
            }
            self.feed.run(&mut self.database);
            self.database.tidy();
        }
    }

    /// Does all that has been asked by now: what is to be written at one go, since the disk's time
    /// for many writes is that for one. Nobody who asks waits for an answer before the other's.
    /// False: it is to be closed.
    fn work(&mut self, jobs: impl Iterator<Item = Job>) -> bool {
        let (mut writes, mut others, mut goes_on) = (Vec::new(), Vec::new(), true);
        for job in jobs {
            match job {
                Job::Write(write) => writes.push(write),
                other => others.push(other),
            }
        }
        self.database.write_all(writes);
        for job in others {
            match job {
                Job::Call(call) => call(&mut self.database),
                Job::Subscribe(subscriber) => {
                    self.listen();
                    self.feed.subscribe(subscriber);
                }
                Job::Close => goes_on = false,
                Job::Write(_) | Job::Wake => {}
            }
        }
        goes_on
    }

    /// How long to wait for a job; for ever while nobody watches and there is nothing to tidy.
    fn patience(&self) -> Option<Duration> {
        let due = self.database.due().map(|due| due.saturating_duration_since(Instant::now()));
        if self.feed.is_idle() {
            return due;
        }
        let poll = if self.events.is_some() { POLL } else { POLL_WITHOUT_EVENTS };
        let expiry = self.feed.next_end().map(|end| {
            let millis = end.saturating_sub(file::boot_clock()).max(0);
            Duration::from_millis(millis.unsigned_abs())
        });
        Some(expiry.map_or(poll, |expiry| expiry.min(poll)))
    }

    /// Asks for file events, the first time that somebody watches.
    fn listen(&mut self) {
        if self.events.is_some() {
            return;
        }
        let jobs = self.jobs.clone();
        let woken = move |event: notify::Result<notify::Event>| {
            let changed = event.is_ok_and(|event| event.kind.is_modify());
            if changed && let Some(jobs) = jobs.upgrade() {
                // The thread is gone only when nobody watches.
                _ = jobs.send(Job::Wake).is_ok();
            }
        };
        let events = notify::recommended_watcher(woken).and_then(|mut watcher| {
            watcher.watch(self.database.wake_path(), RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match events {
            Ok(events) => self.events = Some(events),
            Err(error) => {
                tracing::warn!(%error, "no file events: the store is looked at every {POLL_WITHOUT_EVENTS:?} instead");
            }
        }
    }
}
