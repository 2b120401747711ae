//! Five candidates in a small world with a seed: requests and answers are late or lost, watches are
//! cut, processes are paused, killed, started again or resign, and their clocks run at different
//! rates. The store loses leases and people delete the leader key. Whatever happens, at no instant
//! do two of them act, but for one that was robbed of its key and cannot know it yet.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use fastrand::Rng;

use super::machine::{Answer, CallId, Effect, Input, Machine, Moment};
use super::view::Holder;
use crate::store::{Lease, LeaseId, Revision};

const CANDIDATES: usize = 5;
/// Faults happen up to here; then the world is well.
const FAULTS_END: Duration = Duration::from_secs(20);
const TTL: Duration = Duration::from_secs(2);

/// The leader key and the leases, with etcd's meaning.
#[derive(Default)]
struct ModelStore {
    revision: u64,
    holder: Option<Holder>,
    leases: BTreeMap<LeaseId, (Duration, Duration)>,
    last_lease: u64,
    /// The token of the last fenced commit that was let in.
    last_fenced: Revision,
    /// When the keys that are gone were deleted, by their tokens.
    deleted: BTreeMap<Revision, Duration>,
    now: Duration,
}

enum Happening {
    /// A request arrives at the store.
    Arrive(usize, u32, Effect),
    /// An input arrives at a candidate.
    Deliver(usize, u32, Input),
    Wake(usize),
    /// A paused process goes on.
    Resume(usize),
    /// A watch is whole again.
    Heal(usize),
    /// A lease may have ended.
    Expire,
    /// The store loses the lease of the leader key, or somebody deletes the key.
    Rob,
    Mischief,
}

struct Node {
    machine: Machine,
    /// Counts the processes that ran under this name: an answer to an earlier one reaches nobody.
    incarnation: u32,
    /// Its seconds to the world's.
    rate: f64,
    paused: bool,
    /// No message comes or goes until then.
    offline_until: Duration,
    inbox: Vec<Input>,
    watch_cut: bool,
    wakes: Option<Duration>,
    leads: Option<Revision>,
    /// The last campaign, and when its answer came.
    campaign: Option<(CallId, Duration)>,
    /// The newest revision that the watch has told of.
    news: Revision,
    resigning: bool,
}

struct World {
    seed: u64,
    rng: Rng,
    now: Duration,
    store: ModelStore,
    nodes: Vec<Node>,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    planned: u64,
    last_token: Revision,
    /// The shortest time a lease lives, whatever was asked for.
    least_ttl: Duration,
    leaderships: u32,
    /// What was taken from its holder before its time, by the token.
    robbed: BTreeMap<Revision, Robbery>,
}

