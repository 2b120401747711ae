use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::apply::Applied;
use super::backend::Foreign;
use super::hsdo;
use super::plan::{Plan, Refusal, Unplaced, Waiting};
use super::settings::BackendSettings;
use super::sources::Look;
use crate::daemon::{Context, Gate, Health, Healths, StatusBoard};
use crate::election::Standing;
use crate::metrics::{Counters, Gauges, Scope};
use crate::model::{BackendName, SlotState, Timestamp};
use crate::store::{Error, Result};
use crate::tables::StoredTable;

/// How many notes of one answer are told: a hostile registry must not flood the log.
const MAX_NOTES: usize = 10;

/// How many endpoints without a slot are named; the rest are counted.
const MAX_UNPLACED: usize = 20;

/// Tells people and machines how one backend is: logs on changes, metrics, status, readiness.
#[derive(Debug)]
pub struct Reporter {
    backend: BackendName,
    label: String,
    gates: Option<Gates>,
    board: Option<Board>,
    standing: Value,
    source: Health,
    store: Health,
    writes: Health,
    hsdo: Option<hsdo::Teller>,
    said: Said,
    /// Since when no leader is known, and when that is too long.
    leaderless: Lasting,
    blind: Lasting,
    /// Why the last write came to nothing, and since when writes do.
    unwritten: Option<Error>,
    refused: Lasting,
    metrics: Scope,
}

/// Why nothing is planned between a commit of this process and the news of it.
pub const NOT_SHOWN: &str = "the last change has not shown up yet";

/// How long a store may take to show a change, or to take one.
const HICCUP: Duration = Duration::from_secs(5);

/// Something that may be for a moment, and is a fault once it lasts.
#[derive(Debug)]
struct Lasting {
    since: Option<Instant>,
    patience: Duration,
}

impl Lasting {
    fn new(patience: Duration) -> Self {
        Self { since: None, patience }
    }

    /// Takes in whether it is so now; answers for how long it has been so, where that is too long.
    fn see(&mut self, is_so: bool) -> Option<Duration> {
        if !is_so {
            self.since = None;
            return None;
        }
        let elapsed = self.since.get_or_insert_with(Instant::now).elapsed();
        (elapsed >= self.patience).then_some(elapsed)
    }
}

#[derive(Debug)]
struct Gates {
    store: Gate,
    source: Gate,
    leader: Gate,
    table: Gate,
}

/// What was last logged, so that only changes are.
#[derive(Debug, Default)]
struct Said {
    unplaced: Vec<Unplaced>,
    refused: Option<Refusal>,
    notes: Vec<String>,
    waiting: Vec<Waiting>,
}

/// The part `discover` of `/status`: every backend's word; and how all of them are, for the log.
#[derive(Debug, Clone)]
pub struct Board {
    status: StatusBoard,
    sources: Healths,
    stores: Healths,
    writes: Healths,
}

impl Board {
    pub fn new(status: StatusBoard) -> Self {
        Self {
            status,
            sources: Healths::new("sources of backends"),
            stores: Healths::new("backends' ways to the store"),
            writes: Healths::new("backends' writes of their tables"),
        }
    }

    fn publish(&self, backend: &BackendName, value: Option<Value>) {
        self.status.publish_member("discover", "backends", backend.as_str(), value);
    }
}

/// What a pass saw.
#[derive(Debug)]
pub struct Seen<'a> {
    pub settings: &'a BackendSettings,
    pub table: &'a StoredTable,
    pub look: Option<&'a Look>,
    /// The store has answered.
    pub loaded: bool,
    /// Why it no longer does.
    pub store: Option<&'a Error>,
    /// Why no plan can be trusted.
    pub blind: Option<&'static str>,
    pub plan: &'a Plan,
    pub leads: bool,
    pub hsdo: Option<hsdo::Seen<'a>>,
}

impl Reporter {
    /// For a daemon.
    pub fn new(settings: &BackendSettings, ttl: Duration, context: &Context, board: Board) -> Self {
        let backend = &settings.name;
        let gate =
            |what: &str| context.readiness.gate(format!("{backend}: {what}"), "no answer yet");
        let gates = Gates {
            store: gate("store"),
            source: gate("source"),
            leader: gate("leader"),
            table: gate("table"),
        };
        let mut reporter = Self::silent(backend.clone());
        reporter.gates = Some(gates);
        reporter.leaderless = Lasting::new(ttl + HICCUP);
        let teller = |_: &_| hsdo::Teller::new(backend.clone(), Some(gate("HSDO's table")));
        reporter.hsdo = settings.hsdo.as_ref().map(teller);
        reporter.source = board.sources.one(format!("the source of backend {backend}"));
        reporter.store = board.stores.one(format!("the store, for backend {backend},"));
        reporter.writes = board.writes.one(format!("writing the table of backend {backend}"));
        reporter.board = Some(board);
        reporter
    }

