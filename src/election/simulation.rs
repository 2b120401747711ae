//! Five candidates in a small world with a seed: requests and answers are late or lost, watches are
//! cut, processes are paused, killed, started again or resign, and their clocks run at different
//! rates. The store loses leases and people delete the leader key, put one without a lease, restore
//! the store from an older copy or begin with an empty one. Whatever happens, at no instant do two of
//! them act, but for one that was robbed of its key and cannot know it yet; and no candidate campaigns
//! without a pause.

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

/// Most campaigns of one candidate within a time to live.
const MOST_CAMPAIGNS: usize = 20;

/// The leader key and the leases, with etcd's meaning.
#[derive(Default)]
struct ModelStore {
    revision: u64,
    /// How often it was restored or rebuilt.
    life: u64,
    /// Commits to other keys between two to this one.
    step: Rng,
    copy: Option<Copy>,
    holder: Option<Holder>,
    leases: BTreeMap<LeaseId, (Duration, Duration)>,
    last_lease: u64,
    /// The token of the last fenced commit that was let in.
    last_fenced: Revision,
    /// When the keys that are gone were deleted, by their tokens.
    deleted: BTreeMap<Revision, Duration>,
    now: Duration,
}

/// What a backup holds.
#[derive(Clone)]
struct Copy {
    revision: u64,
    holder: Option<Holder>,
    leases: BTreeMap<LeaseId, (Duration, Duration)>,
}

/// What comes to a candidate.
enum Message {
    Input(Input),
    /// By watch: the store's life and revision, and the leader key.
    News(u64, Revision, Option<Holder>),
    /// It is the turn of a campaign that waits.
    Turn(CallId),
}

