//! Only an order empties a server: histories of losses, restores, restarts and deaths in any order,
//! with the planners of discover and sync-haproxy, a store that forgets, and HAProxys that do not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lbctl::commands::discover::plan::{
    self as discover, ActionKind, Answer, Floors, Places, Policy, Report, World as Seen,
};
use lbctl::commands::sync_haproxy::desired::Wanted;
use lbctl::commands::sync_haproxy::plan::{Learnt, plan};
use lbctl::commands::sync_haproxy::predict::predict;
use lbctl::commands::sync_haproxy::{Filter, Held, Licence, Mode, Selector, Table, Target, View};
use lbctl::haproxy::{AdminFlags, AdminState, ObservedServer};
use lbctl::model::{
    BackendName, BackendReport, Endpoint, EndpointId, Key, Prefix, Ramp, Revision, ServerAddress,
    SlotNumber, SlotState, StoreLife, Timestamp, Weight, keys,
};
use lbctl::store::Entry;
use lbctl::tables::StoredTable;

use super::support::{Random, endpoint, soak};

const SLOTS: u32 = 6;
const SERVERS: u8 = 9;

#[test]
fn no_server_leaves_a_haproxy_without_a_decision() {
    let mut random = Random::new();
    for round in 0..soak(150, 5_000) {
        let mut world = World::new(random.rng.fork());
        for step in 0..60 {
            world.step(&format!("round {round}, step {step}"));
        }
        world.settle(&format!("round {round}, at the end"));
    }
}

/// A store in memory whose keys, revision and life can go anywhere.
#[derive(Debug, Clone)]
struct Store {
    entries: BTreeMap<Key, Entry>,
    revision: Revision,
    life: StoreLife,
}

impl Store {
    fn write(&mut self, key: Key, value: Option<Vec<u8>>) {
        self.revision.0 += 1;
        let modified = self.revision;
        match value {
            Some(value) => {
                let created = self.entries.get(&key).map_or(modified, |entry| entry.created);
                let value = value.into();
                let entry = Entry { key: key.clone(), value, created, modified, lease: None };
                self.entries.insert(key, entry);
            }
            None => _ = self.entries.remove(&key),
        }
    }

    fn under(&self, prefix: &Prefix) -> BTreeMap<Key, Entry> {
        let under = self.entries.iter().filter(|(key, _)| prefix.contains(key));
        under.map(|(key, entry)| (key.clone(), entry.clone())).collect()
    }
}

/// What a process has seen of the store: it notices that another life has begun.
#[derive(Debug, Clone)]
struct Eyes {
    life: StoreLife,
    revision: Revision,
    reborn_at: Option<Revision>,
}

impl Eyes {
    fn of(store: &Store) -> Self {
        Self { life: store.life.clone(), revision: store.revision, reborn_at: None }
    }

    fn look(&mut self, store: &Store) {
        if self.life != store.life {
            self.reborn_at = None;
        } else if store.revision < self.revision {
            self.reborn_at = Some(store.revision);
        }
        (self.life, self.revision) = (store.life.clone(), store.revision);
    }
}

#[derive(Debug)]
struct Leader {
    eyes: Eyes,
    token: Revision,
    missing: BTreeMap<EndpointId, u32>,
    known: BTreeMap<ServerAddress, SlotNumber>,
}

#[derive(Debug)]
struct Balancer {
    servers: Vec<ObservedServer>,
    /// `None`: its sync-haproxy does not run.
    sync: Option<(Eyes, View)>,
    report: Option<BackendReport>,
}

struct World {
    rng: fastrand::Rng,
    now: Timestamp,
    store: Store,
    copies: Vec<Store>,
    source: BTreeMap<EndpointId, Endpoint>,
    source_fails: bool,
    leader: Option<Leader>,
    balancers: Vec<Balancer>,
    /// Addresses that a leader has sent away since it placed them last.
    decided: BTreeSet<ServerAddress>,
    history: Vec<String>,
    lives: u32,
}

