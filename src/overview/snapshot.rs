//! The stored entries as one picture, at one instant.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::election::LeaderRecord;
use crate::model::{
    BackendName, BackendSpec, EndpointId, HaproxyReport, ServerAddress, SlotNumber, SlotRecord,
    SlotState, Timestamp, Weight, keys,
};
use crate::store::{Entry, Key, Revision};
use crate::tables::{Content, StoredTable};
use crate::text;

/// All that `status` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    pub at: Timestamp,
    pub backends: Vec<BackendView>,
    pub haproxies: Vec<HaproxyView>,
    pub leaders: Vec<LeaderView>,
    /// Entries that could not be read, by key, with why.
    pub unreadable: BTreeMap<String, String>,
}

/// One table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackendView {
    pub name: BackendName,
    /// `None` where the table has no readable spec: no weights are known then.
    pub slot_count: Option<u32>,
    pub slots: Vec<SlotView>,
    pub unplaced: Vec<EndpointId>,
}

/// One held slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlotView {
    pub slot: SlotNumber,
    pub server: String,
    pub address: ServerAddress,
    pub group: Option<String>,
    pub zone: Option<String>,
    pub weight: Option<Weight>,
    pub target: Option<Weight>,
    pub state: SlotState,
    pub since: Timestamp,
}

/// One table as one HAProxy has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HaproxyView {
    pub name: String,
    pub version: Option<String>,
    pub pid: Option<u32>,
    pub backend: BackendName,
    /// It equalled what it wants at its last look, and no change of the table is newer.
    pub converged: bool,
    pub drift: u32,
    /// How many slots changed since what it has applied.
    pub slots_behind: u32,
    /// How long the oldest of those changes waits, in milliseconds, by the clocks of the host that
    /// wrote it and this one.
    pub behind_ms: u64,
    /// Live sessions on draining slots.
    pub draining_sessions: u64,
    pub problem: Option<String>,
}

/// One election's leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeaderView {
    pub election: String,
    pub leader: String,
    pub token: Revision,
    pub since: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Reading {
    tables: BTreeMap<BackendName, StoredTable>,
    reports: Vec<HaproxyReport>,
    leaders: Vec<LeaderView>,
    unreadable: BTreeMap<String, String>,
}

impl Snapshot {
    /// Reads entries of the whole store; those of other purposes are passed over.
    pub fn of<'e>(entries: impl IntoIterator<Item = &'e Entry>, now: Timestamp) -> Self {
        let mut reading = Reading::default();
        for entry in entries {
            if let Err(problem) = reading.take(entry) {
                reading.unreadable.insert(text::lines(entry.key.as_str()), problem);
            }
        }
        let damages = reading.damages();
        let Reading { tables, reports, leaders, mut unreadable } = reading;
        let shown = |(key, why): (Key, String)| (text::lines(key.as_str()), why);
        unreadable.extend(damages.into_iter().map(shown));
        let haproxies = reports.iter().flat_map(|report| haproxy_views(report, &tables, now));
        Self {
            at: now,
            haproxies: haproxies.collect(),
            backends: tables.iter().map(|(name, table)| view(name, table, now)).collect(),
            leaders,
            unreadable,
        }
    }
}

impl Reading {
    fn take(&mut self, entry: &Entry) -> Result<(), String> {
        if let Some(rest) = keys::backends().strip(&entry.key) {
            return self.take_table(rest, entry);
        }
        if keys::is_presence(&entry.key) && !entry.is_held() {
            return Err("is on no lease, so that no process stands behind it: delete it".into());
        }
        if keys::haproxies().contains(&entry.key) {
            self.reports.push(entry.json()?);
        } else if let Some(name) = keys::elections().strip(&entry.key) {
            let LeaderRecord { id, since } = LeaderRecord::from_value(&entry.value);
            let (election, token) = (text::lines(name), entry.created);
            self.leaders.push(LeaderView { election, leader: id, token, since });
        }
        Ok(())
    }

    fn take_table(&mut self, rest: &str, entry: &Entry) -> Result<(), String> {
        let (name, part) = rest.split_once('/').ok_or("is no part of a table")?;
        let name: BackendName = name.parse().map_err(|error| format!("{error}"))?;
        self.tables.entry(name).or_default().take(part, entry);
        Ok(())
    }

    /// What a table has that cannot be read.
    fn damages(&self) -> Vec<(Key, String)> {
        let of_table = |(name, table): (&BackendName, &StoredTable)| {
            let spec = table.spec.as_ref().and_then(|spec| spec.spec.as_ref().err().cloned());
            let spec = spec.map(|why| (keys::spec(name), why));
            let slots = table.slots.iter().filter_map(|(slot, stored)| match &stored.content {
                Content::Sound(_) => None,
                Content::Damaged(damaged) => Some((keys::slot(name, *slot), damaged.why.clone())),
            });
            let strays = table.strays.iter();
            let strays = strays.map(|key| (key.clone(), "is no part of a table".to_owned()));
            let others = table.unreadable.iter().cloned();
            spec.into_iter().chain(slots).chain(others).chain(strays).collect::<Vec<_>>()
        };
        self.tables.iter().flat_map(of_table).collect()
    }
}

