//! The task behind a presence: grants the lease, renews it, and writes what is wanted.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Shared;
use super::wishes::{Put, Step};
use crate::daemon::{Backoff, Health};
use crate::store::{Commit, Entry, Error, ErrorKind, Guard, Key, Lease, Result, Txn};

/// How long the last call, the revocation, may take.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// How long a lease may take to be granted: it counts from before the request, so that nothing is
/// won by asking anew, and a slow store would only get more to do.
const GRANT_DEADLINE: Duration = Duration::from_secs(5);

/// A read or a write that takes longer is tried again; a store may need as long as this for each.
const CALL_DEADLINE: Duration = Duration::from_secs(2);

/// How long a write may still come after it was given up.
const LATE: Duration = Duration::from_secs(5);

/// How often a settled key is read back, to heal one that somebody else deleted or wrote: with its
/// jitter, sooner than `discover` has confirmed that a server is gone (20 s as a rule).
const AUDIT_INTERVAL: Duration = Duration::from_secs(10);

/// Keeps the presence until it is closed.
pub(super) async fn keep(shared: Arc<Shared>) {
    let _closed = shared.closed.clone().drop_guard();
    let mut lease = None;
    tokio::select! {
        () = shared.closing.cancelled() => {}
        () = hold(&shared, &mut lease) => {}
    }
    if let Some(lease) = lease {
        match timeout(CLOSE_DEADLINE, shared.store.revoke(lease.id)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the lease is left to its time to live"),
            Err(_elapsed) => tracing::warn!("no answer; the lease is left to its time to live"),
        }
    }
}

/// One lease after the other; never ends by itself.
async fn hold(shared: &Shared, held: &mut Option<Lease>) {
    let mut lease_health = Health::new("the lease on this process's keys");
    let mut write_health = Health::new("writing this process's keys");
    loop {
        let started = Instant::now();
        let lease = grant(shared, &mut lease_health).await;
        *held = Some(lease);
        tokio::select! {
            () = renew(shared, lease, started, &mut lease_health) => {}
            () = write(shared, lease, &mut write_health) => {}
            () = audit(shared, lease) => {}
        }
        *held = None;
        shared.lock().wishes.lost_all();
        lease_failed(shared, &mut lease_health, &"it ended before it was renewed");
    }
}

async fn grant(shared: &Shared, health: &mut Health) -> Lease {
    let mut backoff = backoff(shared.ttl);
    loop {
        let answer = timeout(GRANT_DEADLINE, shared.store.grant(shared.ttl)).await;
        match flatten(answer) {
            Ok(lease) => {
                lease_works(shared, health);
                return lease;
            }
            Err(problem) => lease_failed(shared, health, &problem),
        }
        backoff.wait().await;
    }
}

/// Renews until the store says that the lease has ended. The lease counts from before the request
/// that granted it.
async fn renew(shared: &Shared, lease: Lease, started: Instant, health: &mut Health) {
    let (mut ttl, mut renewed) = (lease.ttl, started);
    let mut backoff = backoff(ttl);
    loop {
        sleep_until(renewed + ttl.mul_f64(0.3 + fastrand::f64() / 30.0)).await;
        loop {
            let started = Instant::now();
            let answer = timeout(deadline(ttl), shared.store.keep_alive(lease.id)).await;
            match flatten(answer) {
                Ok(granted) => {
                    (ttl, renewed) = (granted, started);
                    lease_works(shared, health);
                    break;
                }
                Err(problem) if problem.is_expiry() => return,
                Err(problem) => lease_failed(shared, health, &problem),
            }
            backoff.wait().await;
        }
    }
}

/// Writes what is wanted as it changes, until the store says that the lease has ended.
async fn write(shared: &Shared, lease: Lease, health: &mut Health) {
    let mut backoff = backoff(lease.ttl);
    let mut unsure = false;
    loop {
        let Some(step) = next_step(shared) else {
            shared.changed.notified().await;
            continue;
        };
        let answer = timeout(patience(lease.ttl), take(shared, lease, &step)).await;
        match flatten(answer) {
            Ok(()) => {
                health.succeeded();
                if std::mem::take(&mut unsure) {
                    shared.doubted.notify_one();
                }
                report_written(shared);
                let pause = shared.lock().min_interval;
                sleep(pause).await;
            }
            Err(problem) if problem.is_expiry() => return,
            Err(problem) => {
                unsure |= problem.is_unsure();
                health.failed(&problem);
                shared.report(|troubles| troubles.write = Some(problem.to_string()));
                backoff.wait().await;
            }
        }
    }
}

fn next_step(shared: &Shared) -> Option<Step> {
    let step = shared.lock().wishes.next_step();
    if step.is_none() {
        report_written(shared);
    }
    step
}