impl World {
    fn new(rng: fastrand::Rng) -> Self {
        let life = StoreLife::new("life 0");
        let store = Store { entries: BTreeMap::new(), revision: Revision(0), life };
        let empty =
            || Balancer { servers: (1..=SLOTS).map(place).collect(), sync: None, report: None };
        Self {
            rng,
            now: Timestamp::from_second(1_700_000_000).unwrap(),
            store,
            copies: Vec::new(),
            source: BTreeMap::new(),
            source_fails: false,
            leader: None,
            balancers: vec![empty(), empty()],
            decided: BTreeSet::new(),
            history: Vec::new(),
            lives: 0,
        }
    }

    fn step(&mut self, what: &str) {
        let event = self.event();
        self.history.push(event);
        self.now += Duration::from_secs(self.rng.u64(0..8));
        if self.rng.u8(..4) > 0 {
            self.lead();
        }
        for number in 0..self.balancers.len() {
            if self.rng.u8(..4) > 0 {
                self.sync(number, what);
            }
        }
    }

    /// Something that happens to a fleet.
    fn event(&mut self) -> String {
        let rng = &mut self.rng;
        let number = rng.u8(1..=SERVERS);
        let (id, address) = (format!("e{number}-{}", rng.u8(..2)), format!("10.0.0.{number}:80"));
        match rng.u8(..24) {
            0..6 => {
                let endpoint = endpoint(&id, &address);
                let busy = self.source.values().any(|other| other.address == endpoint.address);
                if !busy {
                    self.source.insert(endpoint.id.clone(), endpoint);
                }
                format!("{id} starts")
            }
            6 | 7 => {
                self.source.remove(&id.parse::<EndpointId>().unwrap());
                format!("{id} ends")
            }
            8 => {
                self.source_fails = !self.source_fails;
                format!("the source fails: {}", self.source_fails)
            }
            9 => {
                self.leader = None;
                "discover ends".to_owned()
            }
            10 => {
                let at = rng.usize(..self.balancers.len());
                self.balancers[at].sync = None;
                format!("sync-haproxy {at} ends")
            }
            11 => {
                let at = rng.usize(..self.balancers.len());
                self.balancers[at].servers = (1..=SLOTS).map(place).collect();
                format!("HAProxy {at} restarts")
            }
            12 | 13 => {
                self.copies.push(self.store.clone());
                "a copy of the store is made".to_owned()
            }
            14 | 15 => self.restore(),
            16 => {
                self.begin_life(BTreeMap::new(), Revision(0));
                "the store is rebuilt empty".to_owned()
            }
            17 => {
                let keys: Vec<Key> = self.store.entries.keys().cloned().collect();
                for key in keys {
                    self.store.write(key, None);
                }
                "all keys are deleted".to_owned()
            }
            18 | 19 => {
                let keys: Vec<Key> = self.store.entries.keys().cloned().collect();
                let lost: Vec<Key> = keys.into_iter().filter(|_| self.rng.bool()).collect();
                for key in &lost {
                    self.store.write(key.clone(), None);
                }
                format!("{} keys are deleted", lost.len())
            }
            20 => self.import(),
            _ => "time passes".to_owned(),
        }
    }

    fn begin_life(&mut self, entries: BTreeMap<Key, Entry>, revision: Revision) {
        self.lives += 1;
        let life = StoreLife::new(format!("life {}", self.lives));
        self.store = Store { entries, revision, life };
    }

    /// A copy comes back: as another life, or as the same one with lower revisions, which only those
    /// notice that run.
    fn restore(&mut self) -> String {
        if self.copies.is_empty() {
            return "there is no copy".to_owned();
        }
        let copy = self.copies[self.rng.usize(..self.copies.len())].clone();
        let all_run = self.leader.is_some() && self.balancers.iter().all(|b| b.sync.is_some());
        if all_run && copy.revision < self.store.revision && copy.life == self.store.life {
            self.store = copy;
            self.look();
            // Whoever sees revisions go back begins another life of the store.
            self.lives += 1;
            self.store.life = StoreLife::new(format!("life {}", self.lives));
            return "a copy is restored, as the same life".to_owned();
        }
        let more = self.rng.u64(..3);
        self.begin_life(copy.entries, Revision(copy.revision.0 + more));
        "a copy is restored".to_owned()
    }

