use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::apply::{Applied, apply};
use super::hsdo::{self, Adoption, Hsdo};
use super::plan::{Absences, ActionKind, Places, Plan, Report, World, after, plan};
use super::report::{NOT_SHOWN, Reporter, Seen};
use super::settings::BackendSettings;
use super::shared::Shared;
use super::sources::{Look, Source, SourceContext};
use crate::daemon::{Backoff, last_tick};
use crate::election::{Leadership, Standing};
use crate::hsdo::Row;
use crate::model::{
    BackendName, BackendSpec, EndpointId, HaproxyName, HaproxyReport, ServerAddress, SlotNumber,
    SlotState, TableOrigin, Timestamp, keys,
};
use crate::store::{Mirror, Revision, SharedStore, StoreLife, Watch};
use crate::tables::{Content, Damaged, StoredTable};

/// Keeps one backend's table equal to what its source sees.
#[derive(Debug)]
pub struct Backend {
    store: SharedStore,
    settings: BackendSettings,
    table: Mirror,
    /// What the entries say, read once for each of their changes.
    read: Option<Arc<StoredTable>>,
    reports: Mirror,
    source: Source,
    hsdo: Option<Hsdo>,
    look: Option<Arc<Look>>,
    absences: Absences,
    /// Where this process has seen each server in the table.
    known: BTreeMap<ServerAddress, SlotNumber>,
    rebirth: Rebirth,
    /// The last commit of this process: the table is old until it shows it.
    committed: Revision,
    retry: Backoff,
    retry_at: Option<Instant>,
    /// The HAProxies that reported at the last look, and when others were first missed.
    reporting: BTreeSet<HaproxyName>,
    vanished: BTreeMap<HaproxyName, Instant>,
}

/// How long a HAProxy whose report has vanished may take to write it again.
const REPORTS_RETURN: Duration = Duration::from_secs(5);

/// How long a plan holds where nothing is heard.
const IDLE: Duration = Duration::from_secs(30);

/// A plan for so many slots and endpoints is made in less time than a thread takes to begin.
const FEW: usize = 100;

/// How often the store has begun anew under this process, and where its revisions stood then.
#[derive(Debug, Default)]
struct Rebirth {
    count: u64,
    life: StoreLife,
    at: Option<Revision>,
}

/// What a pass came to.
#[derive(Debug)]
pub enum Pass {
    /// Nothing can be planned, since the store or the source has not answered, and why.
    Blind(&'static str),
    /// What was planned; nothing is left to write now.
    Settled(Plan),
    /// All of this is written.
    Written(Plan),
    /// Not all of this is known to be written; what is not is to be tried again.
    Waiting(Plan),
}

/// Why a backend runs no more.
#[derive(Debug)]
pub enum Ended {
    Stopped,
    Foreign(Foreign),
}

/// A table that is filled from elsewhere, and so is left alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "backend {backend} in the store belongs to {theirs}, and this one would fill it from {own}: give \
     this one another name (--hsdo-backend NAME with --hsdo-config, else the backend's name); where \
     the table is to be filled from here from now on, delete the key {spec}",
    spec = keys::spec(.backend)
)]
pub struct Foreign {
    backend: BackendName,
    own: TableOrigin,
    theirs: TableOrigin,
}

impl Foreign {
    pub fn of(settings: &BackendSettings, spec: &BackendSpec) -> Option<Self> {
        let (own, theirs) = (settings.policy.origin.clone()?, spec.origin.clone()?);
        let backend = settings.name.clone();
        (!own.goes_on_from(&theirs)).then_some(Self { backend, own, theirs })
    }
}