#[derive(Debug, Clone, Copy)]
struct Robbery {
    at: Duration,
    /// The lease ended too, so that no renewal can hide it.
    of_lease: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let least_ttl = if rng.bool() { TTL } else { TTL * 3 / 2 };
        let nodes = (0..CANDIDATES).map(|_| Node::new(&mut rng)).collect();
        let mut world = Self {
            seed,
            rng,
            now: Duration::ZERO,
            store: ModelStore::default(),
            nodes,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            planned: 0,
            last_token: Revision::default(),
            least_ttl,
            leaderships: 0,
            robbed: BTreeMap::new(),
        };
        for node in 0..CANDIDATES {
            world.plan(Duration::ZERO, Happening::Wake(node));
            world.plan(Duration::ZERO, Happening::Heal(node));
        }
        world.plan(Duration::from_millis(500), Happening::Mischief);
        world
    }

    fn plan(&mut self, after: Duration, happening: Happening) {
        self.planned += 1;
        self.queue.push(Reverse((self.now + after, self.planned)));
        self.happenings.insert(self.planned, happening);
    }

    fn run_until(&mut self, end: Duration) {
        while let Some(&Reverse((at, number))) = self.queue.peek() {
            if at > end {
                break;
            }
            self.queue.pop();
            self.now = at;
            self.expire();
            let happening = self.happenings.remove(&number).unwrap();
            self.happen(happening);
            self.check_one_leader();
        }
        self.now = end;
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive(node, incarnation, request) => {
                self.arrive(node, incarnation, request);
            }
            Happening::Deliver(node, incarnation, input) => {
                let reaches = !matches!(input, Input::Answer(..))
                    || self.now >= self.nodes[node].offline_until;
                if self.nodes[node].incarnation == incarnation && reaches {
                    self.deliver(node, input);
                }
            }
            Happening::Wake(node) => {
                // An earlier one was planned since, and did the work.
                if self.nodes[node].wakes.take_if(|planned| *planned <= self.now).is_some()
                    && !self.nodes[node].paused
                {
                    self.feed(node, Input::Tick);
                }
            }
            Happening::Resume(node) => self.resume(node),
            Happening::Heal(node) => self.heal(node),
            Happening::Expire => {}
            Happening::Rob => self.rob(),
            Happening::Mischief => self.mischief(),
        }
    }

    fn deliver(&mut self, node: usize, input: Input) {
        if self.nodes[node].paused {
            self.nodes[node].inbox.push(input);
        } else {
            self.feed(node, input);
        }
    }

    fn resume(&mut self, node: usize) {
        self.nodes[node].paused = false;
        for input in std::mem::take(&mut self.nodes[node].inbox) {
            self.feed(node, input);
        }
        self.feed(node, Input::Tick);
    }

    fn feed(&mut self, node: usize, input: Input) {
        let jitter = self.rng.f64();
        let at = Moment { now: self.local(node), jitter };
        let effects = self.nodes[node].machine.handle(at, input.clone());
        self.note_news(node, &input, !effects.is_empty());
        for effect in effects {
            self.perform(node, effect);
        }
        self.plan_wake(node);
    }

    /// What a candidate can know from now on.
    fn note_news(&mut self, node: usize, input: &Input, heeded: bool) {
        let (now, node) = (self.now, &mut self.nodes[node]);
        match input {
            Input::Seen(holder) => node.news = node.news.max(holder.created),
            Input::Gone(revision) => node.news = node.news.max(*revision),
            Input::Answer(id, _) if heeded => {
                if let Some((_, answered)) = node.campaign.as_mut().filter(|(call, _)| call == id) {
                    *answered = now;
                }
            }
            Input::Answer(..) | Input::Tick | Input::Resign => {}
        }
    }

    /// The one who leads now may win back nothing: its key goes, with or without its lease.
    fn rob(&mut self) {
        let Some(holder) = self.store.holder.clone() else { return };
        let of_lease = self.rng.bool();
        let robbery = Robbery { at: self.now, of_lease };
        self.robbed.insert(holder.created, robbery);
        match holder.lease.filter(|_| of_lease) {
            Some(lease) => self.store.end(lease),
            None => self.store.delete(),
        }
        self.tell_watchers();
    }

    fn plan_wake(&mut self, node: usize) {
        let Some(wake) = self.nodes[node].machine.wake_at() else { return };
        let wake = wake.div_f64(self.nodes[node].rate) + Duration::from_micros(1);
        if self.nodes[node].wakes.is_none_or(|planned| wake < planned) {
            self.nodes[node].wakes = Some(wake);
            self.plan(wake.saturating_sub(self.now), Happening::Wake(node));
        }
    }

    fn perform(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::Lead { token, until } => {
                let is_newest = token > self.last_token || self.is_unaware(node, token);
                assert!(is_newest, "seed {}: token {token} again", self.seed);
                assert!(until > self.local(node), "seed {}: a lease that is over", self.seed);
                assert!(self.nodes[node].leads.is_none(), "seed {}: leads twice", self.seed);
                self.check_read_back(node, token);
                self.last_token = self.last_token.max(token);
                self.nodes[node].leads = Some(token);
                self.leaderships += 1;
            }
            Effect::Extend { .. } => assert!(self.nodes[node].leads.is_some()),
            Effect::StepDown { .. } => {
                assert!(self.nodes[node].leads.take().is_some(), "seed {}", self.seed);
            }
            Effect::Follow { .. } => assert!(self.nodes[node].leads.is_none()),
            Effect::Stop => self.start_again(node),
            request => {
                if let Effect::Campaign(id, _) = request {
                    self.nodes[node].campaign = Some((id, self.now));
                }
                self.send(node, request);
            }
        }
    }

    /// Who leads has seen its key after the campaign was answered: an answer alone may be late, and
    /// the key gone again.
    fn check_read_back(&self, node: usize, token: Revision) {
        let answered = self.nodes[node].campaign.map_or(Duration::MAX, |(_, answered)| answered);
        let deleted = self.store.deleted.get(&token).copied().unwrap_or(Duration::MAX);
        assert!(
            deleted >= answered,
            "seed {}: {token} was gone at {deleted:?}, and the campaign answered at {answered:?}",
            self.seed
        );
    }

    fn send(&mut self, node: usize, request: Effect) {
        let incarnation = self.nodes[node].incarnation;
        if self.now < self.nodes[node].offline_until {
            return;
        }
        match self.delay() {
            Some(delay) => self.plan(delay, Happening::Arrive(node, incarnation, request)),
            None if self.rng.bool() => {}
            None => self.answer(node, incarnation, &request, Answer::Failed),
        }
    }

    fn arrive(&mut self, node: usize, incarnation: u32, request: Effect) {
        let id = format!("node-{node}");
        let before = self.store.holder.clone();
        let answer = self.store.serve(self.now, self.least_ttl, &id, &request);
        if before != self.store.holder {
            self.tell_watchers();
        }
        let won = matches!(request, Effect::Campaign(..)) && before != self.store.holder;
        if won && self.faulty() && self.rng.f64() < 0.2 {
            // About when the answer arrives, and what comes of it is read back.
            let soon = Duration::from_micros(self.rng.u64(0..8000));
            self.plan(soon, Happening::Rob);
        }
        if matches!(request, Effect::Grant(_) | Effect::KeepAlive(..)) {
            self.plan(self.least_ttl, Happening::Expire);
        }
        self.answer(node, incarnation, &request, answer);
    }

    /// An answer may be lost, or come in place of another one.
    fn answer(&mut self, node: usize, incarnation: u32, request: &Effect, answer: Answer) {
        let Some(id) = call_of(request) else { return };
        let answer = if self.faulty() && self.rng.f64() < 0.1 { Answer::Failed } else { answer };
        if let Some(delay) = self.delay() {
            self.plan(delay, Happening::Deliver(node, incarnation, Input::Answer(id, answer)));
        }
    }

    fn expire(&mut self) {
        let before = self.store.holder.clone();
        self.store.now = self.now;
        self.store.expire(self.now);
        if before != self.store.holder {
            self.tell_watchers();
        }
    }

    fn tell_watchers(&mut self) {
        for node in 0..CANDIDATES {
            if !self.nodes[node].watch_cut {
                let delay = self.delay().unwrap_or(Duration::from_millis(700));
                self.tell(node, delay);
            }
        }
    }

    fn tell(&mut self, node: usize, delay: Duration) {
        let input = match &self.store.holder {
            Some(holder) => Input::Seen(holder.clone()),
            None => Input::Gone(Revision(self.store.revision)),
        };
        let incarnation = self.nodes[node].incarnation;
        self.plan(delay, Happening::Deliver(node, incarnation, input));
    }

    fn heal(&mut self, node: usize) {
        self.nodes[node].watch_cut = false;
        self.tell(node, Duration::from_millis(1));
    }

    /// A way of a message; `None` when it gets lost.
    fn delay(&mut self) -> Option<Duration> {
        let usual = Duration::from_micros(self.rng.u64(200..3000));
        match self.rng.f64() {
            dice if !self.faulty() || dice < 0.75 => Some(usual),
            dice if dice < 0.92 => Some(TTL.mul_f64(self.rng.f64())),
            _ => None,
        }
    }

    fn faulty(&self) -> bool {
        self.now < FAULTS_END
    }

    fn mischief(&mut self) {
        if !self.faulty() {
            return;
        }
        // Leaders are where it hurts.
        let leader = self.nodes.iter().position(|node| node.leads.is_some());
        let any = self.rng.usize(0..CANDIDATES);
        let node = leader.filter(|_| self.rng.bool()).unwrap_or(any);
        let long = TTL.mul_f64(self.rng.f64() * 3.0);
        match self.rng.u8(0..9) {
            0 | 1 if !self.nodes[node].paused => {
                self.nodes[node].paused = true;
                self.plan(long, Happening::Resume(node));
            }
            2 | 3 if !self.nodes[node].watch_cut => {
                self.nodes[node].watch_cut = true;
                self.plan(long, Happening::Heal(node));
            }
            4 if !self.nodes[node].paused => self.start_again(node),
            5 if !self.nodes[node].paused && !self.nodes[node].resigning => {
                self.nodes[node].resigning = true;
                self.feed(node, Input::Resign);
            }
            6 | 7 => self.nodes[node].offline_until = self.now + long,
            8 => self.rob(),
            _ => {}
        }
        self.commit_as_any_leader();
        let wait = Duration::from_millis(self.rng.u64(50..2000));
        self.plan(wait, Happening::Mischief);
    }

    /// The process is gone, and a new one of the same name starts.
    fn start_again(&mut self, node: usize) {
        let incarnation = self.nodes[node].incarnation + 1;
        let rate = self.nodes[node].rate;
        let soon = Duration::from_millis(20);
        let wakes = Some(self.now + soon);
        self.nodes[node] = Node { incarnation, rate, wakes, ..Node::new(&mut self.rng) };
        self.plan(soon, Happening::Wake(node));
        self.plan(Duration::from_millis(20), Happening::Heal(node));
    }

    /// Somebody who leads, or has led, writes with its token.
    fn commit_as_any_leader(&mut self) {
        let token = Revision(self.rng.u64(0..=self.last_token.0));
        let token = if self.rng.bool() { self.last_token } else { token };
        if self.store.holder.as_ref().is_some_and(|holder| holder.created == token) {
            assert!(token >= self.store.last_fenced, "seed {}: an ex-leader wrote", self.seed);
            self.store.last_fenced = token;
        }
    }

    fn local(&self, node: usize) -> Duration {
        self.now.mul_f64(self.nodes[node].rate)
    }

    fn acting(&self) -> Vec<(usize, Revision)> {
        let acting = |node: usize| Some((node, self.nodes[node].machine.acting(self.local(node))?));
        (0..CANDIDATES).filter_map(acting).collect()
    }

    fn check_one_leader(&self) {
        let mut acting = self.acting();
        acting.retain(|(node, token)| !self.is_unaware(*node, *token));
        assert!(acting.len() <= 1, "seed {}: at {:?} {acting:?} act", self.seed, self.now);
    }
}

