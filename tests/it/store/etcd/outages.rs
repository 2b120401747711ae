//! A load on a cluster whose members are killed, paused and restarted, one at a time; and a cluster
//! without its majority.

use std::time::{Duration, Instant};

use fastrand::Rng;
use futures::future::join_all;
use lbctl::store::{ErrorKind, SharedStore, Txn};

use super::load::{Load, Outcome};
use super::store;
use crate::store::conformance::key;
use crate::store::history::{Attempt, Heard, History, Told, Watcher};
use crate::support::etcd::{Etcd, Options};
use crate::support::{Random, eventually_async, soak};

/// What happens to a member.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// `kill -9`.
    Kill,
    /// SIGSTOP: its connections stay open.
    Pause,
    /// SIGTERM: it says goodbye.
    Stop,
}

const FAULTS: [Fault; 3] = [Fault::Kill, Fault::Pause, Fault::Stop];

/// The longest that an operation may take: the store's own deadline, and time for a busy machine.
const OPERATION: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_member_after_the_other_fails_under_load_and_nothing_is_lost() {
    fail_one_by_one(Options::default()).await;
}

/// Every new connection needs a login, which the cluster has to agree on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_member_after_the_other_fails_under_load_with_logins_and_nothing_is_lost() {
    fail_one_by_one(Options { password: true, tls: true, ..Options::default() }).await;
}

async fn fail_one_by_one(options: Options) {
    let Some(mut etcd) = Etcd::start_with(3, options) else { return };
    let mut random = Random::new();
    let load = Load::start(&etcd.url("lbctl"), &mut random.rng).await;
    let mut rounds: Vec<(Fault, bool)> =
        FAULTS.into_iter().flat_map(|fault| [(fault, true), (fault, false)]).collect();
    let mut count = 0;
    for _ in 0..soak(1, 10) {
        random.rng.shuffle(&mut rounds);
        for &(fault, leader) in &rounds {
            let away = if leader { 0 } else { random.rng.usize(1..3) };
            let member = (etcd.leader() + away) % 3;
            suffer(&mut etcd, member, fault, &mut random.rng).await;
            load.progress().await;
            count += 1;
        }
    }
    let outcome = load.end().await;
    eprintln!("{count} faults: {}", outcome.summary());
    outcome.judge();
    no_error_but_delay(&outcome, count);
}

/// A fault of a random length; the member is whole again afterwards.
async fn suffer(etcd: &mut Etcd, member: usize, fault: Fault, rng: &mut Rng) {
    let started = Instant::now();
    match fault {
        Fault::Kill => etcd.kill(member),
        Fault::Pause => etcd.pause(member),
        Fault::Stop => etcd.stop(member),
    }
    // From less than a heartbeat to more than an election.
    tokio::time::sleep(Duration::from_millis(rng.u64(50..4000))).await;
    match fault {
        Fault::Kill | Fault::Stop => etcd.restart(member),
        Fault::Pause => etcd.resume(member),
    }
    eprintln!("member {member}: {fault:?} for {:.1?}", started.elapsed());
}

/// With one member down there are two others to ask.
fn no_error_but_delay(outcome: &Outcome, faults: usize) {
    let Outcome { errors, unknown, slowest, .. } = outcome;
    assert!(errors.is_empty(), "{errors:#?}");
    assert!(*slowest < OPERATION, "an operation took {slowest:?}");
    // A writer has one write under way when a member fails.
    let most = faults * 6;
    assert!(unknown.len() <= most, "{} unknown of {most} at most: {unknown:#?}", unknown.len());
}

/// Keys that are written without a majority, and before and after.
const PREFIX: &str = "majority";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lost_majority_is_said_clearly_and_its_return_heals_everything() {
    let Some(mut etcd) = Etcd::start_with(3, Options::default()) else { return };
    let mut random = Random::new();
    let mut stores = Vec::new();
    for _ in 0..6 {
        stores.push(store(&etcd.url("lbctl")).await);
    }
    let watchers: Vec<Watcher> =
        stores.iter().map(|store| Watcher::start(store.clone(), PREFIX, "end")).collect();
    let mut attempts = Vec::new();
    for round in 0..soak(1, 10) {
        let settled = Attempt::end(&stores[0], PREFIX, &format!("before-{round}")).await;
        attempts.push(settled);
        // The one that is left may have been the leader.
        let left = random.rng.usize(..3);
        let (first, second) = ((left + 1) % 3, (left + 2) % 3);
        etcd.kill(first);
        etcd.kill(second);
        attempts.extend(write_without_majority(&stores, &format!("at-once-{round}")).await);
        interrupted(&watchers).await;
        let heard = count(&watchers);
        let refused = write_without_majority(&stores, &format!("later-{round}")).await;
        assert!(refused.iter().all(|attempt| attempt.told == Told::Refused), "{refused:?}");
        attempts.extend(refused);
        assert_eq!(count(&watchers), heard, "a watch that was interrupted had something to say");
        etcd.launch(first);
        etcd.restart(second);
    }
    let history = History::end(attempts, watchers, &stores[0], PREFIX, "end").await;
    history.judge().unwrap();
}

/// Every store says within its deadline what it cannot do, and who failed it.
async fn write_without_majority(stores: &[SharedStore], name: &str) -> Vec<Attempt> {
    let writes = stores.iter().enumerate().map(|(number, store)| async move {
        let (key, value) = (key(&format!("{PREFIX}/{number}")), format!("{name}-{number}"));
        let txn = Txn::new().put(key.clone(), value.clone());
        let started = Instant::now();
        let (result, read) = tokio::join!(store.commit(txn), store.get(&key));
        let error = result.as_ref().expect_err("a commit without a majority").to_string();
        assert!(started.elapsed() < OPERATION, "{:?}: {error}", started.elapsed());
        let named = format!("etcd commit \"{key}\"");
        assert!(error.contains(&named) && error.contains("127.0.0.1:"), "{error}");
        let read = read.expect_err("a read without a majority");
        assert_eq!(read.kind(), ErrorKind::Unavailable, "{read}");
        Attempt { keys: vec![key], value, told: Told::of(&result) }
    });
    join_all(writes).await
}

/// Waits until every watch says that it is.
async fn interrupted(watchers: &[Watcher]) {
    eventually_async("every watch to be interrupted", || async {
        let all = watchers.iter().all(|w| matches!(w.so_far().last(), Some(Heard::Interrupted)));
        all.then_some(())
    })
    .await;
}

fn count(watchers: &[Watcher]) -> usize {
    watchers.iter().map(|watcher| watcher.so_far().len()).sum()
}