impl Backend {
    /// Starts to watch and to look; waits for the store as long as it takes.
    pub async fn open(shared: Shared, settings: BackendSettings) -> Self {
        let table = watch_table(&shared, &settings.name).await;
        let reports = shared.reports(&settings.name);
        let store = shared.store.clone();
        let context = SourceContext {
            shared,
            backend: settings.name.clone(),
            look_every: settings.confirm.interval.min(Duration::from_secs(5)),
            max_weight: settings.policy.ramp.max,
            options: settings.options.clone(),
        };
        let source = Source::start(settings.source.clone(), context);
        let hsdo = settings.hsdo.clone().map(|place| Hsdo::new(settings.name.clone(), place));
        Self {
            store,
            hsdo,
            settings,
            table: Mirror::new(table),
            read: None,
            reports: Mirror::new(reports),
            source,
            look: None,
            absences: Absences::default(),
            known: BTreeMap::new(),
            rebirth: Rebirth::default(),
            committed: Revision::default(),
            retry: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            retry_at: None,
            reporting: BTreeSet::new(),
            vanished: BTreeMap::new(),
        }
    }

    pub fn name(&self) -> &BackendName {
        &self.settings.name
    }

    /// Why the source's last look gave no answer.
    pub fn source_error(&self) -> Option<String> {
        self.look.as_ref()?.result.as_ref().err().cloned()
    }

    /// Plans and, as the leader, writes, whenever something changes; until it is stopped, or the
    /// table is seen to be another's.
    pub async fn run(
        mut self,
        mut standing: watch::Receiver<Standing>,
        reporter: &mut Reporter,
        stop: CancellationToken,
    ) -> anyhow::Result<Ended> {
        let mut took_over = None;
        loop {
            if let Some(foreign) = self.foreign() {
                return Ok(Ended::Foreign(foreign));
            }
            let leadership = match &*standing.borrow_and_update() {
                Standing::Leader(leadership) if leadership.is_held() => Some(leadership.clone()),
                _ => None,
            };
            self.lead_hsdo(leadership.as_ref());
            let token = leadership.as_ref().map(|leadership| leadership.token);
            // Before it has seen the table it writes nothing either.
            if token.is_some() && token != took_over && self.blind().is_none() {
                took_over = token;
                self.take_over();
            }
            reporter.standing(&standing.borrow());
            let pass = self.pass(leadership.as_ref(), reporter).await;
            let wake = self.next_wake(&pass).min(reporter.look_again());
            let due = Instant::now() + wake;
            let wake = if wake < IDLE { due } else { last_tick(due, IDLE / 20) };
            tokio::select! {
                () = stop.cancelled() => return Ok(Ended::Stopped),
                heard = self.hear() => heard?,
                _ = standing.changed() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Whose table this is, where it is another's.
    pub fn foreign(&mut self) -> Option<Foreign> {
        let table = self.read_table();
        Foreign::of(&self.settings, table.spec()?)
    }

    /// Waits for news from the store or the source, and takes in all that is there.
    pub async fn hear(&mut self) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                _ = self.table.changed() => self.read = None,
                _ = self.reports.changed() => {}
                look = self.source.next() => if !self.take_look(look?) { continue },
                seen = changed(&mut self.hsdo) => seen?,
            }
            break;
        }
        // A burst is one change: many servers that start at once are placed by one commit.
        loop {
            let table = self.table.changed().now_or_never().is_some();
            if table {
                self.read = None;
            }
            if !(self.reports.changed().now_or_never().is_some() || table) {
                return Ok(());
            }
        }
    }

    /// Whether the look may change the plan: one that says the same again, and misses nobody, does
    /// not.
    fn take_look(&mut self, look: Arc<Look>) -> bool {
        let last = self.look.as_ref().and_then(|last| last.result.as_ref().ok());
        let same = last.is_some_and(|last| look.result.as_ref() == Ok(last));
        let missed = self.absences.is_any();
        self.count_absences(&look, look.at);
        self.look = Some(look);
        !same || missed || self.absences.is_any()
    }

