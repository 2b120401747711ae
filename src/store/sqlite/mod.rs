//! The embedded store: one SQLite file that any number of processes of one host share.
//!
//! - A commit is one transaction with one writer at a time, written ahead and synced: it survives
//!   `kill -9` and a power loss once it was acknowledged.
//! - Watchers read a change log behind their revision. They are woken by a file event, and look by
//!   themselves every quarter of a second in case a writer died between its commit and its signal.
//! - Leases end by the host's boot clock; whoever looks first deletes their keys. A reboot ends them
//!   all.

mod backup;
mod data;
mod database;
mod failure;
mod feed;
mod file;
mod keys;
mod record;
mod schema;
mod tie;
mod worker;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream;
use tokio::sync::oneshot;

pub use self::backup::Backup;
use self::data::History;
use self::database::{Access, Database, Scope, Writing};
use self::failure::{Failure, NAME, Outcome};
use self::feed::{State, Subscriber};
use self::keys::{KeyScope, revision};
use self::worker::{Job, Jobs, Worker};
use super::{
    Commit, Entry, ErrorKind, Key, Lease, LeaseId, Listing, MAX_TTL, Prefix, Result, SqliteUrl,
    Store, Txn, Watch, WatchEvent, Write,
};

/// How long an answer is waited for: over the wait for another process's lock, so that only a disk
/// that hangs takes so long.
const CALL_DEADLINE: Duration = Duration::from_secs(20);

/// How many events a watcher may be behind before it gets a `Reset` instead.
const WATCH_BUFFER: usize = 256;

/// A database file. Clones share their thread and connection.
#[derive(Clone)]
pub struct SqliteStore {
    jobs: Jobs,
    scope: KeyScope,
}

impl SqliteStore {
    /// Opens the file; makes it, for its owner alone, and its folder where they are missing.
    ///
    /// # Errors
    /// `Denied` for a file or folder without access or on a read-only file system, `Corrupt` for a
    /// file that is no database or belongs to another program, `Unsupported` for one of a newer
    /// lbctl, `Unavailable` for a full disk or a lock that is held too long.
    pub async fn open(url: &SqliteUrl) -> Result<Self> {
        Self::open_with(url, History::default(), Access::Write).await
    }

    /// The same for who shows what is in it or writes by hand: leases of another boot stay, since a
    /// container may see another boot id than its host.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub async fn open_as_guest(url: &SqliteUrl) -> Result<Self> {
        Self::open_with(url, History::default(), Access::Guest).await
    }

    /// Writes all of it, at one revision, to a file, which it replaces as a whole.
    ///
    /// # Errors
    /// `Denied` for the database itself, `Unavailable` for a folder or disk that takes no file.
    pub async fn backup(&self, file: &Path) -> Result<Backup> {
        let (subject, file) = (file.display().to_string(), file.to_owned());
        self.call("backup", subject, move |database| backup::write(database, &file)).await
    }

    /// Puts a backup in the place of a database, which begins another life; whoever has it open goes
    /// on with that. A dry run only checks the backup.
    ///
    /// # Errors
    /// `Corrupt` for a file that is no sound database of lbctl.
    pub async fn restore(url: &SqliteUrl, file: &Path, dry_run: bool) -> Result<Backup> {
        let (path, subject, file) = (url.path.clone(), file.display().to_string(), file.to_owned());
        let work = move || backup::restore(&path, &file, dry_run);
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|error| Err(Failure::new(ErrorKind::Unavailable, error.to_string())))
            .map_err(|failure| failure.into_error("restore", subject))
    }

    async fn open_with(url: &SqliteUrl, history: History, access: Access) -> Result<Self> {
        let path = url.path.clone();
        let subject = path.display().to_string();
        let opened = tokio::task::spawn_blocking(move || start(&path, history, access));
        let jobs = opened
            .await
            .unwrap_or_else(|error| Err(Failure::new(ErrorKind::Unavailable, error.to_string())))
            .map_err(|failure| failure.into_error("open", subject))?;
        Ok(Self { jobs, scope: KeyScope(url.prefix.clone()) })
    }

    /// Runs work on the thread. A caller that went away before its turn leaves no trace; later, its
    /// work is done in full.
    async fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        subject: impl fmt::Display + Send,
        work: impl FnOnce(&mut Database) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let call = move |database: &mut Database| {
            if !reply.is_closed() {
                // Nobody listens only where the caller went away.
                _ = reply.send(work(database)).is_ok();
            }
        };
        self.ask(operation, subject, Job::Call(Box::new(call)), answer).await
    }

    /// Writes on the thread, together with what others write at that moment. The work may be done
    /// more than once, of which only the last time counts.
    async fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        subject: impl fmt::Display + Send,
        work: impl FnMut(&Scope<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let volatile = operation == "keep_alive";
        let write = Writing { work, volatile, reply, result: None };
        self.ask(operation, subject, Job::Write(Box::new(write)), answer).await
    }

    async fn ask<T>(
        &self,
        operation: &'static str,
        subject: impl fmt::Display + Send,
        job: Job,
        answer: oneshot::Receiver<Outcome<T>>,
    ) -> Result<T> {
        // A thread that has ended drops the reply, which says so below.
        _ = self.jobs.send(job).is_ok();
        let failure = match tokio::time::timeout(CALL_DEADLINE, answer).await {
            Ok(Ok(Ok(value))) => return Ok(value),
            Ok(Ok(Err(failure))) => failure,
            Ok(Err(_closed)) => Failure::new(lost(operation), "the store's thread has ended"),
            Err(_elapsed) => {
                Failure::new(lost(operation), format!("no answer within {CALL_DEADLINE:?}"))
                    .hint("see whether the disk that holds the database hangs")
            }
        };
        Err(failure.into_error(operation, subject))
    }
}