enum Happening {
    /// A request arrives at the store.
    Arrive(usize, u32, Effect),
    /// An input arrives at a candidate.
    Deliver(usize, u32, Message),
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
    inbox: Vec<Message>,
    watch_cut: bool,
    wakes: Option<Duration>,
    leads: Option<Revision>,
    /// The last campaign, and when its answer came.
    campaign: Option<(CallId, Duration)>,
    /// The request for a lease that waits for its turn.
    waits: Option<CallId>,
    /// When it campaigned of late.
    campaigns: Vec<Duration>,
    /// The life of the store that its watch has told of.
    life: Option<u64>,
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
        let step = rng.fork();
        let mut world = Self {
            seed,
            rng,
            now: Duration::ZERO,
            store: ModelStore { revision: 1_000_000_000, step, ..ModelStore::default() },
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
            Happening::Deliver(node, incarnation, message) => {
                let reaches = !matches!(message, Message::Input(Input::Answer(..)))
                    || self.now >= self.nodes[node].offline_until;
                if self.nodes[node].incarnation == incarnation && reaches {
                    self.deliver(node, message);
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

    fn deliver(&mut self, node: usize, message: Message) {
        if self.nodes[node].paused {
            self.nodes[node].inbox.push(message);
        } else {
            self.take_in(node, message);
        }
    }

    fn take_in(&mut self, node: usize, message: Message) {
        let (life, revision, found) = match message {
            Message::Input(input) => return self.feed(node, input),
            Message::Turn(call) => return self.take_turn(node, call),
            Message::News(life, revision, found) => (life, revision, found),
        };
        let known = self.nodes[node].life.unwrap_or(life);
        // A watch tells of lives in their order.
        if life < known {
            return;
        }
        self.nodes[node].life = Some(life);
        self.feed(
            node,
            match found {
                found if life > known => Input::Reborn(revision, found),
                Some(holder) => Input::Seen(holder),
                None => Input::Gone(revision),
            },
        );
    }

    fn take_turn(&mut self, node: usize, call: CallId) {
        if self.nodes[node].waits.take_if(|waits| *waits == call).is_some() {
            self.send(node, Effect::Grant(call));
            self.feed(node, Input::Sent(call));
        }
    }

    fn resume(&mut self, node: usize) {
        self.nodes[node].paused = false;
        for message in std::mem::take(&mut self.nodes[node].inbox) {
            self.take_in(node, message);
        }
        self.feed(node, Input::Tick);
    }

    fn feed(&mut self, node: usize, input: Input) {
        let jitter = self.rng.f64();
        let at = Moment { now: self.local(node), jitter };
        let effects = self.nodes[node].machine.handle(at, input.clone());
        self.note_news(node, &input, !effects.is_empty());
        if !self.nodes[node].machine.is_campaigning() {
            self.nodes[node].waits = None;
        }
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
            Input::Reborn(revision, _) => node.news = *revision,
            Input::Answer(id, _) if heeded => {
                if let Some((_, answered)) = node.campaign.as_mut().filter(|(call, _)| call == id) {
                    *answered = now;
                }
            }
            Input::Answer(..) | Input::Sent(_) | Input::Tick | Input::Resign => {}
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

    /// The store is lost and begins with nothing, or with an older copy.
    fn replace_store(&mut self) {
        let copy = self.store.copy.clone().filter(|_| self.rng.bool());
        let holder = self.store.replace(copy);
        let now = &self.store.holder;
        if let Some(holder) = holder.filter(|holder| now.as_ref() != Some(holder)) {
            let robbery = Robbery { at: self.now, of_lease: true };
            self.robbed.insert(holder.created, robbery);
            self.store.deleted.insert(holder.created, self.now);
        }
        // Who has won the copy's leadership may be about to hear of it.
        let found = self.store.holder.as_ref().map_or(0, |holder| holder.created.0);
        self.last_token = Revision(found.saturating_sub(1));
        self.plan(self.least_ttl, Happening::Expire);
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
                if !self.robbed.contains_key(&token) {
                    self.last_token = self.last_token.max(token);
                }
                self.nodes[node].leads = Some(token);
                self.leaderships += 1;
            }
            Effect::Extend { .. } => assert!(self.nodes[node].leads.is_some()),
            Effect::StepDown { .. } => {
                assert!(self.nodes[node].leads.take().is_some(), "seed {}", self.seed);
            }
            Effect::Follow { .. } => assert!(self.nodes[node].leads.is_none()),
            Effect::GaveUp { .. } => {}
            Effect::Stop => self.start_again(node),
            Effect::Grant(call) => {
                let incarnation = self.nodes[node].incarnation;
                self.nodes[node].waits = Some(call);
                // Other elections of the process may be before it for a while.
                let most = if self.faulty() && self.rng.u8(0..4) == 0 { 3000 } else { 5 };
                let wait = Duration::from_millis(self.rng.u64(0..most));
                self.plan(wait, Happening::Deliver(node, incarnation, Message::Turn(call)));
            }
            request => {
                if let Effect::Campaign(id, _) = request {
                    self.nodes[node].campaign = Some((id, self.now));
                    self.count_campaign(node);
                }
                self.send(node, request);
            }
        }
    }

    fn count_campaign(&mut self, node: usize) {
        let now = self.now;
        let campaigns = &mut self.nodes[node].campaigns;
        campaigns.retain(|at| *at + TTL > now);
        campaigns.push(now);
        let count = campaigns.len();
        assert!(count <= MOST_CAMPAIGNS, "seed {}: {count} campaigns within {TTL:?}", self.seed);
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
            let answer = Message::Input(Input::Answer(id, answer));
            self.plan(delay, Happening::Deliver(node, incarnation, answer));
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
        let (revision, holder) = (Revision(self.store.revision), self.store.holder.clone());
        let incarnation = self.nodes[node].incarnation;
        let news = Message::News(self.store.life, revision, holder);
        self.plan(delay, Happening::Deliver(node, incarnation, news));
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
        self.store.copy_now(&mut self.rng);
        match self.rng.u8(0..11) {
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
            9 => self.replace_store(),
            10 => self.put_ownerless(),
            _ => {}
        }
        self.commit_as_any_leader();
        let wait = Duration::from_millis(self.rng.u64(50..2000));
        self.plan(wait, Happening::Mischief);
    }

    /// Somebody puts a leader key by hand.
    fn put_ownerless(&mut self) {
        if self.store.holder.is_none() {
            self.store.commit();
            let created = Revision(self.store.revision);
            self.store.holder = Some(Holder { created, lease: None, id: "nobody".to_owned() });
            self.tell_watchers();
        }
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
        let led = |holder: &Holder| holder.created == token && holder.lease.is_some();
        if self.store.holder.as_ref().is_some_and(led) {
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
        let (node, life) = (&self.nodes[node], self.store.life);
        (node.news <= token || node.life.is_some_and(|known| known < life)) && !renewed
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
            waits: None,
            campaigns: Vec::new(),
            life: None,
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
                    Answer::Renewed { ttl: *ttl, age: Duration::ZERO }
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
            Effect::Clear(_, created) => {
                if self.holder.as_ref().is_some_and(|holder| holder.created == *created) {
                    self.delete();
                }
                Answer::Cleared
            }
            other => panic!("{other:?} is no request"),
        }
    }

    fn campaign(&mut self, lease: LeaseId, id: &str) -> Answer {
        if !self.leases.contains_key(&lease) {
            return Answer::LeaseExpired;
        }
        if self.holder.is_none() {
            self.commit();
            let created = Revision(self.revision);
            self.holder = Some(Holder { created, lease: Some(lease), id: id.to_owned() });
        }
        Answer::Campaigned
    }

    /// What others have written meanwhile counts as well, so that two lives of the store hardly
    /// ever give out the same token.
    fn commit(&mut self) {
        self.revision += self.step.u64(1..10_000_000);
    }

    fn copy_now(&mut self, rng: &mut Rng) {
        if rng.u8(0..4) == 0 {
            let (revision, holder) = (self.revision, self.holder.clone());
            self.copy = Some(Copy { revision, holder, leases: self.leases.clone() });
        }
    }

    /// Answers who held the leader key. As in etcd, leases of a copy live for their whole time anew.
    fn replace(&mut self, copy: Option<Copy>) -> Option<Holder> {
        self.life += 1;
        let nothing = Copy { revision: 1, holder: None, leases: BTreeMap::new() };
        let Copy { revision, holder, leases } = copy.unwrap_or(nothing);
        let renewed = |(id, (_, ttl))| (id, (self.now + ttl, ttl));
        self.leases = leases.into_iter().map(renewed).collect();
        self.revision = revision;
        self.last_fenced = Revision::default();
        if let Some(holder) = &holder {
            self.deleted.remove(&holder.created);
        }
        std::mem::replace(&mut self.holder, holder)
    }

    fn delete(&mut self) {
        self.commit();
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
        | Effect::Clear(id, _)
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