    fn count_absences(&mut self, look: &Look, at: Instant) {
        match &look.result {
            Ok(answer) => {
                let table = self.read_table();
                let answer = &*answer.keeping(&table, self.settings.policy.floors.allow_drop);
                let mut ready = table.ready();
                if let Some(hsdo) = &mut self.hsdo {
                    hsdo.known(answer);
                    ready.extend(hsdo.holders());
                }
                let interval = self.settings.confirm.interval;
                self.absences.look(answer, &ready, at, interval);
            }
            Err(_) => self.absences.interrupted(),
        }
    }

    /// Begins to count absences anew where somebody led before, be it this process: whatever ended
    /// that leadership may have kept servers from renewing their registrations too.
    fn take_over(&mut self) {
        if self.read_table().spec.is_none() {
            return;
        }
        self.absences.interrupted();
        if let Some(look) = self.look.clone() {
            self.count_absences(&look, Instant::now());
        }
    }

    /// Forgets what counts in the old life of a store that has begun another one.
    fn notice_rebirth(&mut self) {
        let count = self.table.rebirths();
        if count == std::mem::replace(&mut self.rebirth.count, count) {
            self.rebirth.life.clone_from(self.table.life());
            return;
        }
        let life = std::mem::replace(&mut self.rebirth.life, self.table.life().clone());
        // In another life no confirmation of the old one counts anyway.
        self.rebirth.at = (life == self.rebirth.life).then_some(self.table.revision());
        self.committed = Revision::default();
        self.retry_at = None;
        self.absences.interrupted();
        tracing::warn!(
            backend = %self.settings.name,
            revision = %self.table.revision(),
            "the store was replaced or restored: comparing its table with the source anew"
        );
    }

    /// One pass: plans, and writes the plan if this process leads.
    pub async fn pass(&mut self, leadership: Option<&Leadership>, reporter: &mut Reporter) -> Pass {
        self.notice_rebirth();
        if self.table.stale().is_some() {
            self.absences.interrupted();
        }
        let table = self.read_table();
        let blind = self.blind();
        let adoption = self.adopt(&table, blind);
        let plan = match adoption.actions.as_slice() {
            [] => self.plan(&table, leadership).await,
            // The spec comes later: without one there is no table yet for those who read it.
            adopted => Plan { actions: adopted.to_vec(), ..Plan::default() },
        };
        let view = self.hsdo.as_ref().and_then(Hsdo::view);
        reporter.seen(&Seen {
            settings: &self.settings,
            table: &table,
            look: self.look.as_deref(),
            loaded: self.table.is_loaded() && self.reports.is_loaded(),
            store: self.table.stale().or(self.reports.stale()),
            blind,
            plan: &plan,
            leads: leadership.is_some(),
            hsdo: self.hsdo.as_ref().map(|_| hsdo::Seen {
                view: view.as_deref(),
                adoption: &adoption,
                slots: self.settings.policy.slots,
            }),
        });
        if let Some(refused) = &plan.refused {
            self.absences.keep(refused.servers.iter().map(|(_, id)| id.clone()));
        }
        let leads = leadership.is_some() && blind.is_none();
        self.source.release(if leads { self.drained(&table) } else { BTreeSet::new() });
        if let Some(why) = blind {
            return Pass::Blind(why);
        }
        if let Some(hsdo) = self.hsdo.as_ref().filter(|_| table.spec.is_some()) {
            hsdo.show(&self.settings, &table, self.table.revision());
        }
        let leadership = match leadership {
            Some(leadership) if !plan.is_empty() => leadership,
            _ => return Pass::Settled(plan),
        };
        if self.retry_at.is_some_and(|at| at > Instant::now()) {
            return Pass::Waiting(plan);
        }
        match self.write(leadership, &table, &plan, reporter).await {
            true => Pass::Written(plan),
            false => Pass::Waiting(plan),
        }
    }

