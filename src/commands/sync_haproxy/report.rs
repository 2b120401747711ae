use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::feed::Views;
use super::pass::Pass;
use super::plan::Unordered;
use super::target::Target;
use crate::haproxy::ProcessInfo;
use crate::hsdo::TableLayout;
use crate::model::{BackendName, BackendReport, HaproxyName, HaproxyReport, SlotNumber, Timestamp};
use crate::store::Revision;
use crate::tables::Table;

/// Between two writes in which nothing but session counts moved.
const SESSIONS_INTERVAL: Duration = Duration::from_secs(1);

/// A HAProxy that has not answered for so long is not there: nobody needs to wait for it.
const GONE_AFTER: Duration = Duration::from_secs(10);

/// Makes the report of one HAProxy out of its passes.
#[derive(Debug)]
pub struct Reporter {
    name: HaproxyName,
    process: Option<ProcessInfo>,
    backends: BTreeMap<BackendName, BackendReport>,
    failing_since: Option<Instant>,
    written: Option<(Instant, HaproxyReport)>,
}

impl Reporter {
    pub fn new(name: HaproxyName) -> Self {
        Self { name, process: None, backends: BTreeMap::new(), failing_since: None, written: None }
    }

    /// Takes in a pass that reached HAProxy.
    pub fn passed(&mut self, pass: &Pass, targets: &[Target], views: &Views) {
        self.failing_since = None;
        self.process = Some(pass.process.clone());
        self.backends = views
            .iter()
            .map(|(table, view)| {
                let applied = self.backends.get(table).map_or(Revision(0), |b| b.applied);
                let mut report = of_table(table, applied, pass, targets);
                report.life = view.table.as_ref().map(|table| table.life.clone());
                if view.table.as_ref().is_none_or(|table| !table.confirmed) {
                    // What was applied is not what the store says.
                    report.applied = Revision(0);
                    report.converged = false;
                }
                if let Some(rows) = view.table.as_ref().filter(|t| t.layout == TableLayout::Hsdo) {
                    follow_rows(&mut report, rows, table, pass, targets);
                }
                if report.error.is_none() {
                    report.error.clone_from(&view.problem);
                }
                (table.clone(), report)
            })
            .collect();
    }

    /// Takes in that HAProxy did not answer.
    pub fn failed(&mut self, error: &str, views: &Views, now: Instant) {
        let since = *self.failing_since.get_or_insert(now);
        if now - since >= GONE_AFTER {
            self.process = None;
        }
        for table in views.keys() {
            let report = self.backends.entry(table.clone()).or_default();
            report.converged = false;
            report.sessions.clear();
            report.error = Some(error.to_owned());
        }
    }

    /// The report to write, if it says something new.
    pub fn due(&mut self, at: Timestamp, now: Instant) -> Option<HaproxyReport> {
        let report = HaproxyReport {
            name: self.name.clone(),
            pid: self.process.as_ref().map(|process| process.pid),
            version: self.process.as_ref().map(|process| process.version.clone()),
            at,
            backends: self.backends.clone(),
        };
        if let Some((when, written)) = &self.written
            && !is_news(written, &report, now - *when)
        {
            return None;
        }
        self.written = Some((now, report.clone()));
        Some(report)
    }

    /// The reports by table.
    pub fn backends(&self) -> &BTreeMap<BackendName, BackendReport> {
        &self.backends
    }
}

