//! A database, a server of HSDO's, and discover with its store; time passes when a test says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use tokio::time::Instant;

use super::super::adopt::{Adoption, Sight, adopt, barred, obstacle};
use super::super::project::{Ledger, Projection, Wanted};
use crate::commands::discover::plan::{
    Absences, Action, Answer, Floors, Places, Policy, Report, World, plan,
};
use crate::hsdo::{Item, LastUpdate, Row, Rows, Server};
use crate::model::{
    BackendReport, Endpoint, EndpointId, HaproxyName, Ramp, SlotNumber, SlotState, StoreLife,
    Timestamp, Weight,
};
use crate::store::Revision;
use crate::tables::{Content, StoredConfirmation, StoredSlot, StoredSpec, StoredTable};

/// How often HSDO's server and discover ramp: a step each.
pub(super) const STEP: Duration = Duration::from_secs(2);

pub(super) fn slot(number: u32) -> SlotNumber {
    SlotNumber::new(number).unwrap()
}

pub(super) fn id(server: u8) -> EndpointId {
    format!("i-{server}").parse().unwrap()
}

pub(super) fn endpoint(server: u8) -> Endpoint {
    Endpoint {
        id: id(server),
        address: format!("10.0.0.{server}:80").parse().unwrap(),
        name: None,
        group: Some("blue".parse().unwrap()),
        zone: None,
        weight: None,
        leaving: false,
    }
}

pub(super) fn answer(servers: impl IntoIterator<Item = u8>) -> Answer {
    Answer::of(servers.into_iter().map(endpoint))
}

pub(super) fn held(number: u32, server: u8, weight: u64, at: Timestamp) -> Row {
    let Endpoint { id, address, group, .. } = endpoint(server);
    Row {
        slot: slot(number),
        server: Some(Server { ip: address.ip(), name: id, group }),
        weight: Weight::saturating(weight),
        enabled: true,
        updated: update(at),
    }
}

pub(super) fn update(at: Timestamp) -> LastUpdate {
    LastUpdate::at(&at.to_zoned(TimeZone::UTC))
}

pub(super) fn policy(slots: u32) -> Policy {
    Policy {
        slots,
        ramp: Ramp {
            min: Weight::saturating(1),
            max: Weight::saturating(10),
            step: Weight::saturating(1),
            interval: STEP,
        },
        drain_deadline: Duration::from_secs(8),
        drain_at_least: Duration::ZERO,
        rest: Duration::from_secs(4),
        floors: Floors {
            max_drop_percent: 50,
            min_servers: 1,
            allow_drop: false,
            window: Duration::from_secs(60),
        },
        drain_vanished: true,
        origin: None,
    }
}

/// The table in DynamoDB.
#[derive(Debug, Clone, Default)]
pub(super) struct Database {
    pub(super) items: BTreeMap<u32, Item>,
    pub(super) writes: usize,
}

impl Database {
    pub(super) fn rows(&self) -> Rows {
        Rows::read(self.items.values().cloned())
    }

    pub(super) fn put(&mut self, row: &Row) {
        self.items.insert(row.slot.get(), row.to_item());
        self.writes += 1;
    }

    /// Who is served, slot by slot.
    pub(super) fn held(&self) -> Vec<(u32, EndpointId, u16)> {
        let rows = self.rows();
        let held = |row: &Row| Some((row.slot.get(), row.holder()?.name.clone(), row.weight.get()));
        rows.sound().filter_map(held).collect()
    }
}

/// HSDO's server, as far as its table goes: a loop that reads all rows, decides, and writes what
/// was not so in its last loop, whatever has happened to it since.
#[derive(Debug, Clone, Default)]
pub(super) struct HsdoServer {
    pub(super) old: Vec<Row>,
    pub(super) read: Option<Vec<Row>>,
}

impl HsdoServer {
    pub(super) fn scan(&mut self, database: &Database) {
        // The order of a hash.
        let mut rows: Vec<Row> = database.rows().sound().cloned().collect();
        rows.sort_by_key(|row| row.slot.get() * 7919 % 97);
        self.read = Some(rows);
    }