    fn look(&mut self) {
        if let Some(leader) = &mut self.leader {
            leader.eyes.look(&self.store);
        }
        for balancer in &mut self.balancers {
            if let Some((eyes, view)) = &mut balancer.sync {
                eyes.look(&self.store);
                take(view, eyes, &self.store);
            }
        }
    }

    /// As `store import` does it, perhaps cut short: the table is nobody's word after it.
    fn import(&mut self) -> String {
        if self.copies.is_empty() {
            return "there is no export".to_owned();
        }
        let copy = self.copies[self.rng.usize(..self.copies.len())].clone();
        let confirmed = keys::confirmed(&web());
        self.store.write(confirmed.clone(), None);
        let part = self.rng.usize(..=copy.entries.len());
        for (key, entry) in copy.entries.into_iter().take(part) {
            if key != confirmed {
                self.store.write(key, Some(entry.value.to_vec()));
            }
        }
        format!("{part} keys are imported")
    }

    fn lead(&mut self) {
        self.store.revision.0 += 1;
        let token = self.store.revision;
        let fresh = || Leader {
            eyes: Eyes::of(&self.store),
            token,
            missing: BTreeMap::new(),
            known: BTreeMap::new(),
        };
        let mut leader = self.leader.take().unwrap_or_else(fresh);
        leader.eyes.look(&self.store);
        let answer = (!self.source_fails).then(|| Answer::of(self.source.values().cloned()));
        let table = StoredTable::read(&web(), self.store.under(&keys::backend(&web())).values());
        leader.count(&table, answer.as_ref());
        let plan = self.plan(&mut leader, &table, answer.as_ref());
        let (orders, writes) = writes(&table, &plan);
        // It may die between two commits.
        let whole = self.rng.u8(..8) > 0;
        let written = if whole { writes.len() } else { self.rng.usize(..=writes.len()) };
        for (position, commit) in writes.into_iter().take(written).enumerate() {
            for (key, value) in commit {
                self.store.write(key, value);
            }
            for (at, address, goes) in &orders {
                if *at == position {
                    match goes {
                        true => self.decided.insert(*address),
                        false => self.decided.remove(address),
                    };
                }
            }
        }
        self.leader = whole.then_some(leader);
    }

    fn plan(
        &self,
        leader: &mut Leader,
        table: &StoredTable,
        answer: Option<&Answer>,
    ) -> discover::Plan {
        let floors = Floors {
            max_drop_percent: 60,
            min_servers: 1,
            allow_drop: false,
            window: Duration::from_secs(10),
        };
        let policy = Policy {
            slots: SLOTS,
            ramp: Ramp::flat(Weight::saturating(100)),
            drain_deadline: Duration::from_secs(10),
            drain_at_least: Duration::ZERO,
            origin: None,
            rest: Duration::from_secs(3),
            floors,
            drain_vanished: self.rng.clone().bool(),
        };
        let reports: Vec<Report> = self
            .balancers
            .iter()
            .enumerate()
            .filter(|(_, balancer)| balancer.sync.is_some())
            .filter_map(|(number, balancer)| {
                let mut backend = balancer.report.clone()?;
                if backend.life.as_ref().is_some_and(|life| life.is_other(&self.store.life)) {
                    backend.applied = Revision(0);
                }
                let haproxy = format!("lb{number}").parse().unwrap();
                Some(Report { haproxy, gone: false, silent: false, backend })
            })
            .collect();
        let mut places = Places { slots: leader.known.clone(), ..Places::default() };
        for (slot, address) in reports.iter().flat_map(|report| &report.backend.held) {
            places.slots.insert(*address, *slot);
            places.held.insert(*slot, *address);
        }
        let confirmed = leader.missing.iter().filter(|(_, looks)| **looks >= 3);
        let nobody = BTreeSet::new();
        discover::plan(&Seen {
            policy: &policy,
            table,
            answer,
            confirmed: &confirmed.map(|(id, _)| id.clone()).collect(),
            kept: &nobody,
            recent: &nobody,
            barred: &BTreeSet::new(),
            places: &places,
            life: &leader.eyes.life,
            reborn_at: leader.eyes.reborn_at,
            token: Some(leader.token),
            reports: &reports,
            now: self.now,
        })
    }