/// One table over all HAProxy backends that it feeds: the worst of them counts.
fn of_table(
    table: &BackendName,
    before: Revision,
    pass: &Pass,
    targets: &[Target],
) -> BackendReport {
    let fed = targets.iter().zip(&pass.targets).filter(|(target, _)| target.from == *table);
    let looked: Vec<_> = fed.filter_map(|(_, look)| look.as_ref()).collect();
    let mut report = BackendReport { applied: before, ..BackendReport::default() };
    let Some(revision) = looked.iter().map(|look| look.revision).min() else {
        return report;
    };
    report.converged = looked.iter().all(|look| look.is_converged());
    let held = |(slot, kept): (&SlotNumber, &Unordered)| Some((*slot, kept.address?));
    report.held =
        looked.iter().flat_map(|look| look.plan.unordered.iter().filter_map(held)).collect();
    report.held.extend(looked.iter().flat_map(|look| &look.plan.taken).map(|(s, a)| (*s, *a)));
    report.applied = if looked.iter().all(|look| look.holds()) {
        revision
    } else {
        // A store that began anew counts from below again.
        before.min(revision)
    };
    for look in looked {
        report.drift += u32::try_from(look.plan.drift.len()).unwrap_or(u32::MAX);
        for (slot, sessions) in &look.plan.sessions {
            *report.sessions.entry(*slot).or_default() += sessions;
        }
        report.crowded.extend(&look.plan.crowded);
        if report.error.is_none() {
            report.error = look.error();
        }
    }
    report
}

/// Without revisions it says instead which slots are not known to be in maint.
fn follow_rows(
    report: &mut BackendReport,
    rows: &Table,
    table: &BackendName,
    pass: &Pass,
    targets: &[Target],
) {
    let fed = targets.iter().zip(&pass.targets).filter(|(target, _)| target.from == *table);
    let drift = fed.filter_map(|(_, look)| look.as_ref()).flat_map(|look| &look.plan.drift);
    report.applied = Revision(0);
    report.serving = Some(rows.slots.keys().chain(drift).copied().collect());
}

fn is_news(written: &HaproxyReport, now: &HaproxyReport, age: Duration) -> bool {
    let same_time = HaproxyReport { at: now.at, ..written.clone() };
    if same_time == *now {
        return false;
    }
    age >= SESSIONS_INTERVAL || without_sessions(same_time) != without_sessions(now.clone())
}