    pub(super) fn write(
        &mut self,
        database: &mut Database,
        running: &BTreeSet<u8>,
        now: Timestamp,
    ) {
        let Some(mut rows) = self.read.take() else { return };
        let has = |rows: &[Row], server: u8| {
            let ip = endpoint(server).address.ip();
            rows.iter().any(|row| row.server.as_ref().is_some_and(|s| s.ip == ip))
        };
        for row in &mut rows {
            let gone =
                |server: &Server| !running.iter().any(|s| endpoint(*s).address.ip() == server.ip);
            if row.enabled && row.server.as_ref().is_some_and(gone) {
                *row = Row::free(row.slot);
            }
        }
        for server in
            running.iter().rev().filter(|server| !has(&rows, **server)).copied().collect::<Vec<_>>()
        {
            if let Some(row) = rows.iter_mut().find(|row| row.server.is_none()) {
                *row = held(row.slot.get(), server, 1, now);
            }
        }
        for row in rows.iter_mut().filter(|row| (1..10).contains(&row.weight.get())) {
            if now.duration_since(updated(row)) > jiff::SignedDuration::try_from(STEP).unwrap() {
                row.weight = Weight::saturating(u64::from(row.weight.get()) + 1);
                row.updated = update(now);
            }
        }
        for row in rows.iter().filter(|row| !self.old.contains(row)) {
            database.put(row);
        }
        self.old = rows;
    }
}

pub(super) fn updated(row: &Row) -> Timestamp {
    let item = row.to_item();
    let text = item["LastWeightUpdate"].as_s().unwrap();
    text.parse::<DateTime>().unwrap().to_zoned(TimeZone::UTC).unwrap().timestamp()
}

/// A leading discover with its store.
pub(super) struct Discover {
    pub(super) policy: Policy,
    pub(super) table: StoredTable,
    pub(super) revision: u64,
    pub(super) look: Option<Answer>,
    pub(super) known: Arc<BTreeSet<EndpointId>>,
    pub(super) absences: Absences,
    pub(super) ledger: Ledger,
    pub(super) wanted: Option<Wanted>,
    pub(super) rows: Option<Rows>,
    pub(super) reading: Option<(Rows, Projection)>,
}

pub(super) struct Bench {
    pub(super) database: Database,
    pub(super) hsdo: HsdoServer,
    pub(super) discover: Discover,
    pub(super) running: BTreeSet<u8>,
    /// Running, and of no interest to discover's source.
    pub(super) unfit: BTreeSet<u8>,
    pub(super) start: Instant,
    pub(super) elapsed: Duration,
}

impl Discover {
    pub(super) fn new(slots: u32) -> Self {
        Self {
            policy: policy(slots),
            table: StoredTable {
                confirmed: Some(StoredConfirmation::of_any_life()),
                ..StoredTable::default()
            },
            revision: 0,
            look: None,
            known: Arc::default(),
            absences: Absences::default(),
            ledger: Ledger::default(),
            wanted: None,
            rows: None,
            reading: None,
        }
    }

    /// Another process, with what the store has.
    pub(super) fn succeed(&mut self) {
        let (policy, table, revision) = (self.policy.clone(), self.table.clone(), self.revision);
        *self = Self { policy, table, revision, ..Self::new(0) };
    }

    pub(super) fn look(&mut self, answer: Answer, at: Instant) {
        let mut ready = self.table.ready();
        let rows = self.rows.clone().unwrap_or_default();
        ready.extend(rows.sound().filter_map(|row| Some(row.holder()?.name.clone())));
        self.absences.look(&answer, &ready, at, STEP);
        self.known = Arc::new(answer.endpoints.keys().cloned().collect());
        self.look = Some(answer);
    }

    pub(super) fn scan(&mut self, database: &Database, now: (Timestamp, Instant)) {
        let rows = database.rows();
        let projection = self.project(&rows, now);
        self.reading = Some((rows, projection));
    }