    fn sync(&mut self, number: usize, what: &str) {
        let balancer = &mut self.balancers[number];
        let (eyes, view) =
            balancer.sync.get_or_insert_with(|| (Eyes::of(&self.store), View::default()));
        eyes.look(&self.store);
        take(view, eyes, &self.store);
        let Some(table) = view.table.clone() else { return };
        let wanted = Wanted::compute(&table, &target(), self.now);
        let mut planned = plan(&target(), &wanted, Some(&balancer.servers), &Learnt::default());
        for _ in 0..16 {
            let before = serving(&balancer.servers);
            for action in &planned.actions {
                predict(&mut balancer.servers, &action.command);
            }
            let after = serving(&balancer.servers);
            // Servers in each other's places move one by one, while the others serve.
            let moves = |address: &ServerAddress| {
                let ready = table.slots.values().any(|held| match held {
                    Held::By(record) => {
                        record.state == SlotState::Ready && record.endpoint.address == *address
                    }
                    Held::Unknown => false,
                });
                ready && table.confirmed && !after.is_empty()
            };
            for address in before.difference(&after) {
                assert!(
                    self.decided.contains(address) || moves(address),
                    "{what}: {address} left HAProxy {number} and nobody had sent it away: {:?}\n\
                     table {table:?}\nhistory {:#?}",
                    planned.actions,
                    self.history
                );
            }
            if planned.actions.is_empty() {
                break;
            }
            planned = plan(&target(), &wanted, Some(&balancer.servers), &Learnt::default());
        }
        let drift = planned.drift.iter().all(|slot| planned.unplaced.contains(slot));
        let applied = if drift && table.confirmed { table.revision } else { Revision(0) };
        let held = planned.unordered.iter();
        balancer.report = Some(BackendReport {
            applied,
            held: held.filter_map(|(slot, kept)| Some((*slot, kept.address?))).collect(),
            life: Some(table.life.clone()),
            ..BackendReport::default()
        });
    }

    /// All is well again: whoever has a ready record is served everywhere, but where a place is kept
    /// for somebody of whom nothing is known.
    fn settle(&mut self, what: &str) {
        self.source_fails = false;
        for _ in 0..40 {
            self.now += Duration::from_secs(5);
            self.lead();
            for number in 0..self.balancers.len() {
                self.sync(number, what);
            }
        }
        let table = StoredTable::read(&web(), self.store.under(&keys::backend(&web())).values());
        let ready = table.records().filter(|(_, record)| record.state == SlotState::Ready);
        let mut placed = 0;
        for (slot, record) in ready {
            placed += 1;
            for balancer in &self.balancers {
                let kept = balancer.report.as_ref().unwrap().held.contains_key(&slot);
                let address = record.endpoint.address;
                assert!(
                    kept || serving(&balancer.servers).contains(&address),
                    "{what}: {address} is not served: {:?}\ntable {table:?}\nhistory {:#?}",
                    balancer,
                    self.history
                );
            }
        }
        let kept = self.balancers.iter().map(|b| b.report.as_ref().unwrap().held.len()).max();
        let free = SLOTS as usize - kept.unwrap_or_default();
        assert!(placed >= self.source.len().min(free), "{what}: {placed} of {:?}", self.source);
    }
}

