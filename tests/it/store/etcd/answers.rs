//! Writes whose requests or answers are late, lost or torn: whatever is said of them is true.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use futures::future::join_all;
use lbctl::store::{Commit, Guard, SharedStore, Txn};

use super::store;
use crate::store::conformance::key;
use crate::store::history::{Attempt, History, Told, Watcher};
use crate::support::etcd::Etcd;
use crate::support::proxy::{Mode, Proxy, Way};
use crate::support::{Random, soak};

/// Users at once, so that one of them waits for a deadline while others go on.
const USERS: usize = 12;

/// Ways to the store that each of them has.
const WAYS: usize = 3;

/// All writes are under it.
const PREFIX: &str = "answers";

/// The last commit of all.
const END: &str = "end";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_said_of_a_write_is_true_however_its_answer_fails() {
    let Some(etcd) = Etcd::shared() else { return };
    let mut random = Random::new();
    let name = format!("test/{:016x}", random.rng.u64(..));
    let direct = store(&etcd.url(&name)).await;
    let mut users = Vec::new();
    for number in 0..USERS {
        users.push(User::start(number, etcd.port(0), &name, random.rng.fork()).await);
    }
    let mut watchers = vec![Watcher::start(direct.clone(), PREFIX, END)];
    watchers.extend(users.iter().map(|u| Watcher::start(u.store.clone(), PREFIX, END)));
    let mut users = join_all(users.into_iter().map(User::work)).await;
    let attempts = users.iter_mut().flat_map(|user| std::mem::take(&mut user.attempts)).collect();
    let history = History::end(attempts, watchers, &direct, PREFIX, END).await;
    let commits = history.judge().unwrap();
    let mut tally: BTreeMap<&str, usize> = BTreeMap::new();
    for attempt in &history.attempts {
        let done = commits.values().any(|(value, _)| *value == attempt.value);
        let what = match attempt.told {
            Told::Committed(_) => "committed",
            Told::Refused => "refused",
            Told::Unknown if done => "unknown and done",
            Told::Unknown => "unknown and not done",
        };
        *tally.entry(what).or_default() += 1;
    }
    eprintln!("{tally:?}");
    assert_eq!(tally.len(), 4, "not every case was met: {tally:?}");
}

/// One user of the store with ways to it that fail.
struct User {
    number: usize,
    proxies: Vec<Proxy>,
    store: SharedStore,
    rng: Rng,
    attempts: Vec<Attempt>,
}

impl User {
    async fn start(number: usize, port: u16, prefix: &str, rng: Rng) -> Self {
        let mut proxies = Vec::new();
        for _ in 0..WAYS {
            proxies.push(Proxy::start(port).await);
        }
        let ways: Vec<String> = proxies.iter().map(|p| format!("127.0.0.1:{}", p.port())).collect();
        let store = store(&format!("etcd://{}/{prefix}", ways.join(","))).await;
        Self { number, proxies, store, rng, attempts: Vec::new() }
    }

    async fn work(mut self) -> Self {
        for number in 0..soak(12, 120) {
            self.write(number).await;
            for proxy in &self.proxies {
                proxy.mend().await;
            }
        }
        self
    }

    /// Creates a key, together with a write to one that exists, while its ways fail for a while.
    async fn write(&mut self, number: usize) {
        let new = key(&format!("{PREFIX}/{}/{number}", self.number));
        let last = key(&format!("{PREFIX}/{}/last", self.number));
        let value = format!("{}-{number}", self.number);
        let txn = Txn::new().guard(Guard::Absent(new.clone()));
        let txn = txn.put(new.clone(), value.clone()).put(last.clone(), value.clone());
        let faults = self.faults();
        let result = tokio::select! {
            result = self.store.commit(txn) => result,
            () = fail(&self.proxies, &faults, &mut self.rng) => unreachable!(),
        };
        // Nobody else creates this key: such a conflict would be with itself, sent twice.
        assert!(!matches!(result, Ok(Commit::Conflict)), "a false conflict over {new}: {faults:?}");
        let told = Told::of(&result);
        self.attempts.push(Attempt { keys: vec![new, last], value, told });
    }

    /// One for each way; often the same for all, so that no other way is left, or none at all.
    fn faults(&mut self) -> Vec<Mode> {
        match self.rng.u8(..4) {
            0 => vec![Mode::Cut; WAYS],
            1 => vec![mode(&mut self.rng); WAYS],
            _ => (0..WAYS).map(|_| mode(&mut self.rng)).collect(),
        }
    }
}

fn mode(rng: &mut Rng) -> Mode {
    match rng.u8(..7) {
        0 => Mode::Open,
        1 => Mode::Cut,
        2 => Mode::Frozen,
        3 => Mode::Mute,
        4 => Mode::Slow(Duration::from_millis(rng.u64(1..300))),
        // Up to more than the request and the answer of one commit.
        5 => Mode::Torn(Way::Request, rng.usize(..600)),
        _ => Mode::Torn(Way::Answer, rng.usize(..300)),
    }
}

/// Breaks the ways at some moment of a write, and mends them: soon, or after every deadline. Does
/// not end by itself.
async fn fail(proxies: &[Proxy], faults: &[Mode], rng: &mut Rng) {
    if rng.bool() {
        tokio::time::sleep(Duration::from_micros(rng.u64(..4000))).await;
    }
    proxies.iter().zip(faults).for_each(|(proxy, fault)| proxy.set(*fault));
    let lasting = if rng.u8(..4) == 0 { 7000 } else { rng.u64(..1500) };
    tokio::time::sleep(Duration::from_millis(lasting)).await;
    proxies.iter().for_each(|proxy| proxy.set(Mode::Open));
    std::future::pending::<()>().await;
}