fn view(name: &BackendName, table: &StoredTable, now: Timestamp) -> BackendView {
    let spec = table.spec();
    let slots = table.records().map(|(slot, record)| slot_view(slot, record, spec, now));
    BackendView {
        name: name.clone(),
        slot_count: spec.map(|spec| spec.slots),
        slots: slots.collect(),
        unplaced: spec.map(|spec| spec.unplaced.clone()).unwrap_or_default(),
    }
}

fn slot_view(
    slot: SlotNumber,
    record: &SlotRecord,
    spec: Option<&BackendSpec>,
    now: Timestamp,
) -> SlotView {
    let SlotRecord { endpoint, state, since, started } = record;
    // Only a ready server takes traffic by weight.
    let ramp = spec.map(|spec| spec.ramp).filter(|_| *state == SlotState::Ready);
    SlotView {
        slot,
        server: shown(endpoint.name.as_ref()).unwrap_or_else(|| endpoint.id.to_string()),
        address: endpoint.address,
        group: shown(endpoint.group.as_ref()),
        zone: shown(endpoint.zone.as_ref()),
        weight: ramp.map(|r| r.weight_at(*started, now, endpoint.weight)),
        target: ramp.map(|r| r.target(endpoint.weight)),
        state: *state,
        since: *since,
    }
}

/// How many slots changed after a revision, and since when the oldest change waits.
fn newer_than(table: &StoredTable, applied: Revision) -> (u32, Option<Timestamp>) {
    let newer = table.slots.values().filter(|stored| stored.modified > applied);
    let newer = newer.filter_map(|stored| match &stored.content {
        Content::Sound(record) => Some(record.since),
        Content::Damaged(_) => None,
    });
    newer.fold((0, None), |(count, oldest), since| {
        (count + 1, Some(oldest.map_or(since, |oldest: Timestamp| oldest.min(since))))
    })
}

fn shown(name: Option<&impl ToString>) -> Option<String> {
    name.map(ToString::to_string)
}

fn haproxy_views(
    report: &HaproxyReport,
    tables: &BTreeMap<BackendName, StoredTable>,
    now: Timestamp,
) -> Vec<HaproxyView> {
    let view = |(backend, state): (&BackendName, &crate::model::BackendReport)| {
        let table = tables.get(backend);
        // One that follows HSDO's table has no revision to be behind of.
        let own = table.filter(|_| state.serving.is_none());
        let (slots_behind, oldest) =
            own.map_or((0, None), |table| newer_than(table, state.applied));
        let waits = oldest.map_or(0, |since| now.as_millisecond() - since.as_millisecond());
        HaproxyView {
            name: report.name.to_string(),
            version: report.version.as_deref().map(printable),
            pid: report.pid,
            backend: backend.clone(),
            converged: state.converged && slots_behind == 0,
            drift: state.drift,
            slots_behind,
            behind_ms: u64::try_from(waits).unwrap_or(0),
            draining_sessions: state.sessions.values().fold(0, |sum, n| sum.saturating_add(*n)),
            problem: problem(
                report,
                state.error.as_ref(),
                table.is_some() || state.serving.is_some(),
            ),
        }
    };
    report.backends.iter().map(view).collect()
}

fn problem(report: &HaproxyReport, said: Option<&String>, has_table: bool) -> Option<String> {
    if let Some(error) = said {
        return Some(printable(error));
    }
    if report.pid.is_none() {
        return Some("HAProxy does not answer".into());
    }
    (!has_table).then(|| "there is no such table".into())
}