impl Leader {
    fn count(&mut self, table: &StoredTable, answer: Option<&Answer>) {
        for (slot, record) in table.records() {
            self.known.insert(record.endpoint.address, slot);
        }
        let Some(answer) = answer else { return self.missing.clear() };
        let absent = |id: &EndpointId| !answer.endpoints.contains_key(id);
        let ready = table.ready();
        self.missing.retain(|id, _| ready.contains(id) && absent(id));
        for id in ready.into_iter().filter(absent) {
            *self.missing.entry(id).or_default() += 1;
        }
    }
}

/// Who goes (or comes back) with which commit, and the commits in discover's order.
type Orders = Vec<(usize, ServerAddress, bool)>;
type Commits = Vec<Vec<(Key, Option<Vec<u8>>)>>;

fn writes(table: &StoredTable, plan: &discover::Plan) -> (Orders, Commits) {
    let (mut orders, mut writes) = (Vec::new(), Vec::new());
    let json = |value: &dyn erased::Json| Some(value.to_vec());
    if let Some(spec) = &plan.spec {
        writes.push(vec![(keys::spec(&web()), json(spec))]);
    }
    for slot in plan.forgotten.keys() {
        writes.push(vec![(keys::removals(&web(), *slot), None)]);
    }
    for action in &plan.actions {
        let record = action.record.as_ref();
        let before = table.records().find(|(slot, _)| *slot == action.slot);
        let before = before.map(|(_, before)| before.endpoint.address);
        let stays = record.map(|record| record.endpoint.address) == before;
        if action.kind != ActionKind::Forget && !stays {
            orders.extend(before.map(|address| (writes.len(), address, true)));
        }
        let mut commit = Vec::new();
        if let Some(remember) = &action.remember {
            commit.push((keys::removals(&web(), action.slot), json(&remember.removals)));
        }
        if let Some(record) = record {
            let goes = matches!(action.kind, ActionKind::Drain | ActionKind::Rest);
            orders.push((writes.len(), record.endpoint.address, goes));
        }
        commit.push((keys::slot(&web(), action.slot), record.and_then(|record| json(record))));
        writes.push(commit);
    }
    if let Some(confirm) = &plan.confirm {
        writes.push(vec![(keys::confirmed(&web()), json(&confirm.confirmation))]);
    }
    (orders, writes)
}

/// JSON of any of them.
mod erased {
    pub trait Json {
        fn to_vec(&self) -> Vec<u8>;
    }

    impl<T: serde::Serialize> Json for T {
        fn to_vec(&self) -> Vec<u8> {
            serde_json::to_vec(self).unwrap()
        }
    }
}

fn take(view: &mut View, eyes: &Eyes, store: &Store) {
    let entries = store.under(&keys::backend(&web()));
    let read = Table::read(&web(), &entries, store.revision, &store.life, eyes.reborn_at);
    view.take(read, None);
}

fn serving(servers: &[ObservedServer]) -> BTreeSet<ServerAddress> {
    let ready = servers.iter().filter(|server| server.admin.state() == AdminState::Ready);
    ready.filter_map(|server| ServerAddress::new(server.address?, server.port).ok()).collect()
}

fn web() -> BackendName {
    "web".parse().unwrap()
}

fn target() -> Target {
    Target {
        backend: "app".parse().unwrap(),
        prefix: Some("srv".parse().unwrap()),
        from: web(),
        port: None,
        keep_port: false,
        takes: Selector::Matching(Filter::default()),
        mode: Mode::Slots,
        licence: Licence::default(),
    }
}

fn place(number: u32) -> ObservedServer {
    ObservedServer {
        id: number,
        name: format!("srv{number}"),
        address: Some("127.0.0.2".parse().unwrap()),
        port: 80,
        port_is_own: false,
        port_is_mapped: false,
        has_name: false,
        admin: AdminFlags(5),
        operational: 0,
        weight: 1,
        initial_weight: 1,
        checked: false,
        check_enabled: false,
        forced_id: false,
        has_agent: false,
        agent_enabled: false,
        uses_tls: false,
        sessions: Some(0),
    }
}