/// The writes work, but for a value that no store holds.
fn report_written(shared: &Shared) {
    shared.publish_flushed();
    let oversized = {
        let wanted = shared.lock();
        let oversized = wanted.wishes.oversized();
        oversized.map(|(key, len)| format!("the value of {key} is too large: {len} bytes"))
    };
    shared.report(|troubles| troubles.write = oversized);
}

async fn take(shared: &Shared, lease: Lease, step: &Step) -> Result<()> {
    match step {
        Step::Put(puts) => put(shared, lease, puts).await,
        Step::Remove { key, generation } => {
            remove(shared, lease, key).await?;
            shared.lock().wishes.done(key, *generation);
            Ok(())
        }
    }
}

/// An unknown outcome needs no reading back: writing the same again comes to the same.
async fn put(shared: &Shared, lease: Lease, puts: &[Put]) -> Result<()> {
    let txn = puts
        .iter()
        .fold(Txn::new(), |txn, put| txn.put_leased(put.key.clone(), put.value.clone(), lease.id));
    // Without a guard there is no conflict.
    let (Commit::Committed(_) | Commit::Conflict) = shared.store.commit(txn).await?;
    let mut wanted = shared.lock();
    puts.iter().for_each(|put| wanted.wishes.done(&put.key, put.generation));
    Ok(())
}

/// Deletes the key if it is still this process's own: another one may have taken the name over.
async fn remove(shared: &Shared, lease: Lease, key: &Key) -> Result<()> {
    loop {
        let Some(entry) = shared.store.get(key).await? else { return Ok(()) };
        if entry.lease != Some(lease.id) {
            return Ok(());
        }
        let unchanged = Guard::UnmodifiedSince(key.clone(), entry.modified);
        let txn = Txn::new().guard(unchanged).delete(key.clone());
        if let Commit::Committed(_) = shared.store.commit(txn).await? {
            return Ok(());
        }
    }
}

/// Reads settled keys back now and then, and wants those again that are not as they should be: a
/// write that timed out may be applied late, over a later one, and people delete keys by hand.
async fn audit(shared: &Shared, lease: Lease) {
    // Soon for the first time: a write under the lease before this one may come late.
    let mut wait = LATE;
    loop {
        tokio::select! {
            () = sleep(wait) => {}
            () = shared.doubted.notified() => sleep(LATE).await,
        }
        wait = AUDIT_INTERVAL.mul_f64(0.5 + fastrand::f64());
        let settled = shared.lock().wishes.settled();
        for (key, value) in settled {
            let answer = timeout(patience(lease.ttl), shared.store.get(&key)).await;
            // A store that is away is the renewal's to report.
            let Ok(found) = flatten(answer) else { break };
            let held = |e: &Entry| e.lease == Some(lease.id) && e.value == value;
            if !found.as_ref().is_some_and(held) {
                restore(shared, &key, found);
            }
        }
    }
}

fn restore(shared: &Shared, key: &Key, found: Option<Entry>) {
    match found {
        Some(_) => tracing::warn!(%key, "another process writes this key: names must be unique"),
        None => tracing::warn!(%key, "the key was deleted; it is written again"),
    }
    shared.lock().wishes.lost(key);
    shared.changed.notify_one();
}

/// Why a call came to nothing.
enum Problem {
    Store(Error),
    NoAnswer,
}

impl Problem {
    fn is_expiry(&self) -> bool {
        matches!(self, Self::Store(error) if error.kind() == ErrorKind::LeaseExpired)
    }

    /// Whether the call may be carried out all the same, and later.
    fn is_unsure(&self) -> bool {
        match self {
            Self::Store(error) => error.kind() == ErrorKind::Indeterminate,
            Self::NoAnswer => true,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::NoAnswer => f.write_str("the store does not answer in time"),
        }
    }
}

fn flatten<T>(answer: Result<Result<T>, tokio::time::error::Elapsed>) -> Result<T, Problem> {
    match answer {
        Ok(answer) => answer.map_err(Problem::Store),
        Err(_elapsed) => Err(Problem::NoAnswer),
    }
}

/// A renewal that gets no answer must leave time for another one.
fn deadline(ttl: Duration) -> Duration {
    (ttl / 4).clamp(Duration::from_millis(250), Duration::from_secs(5))
}

/// How long any other call may take.
fn patience(ttl: Duration) -> Duration {
    deadline(ttl).max(CALL_DEADLINE)
}

fn backoff(ttl: Duration) -> Backoff {
    let limit = (ttl / 8).clamp(Duration::from_millis(100), Duration::from_secs(2));
    Backoff::new(limit / 16, limit)
}

fn lease_works(shared: &Shared, health: &mut Health) {
    health.succeeded();
    shared.report(|troubles| troubles.lease = None);
}

fn lease_failed(shared: &Shared, health: &mut Health, problem: &impl fmt::Display) {
    health.failed(problem);
    shared.report(|troubles| troubles.lease = Some(problem.to_string()));
}