    /// For one pass: logs only.
    pub fn silent(backend: BackendName) -> Self {
        Self {
            label: backend.to_string(),
            metrics: Scope::default(),
            gates: None,
            board: None,
            standing: Value::Null,
            source: Health::new(format!("the source of backend {backend}")),
            store: Health::new(format!("the store, for backend {backend},")),
            writes: Health::new(format!("writing the table of backend {backend}")),
            hsdo: None,
            said: Said::default(),
            leaderless: Lasting::new(HICCUP),
            blind: Lasting::new(HICCUP),
            unwritten: None,
            refused: Lasting::new(HICCUP),
            backend,
        }
    }

    pub fn standing(&mut self, standing: &Standing) {
        self.standing = match standing {
            Standing::Leader(leadership) => json!({ "leads": true, "token": leadership.token }),
            Standing::Follower { leader } => json!({ "leads": false, "leader": leader }),
        };
        let nobody = matches!(standing, Standing::Follower { leader: None });
        let too_long = self.leaderless.see(nobody);
        let Some(gates) = &self.gates else { return };
        match too_long {
            Some(time) => {
                let why =
                    format!("nobody has led for {} s: the table stands still", time.as_secs());
                gates.leader.close(why);
            }
            None if !nobody => gates.leader.open(),
            None => {}
        }
    }

    /// How soon a pass is to look again whether something lasts.
    pub fn look_again(&self) -> Duration {
        let unsure = [&self.leaderless, &self.blind, &self.refused];
        if unsure.iter().any(|lasting| lasting.since.is_some()) { HICCUP } else { Duration::MAX }
    }

    /// Closes the gate of a table that cannot be planned or written.
    fn judge(&mut self, blind: Option<&str>) {
        let long_blind = self.blind.see(blind.is_some());
        let long_refused = self.refused.see(self.unwritten.is_some());
        let Some(gates) = &self.gates else { return };
        match (&self.unwritten, blind, long_blind) {
            // What only a person mends is not waited for.
            (Some(error), ..) if long_refused.is_some() || !error.kind().is_transient() => {
                gates.table.close(format!("the last change cannot be written: {error}"));
            }
            (_, Some(why), Some(time)) => {
                let seconds = time.as_secs();
                gates.table.close(format!("nothing has been planned for {seconds} s: {why}"));
            }
            (None, None, _) => gates.table.open(),
            _ => {}
        }
    }

    /// Takes in that the table is another's, so that nothing is done.
    pub fn foreign(&mut self, foreign: &Foreign) {
        self.store.failed(foreign);
        self.standing = json!({ "leads": false });
        let why = foreign.to_string();
        self.gates.iter().for_each(|gates| gates.store.close(why.as_str()));
        if let Some(board) = &self.board {
            board.publish(&self.backend, Some(json!({ "standing": self.standing, "blind": why })));
        }
    }

    /// Takes in what a pass saw.
    pub fn seen(&mut self, seen: &Seen<'_>) {
        self.seen_store(seen);
        self.seen_source(seen);
        if let (Some(teller), Some(seen)) = (&mut self.hsdo, &seen.hsdo) {
            teller.seen(seen);
        }
        if seen.blind.is_none() {
            self.seen_table(seen);
            if seen.leads {
                self.log_plan(seen.plan);
            }
            if seen.plan.is_empty() && seen.look.is_some_and(|look| look.result.is_ok()) {
                self.metrics
                    .series(&LAST_SUCCESS, [self.label.clone()])
                    .set(Timestamp::now().as_duration().as_secs_f64());
            }
        }
        if !seen.leads || seen.plan.is_empty() {
            self.unwritten = None;
        }
        self.judge(seen.blind);
        if let Some(board) = &self.board {
            board.publish(&self.backend, Some(self.status(seen)));
        }
    }

    fn seen_store(&mut self, seen: &Seen<'_>) {
        match seen.store {
            Some(error) => self.store.failed(error),
            None => self.store.succeeded(),
        }
        let Some(gates) = &self.gates else { return };
        match seen.store {
            Some(error) => gates.store.close(error.to_string()),
            None if seen.loaded => gates.store.open(),
            None => {}
        }
    }