/// Which slots drain is news at once, how many sessions they have is not, until they have none.
fn without_sessions(mut report: HaproxyReport) -> HaproxyReport {
    for backend in report.backends.values_mut() {
        for sessions in backend.sessions.values_mut() {
            *sessions = (*sessions).min(1);
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::commands::sync_haproxy::feed::View;
    use crate::commands::sync_haproxy::pass::Look;
    use crate::commands::sync_haproxy::plan::Plan;
    use crate::commands::sync_haproxy::testing::{at, endpoint, held, table, target};
    use crate::model::{SlotNumber, SlotState};

    fn slot(number: u32) -> SlotNumber {
        SlotNumber::new(number).unwrap()
    }

    fn views() -> Views {
        let table = Some(Arc::new(table(&[])));
        Views::from([("web".parse().unwrap(), View { table, loaded: true, ..View::default() })])
    }

    fn look(revision: u64, drift: &[u32], unplaced: &[u32], sessions: &[(u32, u64)]) -> Look {
        let plan = Plan {
            drift: drift.iter().copied().map(slot).collect(),
            unplaced: unplaced.iter().copied().map(slot).collect(),
            sessions: sessions.iter().map(|(n, count)| (slot(*n), *count)).collect(),
            ..Plan::default()
        };
        let (refused, misconfigured) = Default::default();
        Look { revision: Revision(revision), plan, refused, misconfigured }
    }

    fn pass(looks: Vec<Look>) -> Pass {
        let process = ProcessInfo {
            pid: 7,
            started_s: None,
            version: "2.6".into(),
            uptime_s: 1,
            stopping: false,
        };
        let targets = looks.into_iter().map(Some).collect();
        Pass { process, restarted: false, applied: 0, targets }
    }

    fn reporter() -> Reporter {
        Reporter::new("lb1".parse().unwrap())
    }

    fn web(reporter: &Reporter) -> BackendReport {
        reporter.backends()[&"web".parse().unwrap()].clone()
    }

    fn after(reporter: &mut Reporter, looks: Vec<Look>) -> BackendReport {
        let targets = vec![target(); looks.len()];
        reporter.passed(&pass(looks), &targets, &views());
        web(reporter)
    }

    #[test]
    fn the_worst_backend_of_a_table_counts_and_sessions_are_added() {
        let looks = vec![look(9, &[], &[], &[(1, 2)]), look(8, &[2], &[], &[(1, 3)])];
        let report = after(&mut reporter(), looks);
        assert_eq!((report.applied, report.converged, report.drift), (Revision(0), false, 1));
        assert_eq!(report.sessions, [(slot(1), 5)].into());
        let looks = vec![look(9, &[], &[], &[]), look(8, &[], &[], &[])];
        assert_eq!(after(&mut reporter(), looks).applied, Revision(8));
    }

    #[test]
    fn hsdos_table_has_no_revision_to_apply_and_its_slots_are_named() {
        let mut reporter = reporter();
        let held = [(1, held(endpoint("a"), SlotState::Ready))];
        let rows = Table { layout: TableLayout::Hsdo, ..table(&held) };
        let view = View { table: Some(Arc::new(rows)), loaded: true, ..View::default() };
        let views = Views::from([("web".parse().unwrap(), view)]);
        reporter.passed(&pass(vec![look(9, &[2], &[], &[])]), &[target()], &views);
        let report = web(&reporter);
        assert_eq!((report.applied, report.drift), (Revision(0), 1));
        // The second is not known to be in maint yet.
        assert_eq!(report.serving, Some([slot(1), slot(2)].into()));
        reporter.failed("no such socket", &views, Instant::now());
        assert_eq!(web(&reporter).serving, Some([slot(1), slot(2)].into()));
    }

    #[test]
    fn drift_keeps_the_revision_that_held_before() {
        let mut reporter = reporter();
        after(&mut reporter, vec![look(5, &[], &[], &[])]);
        assert_eq!(after(&mut reporter, vec![look(9, &[1], &[], &[])]).applied, Revision(5));
        let anew = after(&mut reporter, vec![look(2, &[1], &[], &[])]);
        assert_eq!(anew.applied, Revision(2), "a store that began anew was promised too much");
    }

    #[test]
    fn a_slot_without_a_place_serves_nobody_and_keeps_no_other_waiting() {
        let report = after(&mut reporter(), vec![look(9, &[4], &[4], &[])]);
        assert_eq!((report.applied, report.converged), (Revision(9), false));
    }

    #[test]
    fn a_haproxy_that_is_gone_for_long_has_no_process_id() {
        let (mut reporter, start) = (reporter(), Instant::now());
        after(&mut reporter, vec![look(9, &[], &[], &[(1, 1)])]);
        let pid = |reporter: &mut Reporter, later: Duration| {
            reporter.failed("no such socket", &views(), start + later);
            let report = reporter.due(at(0), start + later).unwrap();
            let web = &report.backends[&"web".parse().unwrap()];
            assert_eq!((web.applied, web.converged), (Revision(9), false));
            assert!(web.sessions.is_empty(), "old session counts stayed");
            report.pid
        };
        assert_eq!(pid(&mut reporter, Duration::ZERO), Some(7));
        assert_eq!(pid(&mut reporter, GONE_AFTER), None);
    }

    #[test]
    fn only_news_are_written_and_session_counts_once_a_second() {
        let (mut reporter, start) = (reporter(), Instant::now());
        let mut due = |sessions: &[(u32, u64)], ms: u64| {
            after(&mut reporter, vec![look(9, &[], &[], sessions)]);
            reporter.due(at(ms.try_into().unwrap()), start + Duration::from_millis(ms)).is_some()
        };
        assert!(due(&[], 0));
        assert!(!due(&[], 60_000), "the same was written again");
        assert!(due(&[(1, 5)], 60_001), "a new drain waited");
        assert!(!due(&[(1, 4)], 60_500));
        assert!(due(&[(1, 3)], 61_001));
        assert!(due(&[(1, 0)], 61_002), "the end of the sessions waited");
    }
}