    /// Of those whose end waits for it, the servers that take and hold no session any more.
    fn drained(&self, table: &StoredTable) -> BTreeSet<EndpointId> {
        let answer = self.look.as_ref().and_then(|look| look.result.as_ref().ok());
        let awaiting = answer.into_iter().flat_map(|answer| &answer.awaiting);
        let mut drained: BTreeSet<EndpointId> = awaiting.cloned().collect();
        if drained.is_empty() {
            return drained;
        }
        if let Some(hsdo) = &self.hsdo {
            let Some(served) = hsdo.served() else { return BTreeSet::new() };
            drained.retain(|id| !served.contains(id));
        }
        // A damaged slot may be anybody's.
        for slot in table.slots.values() {
            match &slot.content {
                Content::Sound(record) if record.state == SlotState::Rest => {}
                Content::Sound(record) => _ = drained.remove(&record.endpoint.id),
                Content::Damaged(Damaged { endpoint: Some(endpoint), .. }) => {
                    drained.remove(&endpoint.id);
                }
                Content::Damaged(Damaged { endpoint: None, .. }) => return BTreeSet::new(),
            }
        }
        drained
    }

    /// Whether all of the plan is known to be written.
    async fn write(
        &mut self,
        leadership: &Leadership,
        table: &StoredTable,
        plan: &Plan,
        reporter: &mut Reporter,
    ) -> bool {
        let written = tokio::select! {
            // Dropping a commit is safe: it happens whole or not at all.
            () = leadership.lost.cancelled() => return false,
            written = apply(&*self.store, leadership, self.name(), table, plan) => written,
        };
        reporter.wrote(plan, &written);
        match written {
            Ok(Applied::Written(revision)) => {
                self.committed = self.committed.max(revision);
                self.retry_at = None;
                self.absences.dropped(vanished(plan), Instant::now());
                true
            }
            Ok(Applied::Conflict) | Err(_) => {
                self.retry_at = Some(Instant::now() + self.retry.next_wait());
                false
            }
        }
    }