    fn seen_source(&mut self, seen: &Seen<'_>) {
        let Some(look) = seen.look else { return };
        let labels = || [self.label.clone(), seen.settings.source.kind().into()];
        let failing = self.metrics.series(&SOURCE_FAILING, labels());
        match &look.result {
            Ok(answer) => {
                self.source.succeeded();
                let endpoints = self.metrics.series(&ENDPOINTS, labels());
                endpoints.set(answer.endpoints.len() as f64);
                failing.set(0.0);
                self.gates.iter().for_each(|gates| gates.source.open());
                let notes = first(&answer.notes);
                for note in news(&notes, &self.said.notes) {
                    tracing::warn!(backend = %self.backend, "{note}");
                }
                self.said.notes = notes;
            }
            Err(error) => {
                self.source.failed(error);
                let why = format!("keeping the last good answer: {error}");
                self.gates.iter().for_each(|gates| gates.source.close(why.as_str()));
                failing.set(1.0);
            }
        }
    }

    fn seen_table(&self, seen: &Seen<'_>) {
        for (state, name) in STATES {
            let count = seen.table.records().filter(|(_, record)| record.state == state).count();
            let slots = self.metrics.series(&SLOTS, [self.label.clone(), name.into()]);
            slots.set(count as f64);
        }
        let set = |family: &'static Gauges<1>, count: usize| {
            self.metrics.series(family, [self.label.clone()]).set(count as f64);
        };
        set(&UNPLACED, seen.plan.unplaced.len());
        let refused = seen.plan.refused.as_ref().map_or(0, |refused| refused.servers.len());
        set(&REFUSED_REMOVALS, refused);
    }

    fn log_plan(&mut self, plan: &Plan) {
        let backend = &self.backend;
        if self.said.unplaced != plan.unplaced {
            match plan.unplaced.len() {
                0 => {
                    tracing::info!(%backend, "every endpoint has a slot again");
                }
                count => {
                    tracing::warn!(%backend, servers = %names(&plan.unplaced), "{count} endpoints have no slot");
                }
            }
            self.said.unplaced.clone_from(&plan.unplaced);
        }
        if self.said.refused != plan.refused {
            match &plan.refused {
                None => tracing::info!(%backend, "no removal is refused any more"),
                Some(refused) => {
                    let labels = [self.label.clone(), refused.why.as_str().into()];
                    self.metrics.series(&REFUSALS, labels).inc();
                    tracing::error!(%backend, "refused: {refused}, {}", refused.why.until());
                }
            }
            self.said.refused.clone_from(&plan.refused);
        }
        if self.said.waiting != plan.waiting {
            for Waiting { slot, haproxies } in &plan.waiting {
                let haproxies: Vec<&str> = haproxies.iter().map(|name| name.as_str()).collect();
                tracing::debug!(%backend, %slot, haproxies = haproxies.join(","), "waits for HAProxies");
            }
            self.said.waiting.clone_from(&plan.waiting);
        }
    }

    /// Takes in what writing a plan came to.
    pub fn wrote(&mut self, plan: &Plan, result: &Result<Applied>) {
        let label = match result {
            Ok(Applied::Written(_)) => "written",
            Ok(Applied::Conflict) => "conflict",
            Err(error) => error.kind().as_str(),
        };
        self.metrics.series(&WRITES, [self.label.clone(), label.into()]).inc();
        match result {
            Ok(Applied::Written(_)) => {
                self.writes.succeeded();
                self.unwritten = None;
                self.log_actions(plan);
            }
            Ok(Applied::Conflict) => {
                tracing::debug!(backend = %self.backend, "the table changed meanwhile: planning again");
            }
            Err(error) => {
                self.writes.failed(error);
                self.unwritten = Some(error.clone());
            }
        }
        // Where nothing else happens, nobody would ever miss the news of it.
        self.judge(matches!(result, Ok(Applied::Written(_))).then_some(NOT_SHOWN));
    }

    fn log_actions(&self, plan: &Plan) {
        for action in &plan.actions {
            let kind = action.kind.as_str();
            self.metrics.series(&ACTIONS, [self.label.clone(), kind.into()]).inc();
            let address = action.record.as_ref().map(|r| r.endpoint.address.to_string());
            let (slot, server) = (action.slot, &action.server);
            tracing::info!(backend = %self.backend, %slot, %server, address, "{kind}");
        }
    }

    fn status(&self, seen: &Seen<'_>) -> Value {
        #[derive(Serialize)]
        struct Shown<'a> {
            source: String,
            source_error: Option<&'a str>,
            endpoints: Option<usize>,
            standing: &'a Value,
            blind: Option<&'a str>,
            slots: BTreeMap<&'a str, usize>,
            /// The first few.
            unplaced: &'a [Unplaced],
            unplaced_count: usize,
            refused: Option<&'a Refusal>,
            waiting: &'a [Waiting],
            notes: &'a [String],
            strays: Vec<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            hsdo: Option<Value>,
        }
        let hsdo = self.hsdo.as_ref().zip(seen.hsdo.as_ref());
        let result = seen.look.map(|look| look.result.as_ref());
        let count = |state| seen.table.records().filter(|(_, r)| r.state == state).count();
        let shown = Shown {
            source: seen.settings.source.to_string(),
            source_error: result.and_then(|r| r.err()).map(String::as_str),
            endpoints: result.and_then(|r| r.ok()).map(|answer| answer.endpoints.len()),
            standing: &self.standing,
            blind: seen.blind,
            slots: STATES.map(|(state, name)| (name, count(state))).into(),
            unplaced: &seen.plan.unplaced[..seen.plan.unplaced.len().min(MAX_UNPLACED)],
            unplaced_count: seen.plan.unplaced.len(),
            refused: seen.plan.refused.as_ref(),
            waiting: &seen.plan.waiting,
            notes: &self.said.notes,
            strays: seen.table.strays.iter().map(|key| key.as_str()).collect(),
            hsdo: hsdo.map(|(teller, seen)| teller.status(seen)),
        };
        json!(shown)
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if let Some(board) = &self.board {
            board.publish(&self.backend, None);
        }
    }
}