impl World {
    /// Whether it was robbed and cannot know it: the news is under way, and no renewal was due that
    /// would have told.
    fn is_unaware(&self, node: usize, token: Revision) -> bool {
        let Some(robbery) = self.robbed.get(&token) else { return false };
        let renewed = robbery.of_lease && self.now >= robbery.at + self.least_ttl;
        self.nodes[node].news <= token && !renewed
    }
}

impl Node {
    fn new(rng: &mut Rng) -> Self {
        Self {
            machine: Machine::new(TTL),
            incarnation: 0,
            rate: 0.98 + 0.04 * rng.f64(),
            paused: false,
            offline_until: Duration::ZERO,
            inbox: Vec::new(),
            watch_cut: true,
            wakes: Some(Duration::ZERO),
            leads: None,
            campaign: None,
            news: Revision::default(),
            resigning: false,
        }
    }
}

impl ModelStore {
    fn serve(&mut self, now: Duration, ttl: Duration, id: &str, request: &Effect) -> Answer {
        match request {
            Effect::Grant(_) => {
                self.last_lease += 1;
                let lease = Lease { id: LeaseId(self.last_lease), ttl };
                self.leases.insert(lease.id, (now + ttl, ttl));
                Answer::Granted(lease)
            }
            Effect::Campaign(_, lease) => self.campaign(*lease, id),
            Effect::Read(_) => Answer::Read(self.holder.clone()),
            Effect::KeepAlive(_, lease) => match self.leases.get_mut(lease) {
                Some((ends, ttl)) => {
                    *ends = now + *ttl;
                    Answer::Renewed(*ttl)
                }
                None => Answer::LeaseExpired,
            },
            Effect::Resign(_, token, lease) => {
                if self.holder.as_ref().is_some_and(|holder| holder.created == *token) {
                    self.delete();
                }
                self.end(*lease);
                Answer::Resigned
            }
            Effect::Revoke(lease) => {
                self.end(*lease);
                Answer::Resigned
            }
            other => panic!("{other:?} is no request"),
        }
    }