    /// Why a plan would rest on something old or unknown.
    fn blind(&self) -> Option<&'static str> {
        let (table, reports) = (&self.table, &self.reports);
        if !table.is_loaded() || !reports.is_loaded() {
            return Some("the store has not answered yet");
        }
        if table.stale().is_some() || reports.stale().is_some() {
            return Some("the store does not answer");
        }
        if table.revision() < self.committed {
            return Some(NOT_SHOWN);
        }
        let Some(look) = &self.look else {
            return Some("the source has not answered yet");
        };
        let has_table = table.entries().contains_key(&keys::spec(&self.settings.name));
        let hsdo = self.hsdo.as_ref().filter(|_| !has_table)?;
        hsdo.obstacle(look.result.as_ref().ok(), self.settings.policy.slots)
    }

    /// Follows HSDO's table for a leadership, and without one no more.
    pub fn lead_hsdo(&mut self, leadership: Option<&Leadership>) {
        if let Some(hsdo) = &mut self.hsdo {
            hsdo.lead(leadership);
        }
    }

    /// Looks at HSDO's table and writes nothing.
    pub fn look_at_hsdo(&mut self) {
        if let Some(hsdo) = &mut self.hsdo {
            hsdo.look_only();
        }
    }

    /// Whether HSDO's table, where there is one, shows this backend's.
    pub fn hsdo_shows_it(&self) -> bool {
        self.hsdo.as_ref().is_none_or(|hsdo| hsdo.has_shown(self.table.revision()))
    }

    /// Why the last look at HSDO's table, where there is one, came to nothing.
    pub fn hsdo_trouble(&self) -> Option<String> {
        self.hsdo.as_ref()?.view()?.error.clone()
    }

    /// The rows of HSDO's table that would be written once a plan is; `None` where they are not read
    /// yet.
    pub fn hsdo_writes(&mut self, plan: &Plan) -> Option<Vec<Row>> {
        let table = self.read_table();
        match &self.hsdo {
            None => Some(Vec::new()),
            Some(hsdo) => hsdo.writes(&self.settings, after((*table).clone(), &plan.actions)),
        }
    }

    /// What HSDO's server has placed beside this one, or before it.
    fn adopt(&mut self, table: &StoredTable, blind: Option<&str>) -> Adoption {
        let Some(hsdo) = self.hsdo.as_ref().filter(|_| blind.is_none()) else {
            return Adoption::default();
        };
        let answer = self.look.as_ref().and_then(|look| look.result.as_ref().ok());
        let allow_drop = self.settings.policy.floors.allow_drop;
        let answer = answer.map(|answer| answer.keeping(table, allow_drop));
        let answer = answer.as_deref();
        let confirmed = self.absences.confirmed(self.settings.confirm.passes);
        if let Some(answer) = answer.filter(|_| table.spec.is_none()) {
            // Who is taken over goes only once its absence is confirmed.
            self.absences.keep(table.ready().into_iter().filter(|id| !answer.knows(id)));
        }
        hsdo.adopt(&self.settings, table, answer, &confirmed, now())
    }

    fn read_table(&mut self) -> Arc<StoredTable> {
        let read =
            || Arc::new(StoredTable::read(&self.settings.name, self.table.entries().values()));
        self.read.get_or_insert_with(read).clone()
    }

    /// A plan for many servers is made on a thread of its own, which a stop leaves behind: a hundred
    /// thousand endpoints take a moment, in which the election that renews the lease must go on.
    async fn plan(&mut self, table: &Arc<StoredTable>, leadership: Option<&Leadership>) -> Plan {
        let mut policy = self.settings.policy.clone();
        if self.hsdo.as_ref().is_some_and(|hsdo| !hsdo.has_rows()) {
            // The rows of one that comes back to HSDO's table are judged by where it was till then.
            policy.origin = stored_origin(table);
        }
        let (table, look) = (table.clone(), self.look.clone());
        let confirmed = self.absences.confirmed(self.settings.confirm.passes);
        let kept = self.absences.kept().clone();
        let recent = self.absences.recent(Instant::now(), policy.floors.window);
        let mut reports = self.all_reports();
        reports.extend(self.hsdo.as_ref().map(|hsdo| hsdo.clients(policy.slots)));
        let barred = self.hsdo.as_ref().map(|hsdo| hsdo.barred(policy.slots)).unwrap_or_default();
        let places = self.places(&table, &reports);
        let (life, reborn_at) = (self.table.life().clone(), self.rebirth.at);
        let token = leadership.map(|leadership| leadership.token.0);
        let endpoints = |look: &Arc<Look>| look.result.as_ref().map_or(0, |a| a.endpoints.len());
        let size = table.slots.len() + look.as_ref().map_or(0, endpoints);
        let planning = move || {
            let answer = look.as_ref().and_then(|look| look.result.as_ref().ok());
            let answer = answer.map(|answer| answer.keeping(&table, policy.floors.allow_drop));
            plan(&World {
                policy: &policy,
                table: &table,
                answer: answer.as_deref(),
                confirmed: &confirmed,
                kept: &kept,
                recent: &recent,
                barred: &barred,
                places: &places,
                life: &life,
                reborn_at,
                token,
                reports: &reports,
                now: now(),
            })
        };
        if size <= FEW {
            return planning();
        }
        match tokio::task::spawn_blocking(planning).await {
            Ok(plan) => plan,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going away, and this task with it.
                Err(_cancelled) => std::future::pending().await,
            },
        }
    }

    /// Where servers are that the table says nothing of: in the slots of HAProxies, or where they
    /// were in a table that is lost.
    fn places(&mut self, table: &StoredTable, reports: &[Report]) -> Places {
        for (slot, record) in table.records() {
            self.known.insert(record.endpoint.address, slot);
        }
        for (slot, stored) in &table.removed {
            for address in stored.removals.addresses() {
                if self.known.get(&address) == Some(slot) {
                    self.known.remove(&address);
                }
            }
        }
        let mut places = Places { slots: self.known.clone(), ..Places::default() };
        for (slot, address) in reports.iter().flat_map(|report| &report.backend.held) {
            places.slots.insert(*address, *slot);
            places.held.insert(*slot, *address);
        }
        places
    }

    /// The reports of all HAProxies, also of those that have just vanished: an outage of the store
    /// ends reports whose HAProxies live and serve, and they come again a moment later.
    fn all_reports(&mut self) -> Vec<Report> {
        let mut reports = reports(&self.settings.name, &self.reports);
        let reporting: BTreeSet<HaproxyName> = reports.iter().map(|r| r.haproxy.clone()).collect();
        let now = Instant::now();
        for known in self.reporting.difference(&reporting) {
            self.vanished.entry(known.clone()).or_insert(now);
        }
        self.vanished.retain(|name, at| {
            !reporting.contains(name) && now.saturating_duration_since(*at) < REPORTS_RETURN
        });
        let missing = |haproxy: &HaproxyName| Report {
            haproxy: haproxy.clone(),
            gone: false,
            silent: false,
            backend: crate::model::BackendReport::default(),
        };
        reports.extend(self.vanished.keys().map(missing));
        self.reporting = reporting;
        reports
    }

    /// How long a pass holds if nothing is heard.
    pub fn next_wake(&self, pass: &Pass) -> Duration {
        let retry = self.retry_at.map(|at| at.saturating_duration_since(Instant::now()));
        // What waits for a report that vanished goes on without it a while later.
        let idle = if self.vanished.is_empty() { IDLE } else { REPORTS_RETURN };
        match pass {
            Pass::Settled(plan) => plan.next_wake.unwrap_or(idle).min(idle),
            Pass::Written(_) | Pass::Waiting(_) => retry.unwrap_or(idle),
            Pass::Blind(_) => idle,
        }
    }
}