fn printable(text: &str) -> String {
    text::one_line(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BackendReport, Ramp};
    use crate::store::{Key, LeaseId};

    fn entry(key: &str, value: impl Serialize, revision: u64) -> Entry {
        let key: Key = key.parse().unwrap();
        let revision = Revision(revision);
        let value = serde_json::to_vec(&value).unwrap().into();
        Entry { key, value, created: revision, modified: revision, lease: Some(LeaseId(1)) }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn spec() -> serde_json::Value {
        serde_json::json!({
            "slots": 3, "ramp": Ramp::default(), "drain_deadline": "30s", "rest": "10s",
            "unplaced": ["i-9"],
        })
    }

    fn slot(state: &str) -> serde_json::Value {
        serde_json::json!({
            "id": "i-1", "address": "10.0.0.1:80", "state": state, "since": at(100), "started": at(100),
        })
    }

    fn report(applied: u64) -> HaproxyReport {
        let state =
            BackendReport { applied: Revision(applied), converged: true, ..Default::default() };
        HaproxyReport {
            name: "lb-1".parse().unwrap(),
            pid: Some(7),
            version: Some("2.6.12".into()),
            at: at(120),
            backends: [("web".parse().unwrap(), state)].into(),
        }
    }

    #[test]
    fn weights_are_of_now_and_only_for_servers_that_take_traffic() {
        let entries = [
            entry("backends/web/slots/00001", slot("ready"), 2),
            entry("backends/web/slots/00002", slot("drain"), 3),
            entry("backends/web/spec", spec(), 1),
        ];
        let snapshot = Snapshot::of(&entries, at(125));
        let web = &snapshot.backends[0];
        assert_eq!((web.slot_count, web.unplaced.len()), (Some(3), 1));
        let weights: Vec<Option<u16>> =
            web.slots.iter().map(|s| s.weight.map(Weight::get)).collect();
        assert_eq!(weights, [Some(30), None]);
        assert_eq!(web.slots[0].target.map(Weight::get), Some(100));
    }

    #[test]
    fn a_haproxy_that_has_not_applied_the_newest_change_is_behind_and_not_converged() {
        let table = [
            entry("backends/web/slots/00001", slot("ready"), 5),
            entry("backends/web/spec", spec(), 1),
        ];
        for (applied, behind, behind_ms) in [(4, 1, 30_000), (5, 0, 0)] {
            let mut entries = table.to_vec();
            entries.push(entry("haproxies/lb-1", report(applied), 9));
            let snapshot = Snapshot::of(&entries, at(130));
            let lb = &snapshot.haproxies[0];
            assert_eq!((lb.slots_behind, lb.behind_ms), (behind, behind_ms));
            assert_eq!(lb.converged, behind == 0);
            assert_eq!(lb.problem, None);
        }
    }

    #[test]
    fn damaged_entries_are_named_and_hide_nothing_else() {
        let entries = [
            entry("backends/web/slots/00001", "nonsense", 2),
            entry("backends/web/slots/x", slot("ready"), 2),
            entry("backends/web/slots/00002", slot("ready"), 2),
            entry("haproxies/lb-1", 3, 2),
            entry("registry/web/i-1", 3, 2),
        ];
        let snapshot = Snapshot::of(&entries, at(0));
        assert_eq!(snapshot.backends[0].slots.len(), 1);
        let named: Vec<&String> = snapshot.unreadable.keys().collect();
        assert_eq!(named, ["backends/web/slots/00001", "backends/web/slots/x", "haproxies/lb-1"]);
    }

    #[test]
    fn a_report_on_a_table_that_is_not_there_or_of_a_silent_haproxy_says_so() {
        let gone = HaproxyReport { pid: None, ..report(0) };
        let told = |report: HaproxyReport| {
            let entries = [entry("haproxies/lb-1", report, 1)];
            Snapshot::of(&entries, at(0)).haproxies[0].problem.clone().unwrap()
        };
        assert_eq!(told(report(0)), "there is no such table");
        assert_eq!(told(gone), "HAProxy does not answer");
    }

    #[test]
    fn nothing_that_somebody_wrote_into_the_store_reaches_a_terminal_as_a_command() {
        let mut hostile = report(0);
        hostile.version = Some("2.6\u{1b}]0;x\u{7}".into());
        let state = BackendReport {
            error: Some("\u{1b}[2J\nbackend web: converged".into()),
            sessions: [(1.try_into().unwrap(), u64::MAX), (2.try_into().unwrap(), 1)].into(),
            ..Default::default()
        };
        hostile.backends = [("web".parse().unwrap(), state)].into();
        let leader = serde_json::json!({ "id": "\u{9b}31m" });
        let entries = [
            entry("haproxies/lb-1", hostile, 1),
            entry("elections/discover-web", &leader, 1),
            entry("elections/\u{202e}bew", &leader, 1),
            entry("backends/\u{2066}web/spec", 1, 1),
            entry("backends/web/slots/00001", slot("\u{1b}[2J\nready"), 1),
        ];
        let snapshot = Snapshot::of(&entries, at(0));
        assert_eq!(snapshot.unreadable.len(), 2);
        let shown = crate::overview::render(&snapshot);
        let plain = anstream::adapter::strip_str(&shown).to_string();
        assert!(plain.contains("\\u{1b}[2J\\nready"), "{plain}");
        assert_eq!(text::lines(&plain), plain);
        assert!(!plain.lines().any(|line| line.starts_with("backend web: converged")), "{plain}");
        assert_eq!(snapshot.haproxies[0].draining_sessions, u64::MAX);
    }

    #[test]
    fn presence_without_a_lease_is_nobodys() {
        let leader = serde_json::json!({ "id": "gone" });
        let entries = [entry("haproxies/lb-1", report(1), 1), entry("elections/e", leader, 2)];
        let unheld = entries.map(|entry| Entry { lease: None, ..entry });
        let snapshot = Snapshot::of(&unheld, at(125));
        assert!(snapshot.haproxies.is_empty() && snapshot.leaders.is_empty());
        assert_eq!(snapshot.unreadable.len(), 2, "{:?}", snapshot.unreadable);
    }
}