/// What a lost answer means.
fn lost(operation: &str) -> ErrorKind {
    match operation {
        "get" | "list" => ErrorKind::Unavailable,
        _ => ErrorKind::Indeterminate,
    }
}

/// The threads of this process, for its end.
static OPEN: Mutex<Vec<Thread>> = Mutex::new(Vec::new());

/// A thread, which may have been asked to end already.
struct Thread {
    jobs: Weak<mpsc::Sender<Job>>,
    /// Its other end is dropped when the database is closed.
    closed: mpsc::Receiver<()>,
}

/// Closes every database of this process, which is about to end; waits so long for each at most.
pub(super) fn close_all(patience: Duration) {
    let open = std::mem::take(&mut *OPEN.lock().unwrap_or_else(PoisonError::into_inner));
    for Thread { jobs, closed } in open {
        if let Some(jobs) = jobs.upgrade() {
            // One that has ended has closed its database.
            _ = jobs.send(Job::Close).is_ok();
        }
        // The answer is that the other end is dropped.
        _ = closed.recv_timeout(patience).is_ok();
    }
}

fn start(path: &Path, history: History, access: Access) -> Outcome<Jobs> {
    let database = Database::open(path, history, access)?;
    let (jobs, received) = mpsc::channel();
    let jobs = Arc::new(jobs);
    let (closing, closed) = mpsc::channel();
    {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|thread| thread.closed.try_recv() != Err(mpsc::TryRecvError::Disconnected));
        open.push(Thread { jobs: Arc::downgrade(&jobs), closed });
    }
    let worker = Worker::new(database, &jobs);
    std::thread::Builder::new()
        .name("lbctl-sqlite".into())
        .spawn(move || {
            worker.run(&received);
            drop(closing);
        })
        .map_err(|error| Failure::io("start the store's thread", &error))?;
    Ok(jobs)
}