fn stored_origin(table: &StoredTable) -> Option<TableOrigin> {
    table.spec()?.origin.clone()
}

/// Waits for the next look at HSDO's table, where there is one.
async fn changed(hsdo: &mut Option<Hsdo>) -> anyhow::Result<()> {
    match hsdo {
        Some(hsdo) => hsdo.changed().await,
        None => std::future::pending().await,
    }
}

/// To the millisecond: what is finer only makes the stored texts longer.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// Servers that a plan removed without their saying so.
fn vanished(plan: &Plan) -> Vec<EndpointId> {
    let removed = plan.actions.iter().filter(|action| {
        matches!(action.kind, ActionKind::Drain | ActionKind::Rest)
            && action.record.as_ref().is_some_and(|record| !record.endpoint.leaving)
    });
    removed.map(|action| action.server.clone()).collect()
}

/// This backend's part of every live HAProxy's report. One that cannot be read has to be waited
/// for as long as it lives: it may serve any slot.
fn reports(backend: &BackendName, mirror: &Mirror) -> Vec<Report> {
    let mut reports = Vec::new();
    for entry in mirror.entries().values().filter(|entry| entry.is_held()) {
        match entry.json::<HaproxyReport>() {
            Ok(mut report) => {
                let gone = report.pid.is_none();
                let mut part = report.backends.remove(backend);
                if let Some(part) = &mut part
                    && part.life.as_ref().is_some_and(|life| life.is_other(mirror.life()))
                {
                    // It counts in another life of the store.
                    part.applied = Revision::default();
                }
                let haproxy = report.name;
                reports.extend(part.map(|backend| Report {
                    haproxy,
                    gone,
                    silent: false,
                    backend,
                }));
            }
            Err(_) => {
                let haproxy = entry.key.last().parse().ok();
                reports.extend(haproxy.map(|haproxy| Report {
                    haproxy,
                    gone: false,
                    silent: false,
                    backend: crate::model::BackendReport::default(),
                }));
            }
        }
    }
    reports
}

async fn watch_table(shared: &Shared, backend: &BackendName) -> Watch {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let mut health = crate::daemon::Health::new(format!("watching table {backend}"));
    loop {
        match shared.table(backend).await {
            Ok(watch) => {
                health.succeeded();
                return watch;
            }
            Err(error) => {
                health.failed(&error);
                backoff.wait().await;
            }
        }
    }
}
