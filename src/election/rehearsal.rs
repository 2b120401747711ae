//! Whole candidates on a memory store that fails on purpose, in paused time: processes stop being
//! run and go on, the store is refused, slow or loses its answers.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use fastrand::Rng;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;

use super::{Candidate, Elections, Leadership, Options, Standing, driver};
use crate::daemon::spawn_owned;
use crate::store::{Commit, Faults, Faulty, Key, MemoryStore, Store as _, Txn};

const TTL: Duration = Duration::from_secs(2);
const CANDIDATES: usize = 5;
const STEP: Duration = Duration::from_millis(20);

/// A process that can be paused, as by SIGSTOP: nothing of it runs, and the world goes on.
struct Pausable<F> {
    inner: Pin<Box<F>>,
    paused: Arc<AtomicBool>,
    look_again: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Future for Pausable<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if self.paused.load(Ordering::Relaxed) {
            let look_again = self.look_again.insert(Box::pin(sleep(STEP)));
            // A sleep that has just begun is pending, and wakes this task at its end.
            _ = look_again.as_mut().poll(context).is_pending();
            return Poll::Pending;
        }
        self.inner.as_mut().poll(context)
    }
}

struct Process {
    candidate: Candidate,
    store: Faulty<MemoryStore>,
    paused: Arc<AtomicBool>,
}

impl Process {
    fn start(store: &MemoryStore, seed: u64, faults: Faults) -> Self {
        let faulty = Faulty::new(store.clone(), seed);
        faulty.set_faults(faults);
        let paused = Arc::new(AtomicBool::new(false));
        let (told, standing) = tokio::sync::watch::channel(Standing::Follower { leader: None });
        let (resign, resigned) = (CancellationToken::new(), CancellationToken::new());
        let options =
            Options { name: "test".parse().unwrap(), id: "same".parse().unwrap(), ttl: TTL };
        let elections = Elections::new(Arc::new(faulty.clone()));
        let drive = driver::drive(elections, options, told, resign.clone(), resigned.clone());
        let inner = Pausable { inner: Box::pin(drive), paused: paused.clone(), look_again: None };
        let candidate = Candidate { standing, resign, resigned, _task: spawn_owned(inner) };
        Self { candidate, store: faulty, paused }
    }

    fn last_leadership(&self) -> Option<Leadership> {
        match &*self.candidate.standing.borrow() {
            Standing::Leader(leadership) => Some(leadership.clone()),
            Standing::Follower { .. } => None,
        }
    }
}

struct Stage {
    seed: u64,
    rng: Rng,
    store: MemoryStore,
    processes: Vec<Process>,
    /// Every leadership there was, in the order of their discovery.
    leaderships: Vec<Leadership>,
    last_written: u64,
}

impl Stage {
    fn new(seed: u64) -> Self {
        let mut stage = Self {
            seed,
            rng: Rng::with_seed(seed),
            store: MemoryStore::new(),
            processes: Vec::new(),
            leaderships: Vec::new(),
            last_written: 0,
        };
        stage.processes = (0..CANDIDATES).map(|_| stage.process()).collect();
        stage
    }

    fn process(&mut self) -> Process {
        let faults = Faults {
            refuse: 0.1,
            delay: 0.3,
            max_delay: TTL * 2 / 3,
            lose_answer: 0.1,
            cut_watch: 0.1,
        };
        Process::start(&self.store, self.rng.u64(..), faults)
    }

    async fn play(&mut self, time: Duration, faulty: bool) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            sleep(STEP).await;
            self.check();
            if faulty && self.rng.f64() < 0.03 {
                self.mischief();
            }
            self.write_as_somebody().await;
        }
    }

    fn check(&mut self) {
        let led = self.processes.iter().filter_map(Process::last_leadership);
        let acting: Vec<Leadership> = led.filter(Leadership::is_held).collect();
        assert!(acting.len() <= 1, "seed {}: {acting:?}", self.seed);
        let Some(leadership) = acting.into_iter().next() else { return };
        let last = self.leaderships.last().map(|last| last.token);
        if last != Some(leadership.token) {
            assert!(last < Some(leadership.token), "seed {}: an old token", self.seed);
            self.leaderships.push(leadership);
        }
    }

    fn mischief(&mut self) {
        let i = self.rng.usize(0..CANDIDATES);
        match self.rng.u8(0..4) {
            0 => self.processes[i].paused.store(true, Ordering::Relaxed),
            1 => self.processes[i].paused.store(false, Ordering::Relaxed),
            2 => self.processes[i].store.set_offline(self.rng.bool()),
            _ => self.processes[i] = self.process(),
        }
    }

    /// Leaders and ex-leaders write; only the last leader's write may ever be let in.
    async fn write_as_somebody(&mut self) {
        let Some(leadership) = self.rng.choice(&self.leaderships).cloned() else { return };
        let token = leadership.token.0.0;
        let key: Key = "led".parse().unwrap();
        let txn = Txn::new().put(key.clone(), token.to_string());
        if leadership.commit(&self.store, txn).await.unwrap() == Commit::Conflict {
            return;
        }
        assert!(token >= self.last_written, "seed {}: an ex-leader's write", self.seed);
        self.last_written = token;
        let entry = self.store.get(&key).await.unwrap().unwrap();
        assert_eq!(entry.value, token.to_string());
    }

    fn end_faults(&mut self) {
        for process in &self.processes {
            process.paused.store(false, Ordering::Relaxed);
            process.store.set_offline(false);
            process.store.set_faults(Faults::default());
        }
    }

    fn leader(&self) -> Option<Leadership> {
        self.processes.iter().find_map(|process| process.candidate.leadership())
    }
}

async fn rehearse(seed: u64) -> usize {
    let mut stage = Stage::new(seed);
    stage.play(TTL * 10, true).await;
    stage.end_faults();
    stage.play(TTL * 4, false).await;
    let leader = stage.leader().unwrap_or_else(|| panic!("seed {seed}: nobody leads"));
    stage.play(TTL * 3, false).await;
    assert!(leader.is_held(), "seed {seed}: the leader changed for no reason");
    stage.leaderships.len()
}

#[test]
fn whole_candidates_never_act_at_once_either() {
    let seeds = match std::env::var("LBCTL_TEST_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..100,
    };
    let mut leaderships = 0;
    for seed in seeds.clone() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        fastrand::seed(seed);
        leaderships += runtime.block_on(rehearse(seed));
    }
    let fewest = 2 * seeds.count();
    assert!(leaderships >= fewest, "only {leaderships} leaderships: the faults test nothing");
}