const STATES: [(SlotState, &str); 3] =
    [(SlotState::Ready, "ready"), (SlotState::Drain, "drain"), (SlotState::Rest, "rest")];

static ENDPOINTS: Gauges<2> = Gauges::new(
    "lbctl_discover_endpoints",
    "Endpoints in the source's last good answer",
    ["backend", "source"],
);
static SOURCE_FAILING: Gauges<2> = Gauges::new(
    "lbctl_discover_source_failing",
    "1 while the source gives errors",
    ["backend", "source"],
);
static SLOTS: Gauges<2> =
    Gauges::new("lbctl_discover_slots", "Held slots by state", ["backend", "state"]);
static UNPLACED: Gauges<1> =
    Gauges::new("lbctl_discover_unplaced", "Endpoints without a slot", ["backend"]);
static REFUSED_REMOVALS: Gauges<1> = Gauges::new(
    "lbctl_discover_refused_removals",
    "Servers that a safety floor keeps",
    ["backend"],
);
static LAST_SUCCESS: Gauges<1> = Gauges::new(
    "lbctl_discover_last_success_timestamp_seconds",
    "When the table last equalled the source's answer",
    ["backend"],
);
static REFUSALS: Counters<2> =
    Counters::new("lbctl_discover_refusals", "Plans that met a safety floor", ["backend", "floor"]);
static WRITES: Counters<2> =
    Counters::new("lbctl_discover_writes", "Written plans by result", ["backend", "result"]);
static ACTIONS: Counters<2> = Counters::new(
    "lbctl_discover_actions",
    "Written slot changes by action",
    ["backend", "action"],
);

/// The first notes, and that there are others.
pub(super) fn first(notes: &[String]) -> Vec<String> {
    let mut first: Vec<String> = notes.iter().take(MAX_NOTES).cloned().collect();
    if notes.len() > first.len() {
        first.push(format!("there are others like these: only {MAX_NOTES} are told"));
    }
    first
}

/// What was not said the last time: one note that stays must not be told again with each change.
pub(super) fn news<'a>(notes: &'a [String], said: &[String]) -> impl Iterator<Item = &'a String> {
    notes.iter().filter(|note| !said.contains(note))
}

fn names(unplaced: &[Unplaced]) -> String {
    let mut names: Vec<&str> =
        unplaced.iter().take(MAX_UNPLACED).map(|u| u.server.as_str()).collect();
    if unplaced.len() > names.len() {
        names.push("…");
    }
    names.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_told_once_and_a_flood_is_cut() {
        let notes = |n: std::ops::Range<usize>| n.map(|n| format!("{n:02}")).collect::<Vec<_>>();
        let (few, more) = (first(&notes(1..3)), first(&notes(0..3)));
        assert_eq!(news(&more, &few).collect::<Vec<_>>(), ["00"]);
        assert_eq!(news(&few, &few).count(), 0);
        let flood = first(&notes(0..1000));
        assert_eq!(flood.len(), MAX_NOTES + 1);
        assert!(flood[MAX_NOTES].contains("others"), "{flood:?}");
        assert_eq!(news(&first(&notes(0..1001)), &flood).count(), 0);
    }
}