    pub(super) fn project(&mut self, rows: &Rows, now: (Timestamp, Instant)) -> Projection {
        let Some(wanted) = &self.wanted else { return Projection::default() };
        self.ledger.project(wanted, rows, now, &update(now.0))
    }

    /// Writes each row where it still is what was read.
    pub(super) fn write(&mut self, database: &mut Database, now: (Timestamp, Instant)) {
        let Some((mut rows, projection)) = self.reading.take() else { return };
        for row in projection.writes {
            let seen = rows.get(row.slot).map(|stored| &stored.item);
            if database.items.get(&row.slot.get()) == seen {
                database.put(&row);
                rows.put(row);
            }
        }
        self.project(&rows, now);
        self.rows = Some(rows);
    }

    pub(super) fn pass(&mut self, now: Timestamp) {
        let (Some(rows), Some(answer)) = (self.rows.clone(), self.look.clone()) else { return };
        if self.table.spec.is_none() {
            if obstacle(&rows, Some(&answer), self.policy.slots).is_some() {
                return;
            }
            let taken = self.table.ready().into_iter().filter(|id| !answer.knows(id));
            self.absences.keep(taken);
        } else {
            let (table, known) = (Arc::new(self.table.clone()), self.known.clone());
            let (revision, slots, ramp) =
                (Revision(self.revision), self.policy.slots, self.policy.ramp);
            self.wanted = Some(Wanted { table, revision, slots, ramp, known });
        }
        let adoption = self.adopt(&rows, &answer, now);
        if !adoption.actions.is_empty() {
            self.commit(&adoption.actions);
            return;
        }
        let clients = Report {
            haproxy: HaproxyName::of_host("hsdo-clients"),
            gone: false,
            silent: true,
            backend: BackendReport { serving: Some(barred(&rows)), ..BackendReport::default() },
        };
        let planned = plan(&World {
            policy: &self.policy,
            table: &self.table,
            answer: Some(&answer),
            confirmed: &self.absences.confirmed(3),
            kept: self.absences.kept(),
            recent: &BTreeSet::new(),
            barred: &barred(&rows),
            places: &Places::default(),
            life: &StoreLife::default(),
            reborn_at: None,
            token: None,
            reports: &[clients],
            now,
        });
        if let Some(spec) = planned.spec {
            self.revision += 1;
            self.table.spec =
                Some(StoredSpec { modified: Revision(self.revision), spec: Ok(spec) });
        }
        self.commit(&planned.actions);
    }

    pub(super) fn adopt(&self, rows: &Rows, answer: &Answer, now: Timestamp) -> Adoption {
        let (policy, table, ledger) = (&self.policy, &self.table, &self.ledger);
        let confirmed = &self.absences.confirmed(3);
        adopt(&Sight { policy, table, rows, ledger, answer, confirmed, now })
    }

    pub(super) fn commit(&mut self, actions: &[Action]) {
        for action in actions {
            self.revision += 1;
            let modified = Revision(self.revision);
            let seen = self.table.slots.get(&action.slot).map(|stored| stored.modified);
            assert_eq!(seen, action.seen, "{action:?}");
            match &action.record {
                Some(record) => {
                    let content = Content::Sound(record.clone());
                    self.table.slots.insert(action.slot, StoredSlot { modified, content });
                }
                None => _ = self.table.slots.remove(&action.slot),
            }
        }
        let ready: Vec<_> =
            self.table.records().filter(|(_, r)| r.state == SlotState::Ready).collect();
        let ids: BTreeSet<_> = ready.iter().map(|(_, record)| &record.endpoint.id).collect();
        assert_eq!(ids.len(), ready.len(), "a server has two slots: {ready:?}");
    }

    pub(super) fn ready(&self) -> Vec<(u32, EndpointId)> {
        let ready = self.table.records().filter(|(_, r)| r.state == SlotState::Ready);
        ready.map(|(slot, record)| (slot.get(), record.endpoint.id.clone())).collect()
    }

    pub(super) fn state(&self, number: u32) -> Option<SlotState> {
        let mut records = self.table.records();
        records.find(|(slot, _)| slot.get() == number).map(|(_, record)| record.state)
    }
}