    fn campaign(&mut self, lease: LeaseId, id: &str) -> Answer {
        if !self.leases.contains_key(&lease) {
            return Answer::LeaseExpired;
        }
        if self.holder.is_none() {
            self.revision += 1;
            let created = Revision(self.revision);
            self.holder = Some(Holder { created, lease: Some(lease), id: id.to_owned() });
        }
        Answer::Campaigned
    }

    fn delete(&mut self) {
        self.revision += 1;
        if let Some(holder) = self.holder.take() {
            self.deleted.insert(holder.created, self.now);
        }
    }

    fn end(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        if self.holder.as_ref().is_some_and(|holder| holder.lease == Some(lease)) {
            self.delete();
        }
    }

    fn expire(&mut self, now: Duration) {
        let dead =
            |(id, (ends, _)): (&LeaseId, &(Duration, Duration))| (*ends <= now).then_some(*id);
        let dead: Vec<LeaseId> = self.leases.iter().filter_map(dead).collect();
        dead.into_iter().for_each(|lease| self.end(lease));
    }
}

fn call_of(request: &Effect) -> Option<CallId> {
    match request {
        Effect::Grant(id)
        | Effect::Campaign(id, _)
        | Effect::Read(id)
        | Effect::KeepAlive(id, _)
        | Effect::Resign(id, ..) => Some(*id),
        _ => None,
    }
}