#[async_trait]
impl Store for SqliteStore {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let (scope, stored) = (self.scope.clone(), self.scope.stored_key(key));
        self.call("get", key, move |database| {
            let found = database.read(|db| data::get(db, &stored))?;
            found.map(|stored| scope.entry(stored)).transpose()
        })
        .await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        let (scope, whole) = (self.scope.clone(), self.scope.stored_prefix(prefix));
        self.call("list", prefix, move |database| {
            let (life, head, stored) = database
                .read(|db| Ok((data::life(db)?, data::head(db)?.0, data::list(db, &whole)?)))?;
            scope.listing(life, head, stored)
        })
        .await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit> {
        txn.check(NAME)?;
        let scope = self.scope.clone();
        let subject = txn.writes.first().map(|write| write.key().clone());
        let subject = subject.as_ref().map_or("", Key::as_str);
        self.write("commit", subject, move |s| commit(s, &scope, &txn)).await
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch> {
        let (events, received) = tokio::sync::mpsc::channel(WATCH_BUFFER);
        let whole = self.scope.stored_prefix(prefix);
        let scope = self.scope.clone();
        let subscriber = Subscriber { whole, scope, events, state: State::Lost };
        // A thread that has ended drops the sender, which the stream says.
        _ = self.jobs.send(Job::Subscribe(subscriber)).is_ok();
        // The stream holds the thread, so that a watch outlives its handle.
        let watching = (Arc::clone(&self.jobs), Some(received), prefix.clone());
        Ok(Watch::new(stream::unfold(watching, |(jobs, received, prefix)| async move {
            let mut received = received?;
            if let Some(event) = received.recv().await {
                return Some((event, (jobs, Some(received), prefix)));
            }
            let ended = Failure::new(ErrorKind::Unavailable, "the store's thread has ended");
            let event = WatchEvent::Interrupted(ended.into_error("watch", &prefix));
            Some((event, (jobs, None, prefix)))
        })))
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        let ttl = ttl.min(MAX_TTL);
        let span = file::clock_span(ttl);
        let id = self.write("grant", "", move |s| data::grant(s.db, span, s.now)).await?;
        Ok(Lease { id, ttl: granted(span) })
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        let work = move |s: &Scope<'_>| data::keep_alive(s.db, lease, s.now);
        self.write("keep_alive", lease, work).await.map(granted)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        let id = data::stored_lease(lease);
        self.write("revoke", lease, move |s| data::end_lease(s.db, id, s.history)).await
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("scope", &self.scope).finish_non_exhaustive()
    }
}

fn commit(s: &Scope<'_>, scope: &KeyScope, txn: &Txn) -> Outcome<Commit> {
    for guard in &txn.guards {
        if !data::holds(s.db, guard, &scope.stored_key(guard.key()))? {
            return Ok(Commit::Conflict);
        }
    }
    for write in &txn.writes {
        if let Write::Put { lease: Some(lease), .. } = write
            && !data::is_alive(s.db, data::stored_lease(*lease))?
        {
            return Err(Failure::lease_expired(*lease));
        }
    }
    let writes: Vec<(String, &Write)> =
        txn.writes.iter().map(|write| (scope.stored_key(write.key()), write)).collect();
    Ok(Commit::Committed(revision(data::apply(s.db, &writes, s.history)?)))
}

fn granted(span: i64) -> Duration {
    Duration::from_millis(span.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Guard, Mirror};

    const SHORT: History = History { revisions: 10, bytes: 4000, every: 4 };

    async fn store(folder: &Path, history: History) -> SqliteStore {
        let url = SqliteUrl { path: folder.join("lbctl.db"), prefix: Prefix::of(["p"]) };
        SqliteStore::open_with(&url, history, Access::Write).await.unwrap()
    }

    async fn put(store: &SqliteStore, key: &str, value: Vec<u8>) -> Result<Commit> {
        store.commit(Txn::new().put(key.parse().unwrap(), value)).await
    }

    async fn number(store: &SqliteStore, sql: &'static str) -> i64 {
        let query = move |database: &mut Database| {
            database.read(|db| Ok(db.query_row(sql, [], |row| row.get(0))?))
        };
        store.call("get", "", query).await.unwrap()
    }

    #[tokio::test]
    async fn history_is_bounded_by_revisions_and_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), SHORT).await;
        for i in 0..40u8 {
            _ = put(&store, "k", vec![i]).await.unwrap();
        }
        assert_eq!(number(&store, "SELECT count(*) FROM changes").await, 10);
        assert_eq!(number(&store, "SELECT trimmed FROM meta").await, 30);
        for _ in 0..4 {
            _ = put(&store, "k", vec![0; 3000]).await.unwrap();
        }
        assert_eq!(number(&store, "SELECT min(revision) FROM changes").await, 44);
        assert_eq!(number(&store, "SELECT trimmed FROM meta").await, 43);
    }

    #[tokio::test]
    async fn a_watcher_behind_the_history_gets_a_reset() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), SHORT).await;
        let mut mirror = Mirror::new(store.watch(&Prefix::root()).await.unwrap());
        mirror.ready().await;
        // Its thread sleeps over many commits of another one.
        let other = self::store(folder.path(), SHORT).await;
        let (wake, asleep) = mpsc::channel::<()>();
        let sleeping = store.call("get", "", move |_| Ok(asleep.recv().is_err()));
        let commits = async {
            for i in 0..30u8 {
                _ = put(&other, "k", vec![i]).await.unwrap();
            }
            drop(wake);
        };
        let (slept, ()) = tokio::join!(sleeping, commits);
        assert!(slept.unwrap());
        let event = mirror.changed().await;
        assert!(matches!(event, WatchEvent::Reset(_)), "{event:?}");
        assert_eq!(mirror.entries().values().next().unwrap().value[..], [29]);
    }

    #[tokio::test]
    async fn commits_are_synced_also_after_a_renewal_that_is_not() {
        const FULL: i64 = 2;
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), History::default()).await;
        assert_eq!(number(&store, "PRAGMA synchronous").await, FULL);
        let lease = store.grant(Duration::from_secs(60)).await.unwrap();
        store.keep_alive(lease.id).await.unwrap();
        store.keep_alive(LeaseId(7)).await.unwrap_err();
        assert_eq!(number(&store, "PRAGMA synchronous").await, FULL);
    }

    #[tokio::test]
    async fn what_is_written_together_is_committed_one_by_one_and_fails_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), History::default()).await;
        let mut watch = store.watch(&Prefix::root()).await.unwrap();
        assert!(matches!(watch.next_event().await, WatchEvent::Reset(_)));
        let limit = move |database: &mut Database| database.limit_pages(30);
        store.call("get", "", limit).await.unwrap();
        let key = |number: usize| -> Key { format!("k{number:02}").parse().unwrap() };
        let writes = (0..20).map(|number| {
            // One is too large for the disk, one meets a conflict.
            let size = if number == 7 { 200_000 } else { 1 };
            let txn = Txn::new().put(key(number), vec![0; size]);
            let txn = if number == 9 { txn.guard(Guard::Absent(key(3))) } else { txn };
            store.commit(txn)
        });
        // The thread sleeps until all are asked.
        let (wake, asleep) = mpsc::channel::<()>();
        let sleeping = store.call("get", "", move |_| Ok(asleep.recv().is_err()));
        let writes = futures::future::join_all(writes);
        let wakes = async {
            tokio::task::yield_now().await;
            drop(wake);
        };
        let (slept, results, ()) = tokio::join!(sleeping, writes, wakes);
        assert!(slept.unwrap());
        let mut revisions = Vec::new();
        for (number, result) in results.into_iter().enumerate() {
            match (number, result) {
                (7, Err(error)) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
                (9, Ok(commit)) => assert_eq!(commit, Commit::Conflict),
                (_, Ok(Commit::Committed(revision))) => revisions.push(revision),
                (_, other) => panic!("{number}: {other:?}"),
            }
        }
        assert_eq!(revisions.len(), 18);
        for revision in revisions {
            let event = watch.next_event().await;
            let WatchEvent::Changed(changes) = &event else { panic!("{event:?}") };
            assert!(matches!(&changes[..], [change] if change.revision() == revision), "{event:?}");
        }
    }

    #[tokio::test]
    async fn a_full_disk_is_unavailable_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), History::default()).await;
        _ = put(&store, "kept", vec![1]).await.unwrap();
        let limit = |pages: i64| store.call("get", "", move |database| database.limit_pages(pages));
        limit(30).await.unwrap();
        let large = Txn::new()
            .put("a".parse().unwrap(), vec![])
            .put("b".parse().unwrap(), vec![0; 200_000]);
        let error = store.commit(large).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.hint().unwrap().contains("make room"), "{error}");
        let listing = store.list(&Prefix::root()).await.unwrap();
        assert_eq!(listing.entries.len(), 1, "{listing:?}");
        limit(1_000_000).await.unwrap();
        _ = put(&store, "b", vec![0; 200_000]).await.unwrap();
    }
}