impl Bench {
    /// A table of free rows, with a server of HSDO's that has made them.
    pub(super) fn new(slots: u32) -> Self {
        let mut database = Database::default();
        SlotNumber::first(slots).for_each(|slot| database.put(&Row::free(slot)));
        Self {
            database,
            hsdo: HsdoServer::default(),
            discover: Discover::new(slots),
            running: BTreeSet::new(),
            unfit: BTreeSet::new(),
            start: Instant::now(),
            elapsed: Duration::ZERO,
        }
    }

    pub(super) fn with_rows(slots: u32, rows: &[Row]) -> Self {
        let mut bench = Self::new(slots);
        rows.iter().for_each(|row| bench.database.put(row));
        bench
    }

    pub(super) fn now(&self) -> (Timestamp, Instant) {
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        (start + self.elapsed, self.start + self.elapsed)
    }

    pub(super) fn hsdo_loops(&mut self) {
        self.hsdo.scan(&self.database);
        let (now, _) = self.now();
        self.hsdo.write(&mut self.database, &self.running, now);
    }

    pub(super) fn looks(&mut self) {
        let fit = self.running.difference(&self.unfit).copied();
        self.discover.look(answer(fit), self.now().1);
    }

    /// A look at the rows with what is to be written, and what follows from it.
    pub(super) fn discover_turns(&mut self) {
        let now = self.now();
        self.discover.scan(&self.database, now);
        self.discover.write(&mut self.database, now);
        self.discover.pass(now.0);
    }

    /// Seconds in which everybody does their usual work.
    pub(super) fn run(&mut self, seconds: u32) {
        for second in 0..seconds {
            self.elapsed += Duration::from_secs(1);
            self.hsdo_loops();
            if second % 5 == 0 {
                self.looks();
            }
            // Twice: a pass writes, and the next one shows that to the rows.
            self.discover_turns();
            self.discover_turns();
        }
    }

    /// The same without a server of HSDO's.
    pub(super) fn run_alone(&mut self, seconds: u32) {
        for second in 0..seconds {
            self.elapsed += Duration::from_secs(1);
            if second % 5 == 0 {
                self.looks();
            }
            self.discover_turns();
            self.discover_turns();
        }
    }

    /// Each running server has one row, at full weight, and the table says the same.
    pub(super) fn assert_agreed(&self) {
        let rows = self.database.held();
        let expected: BTreeSet<EndpointId> = self.running.iter().map(|s| id(*s)).collect();
        let found: BTreeSet<EndpointId> = rows.iter().map(|(_, id, _)| id.clone()).collect();
        assert_eq!(rows.len(), found.len(), "a server has two rows: {rows:?}");
        assert_eq!(found, expected);
        let pairs: Vec<_> = rows.iter().map(|(slot, id, _)| (*slot, id.clone())).collect();
        assert_eq!(pairs, self.discover.ready());
        assert!(rows.iter().all(|(.., weight)| *weight == 10), "{rows:?}");
        assert!(self.database.rows().sound().all(|row| row.enabled || *row == Row::free(row.slot)));
    }
}

#[derive(Debug, Clone)]
pub(super) enum Event {
    HsdoScan,
    HsdoWrite,
    Look,
    Scan,
    Write,
    Pass,
    Start(u8),
    Stop(u8),
    Wait(u8),
    NewLeader,
}

impl Bench {
    pub(super) fn happens(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::HsdoScan => self.hsdo.scan(&self.database),
            Event::HsdoWrite => self.hsdo.write(&mut self.database, &self.running, now.0),
            Event::Look => self.looks(),
            Event::Scan => self.discover.scan(&self.database, now),
            Event::Write => self.discover.write(&mut self.database, now),
            Event::Pass => self.discover.pass(now.0),
            Event::Start(server) => _ = self.running.insert(server),
            Event::Stop(server) => _ = self.running.remove(&server),
            Event::Wait(seconds) => self.elapsed += Duration::from_secs(seconds.into()),
            Event::NewLeader => self.discover.succeed(),
        }
    }
}