/// `LBCTL_TEST_SEED` runs one seed alone, `LBCTL_TEST_SEEDS` another number of them.
fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    match number("LBCTL_TEST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LBCTL_TEST_SEEDS").unwrap_or(2000),
    }
}

/// One world's life; answers how many leaderships it has seen.
fn live(seed: u64) -> u32 {
    let mut world = World::new(seed);
    world.run_until(FAULTS_END);
    // A pause, a cut or a lost message may reach three times to live past the end of the faults;
    // then a lease has to end and a candidate to look.
    world.run_until(FAULTS_END + TTL * 8);
    let leader = world.acting();
    assert_eq!(leader.len(), 1, "seed {seed}: nobody leads");
    world.run_until(FAULTS_END + TTL * 11);
    assert_eq!(world.acting(), leader, "seed {seed}: the leader changed for no reason");
    world.leaderships
}

#[test]
fn never_two_act_and_once_the_faults_end_one_leads() {
    let seeds = seeds();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let leaderships: u32 = std::thread::scope(|scope| {
        let share =
            |first: usize| seeds.clone().skip(first).step_by(threads).map(live).sum::<u32>();
        let shares: Vec<_> = (0..threads).map(|first| scope.spawn(move || share(first))).collect();
        shares.into_iter().map(|share| share.join().unwrap()).sum()
    });
    let mean = f64::from(leaderships) / seeds.count() as f64;
    assert!(mean >= 4.0, "only {mean} leaderships a seed: the faults test nothing");
}
