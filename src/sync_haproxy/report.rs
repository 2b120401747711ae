use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::feed::Views;
use super::pass::Pass;
use super::target::Target;
use crate::haproxy::ProcessInfo;
use crate::model::{BackendName, BackendReport, HaproxyName, HaproxyReport, Timestamp};
use crate::store::Revision;

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
        if report.error.is_none() {
            report.error = look.error();
        }
    }
    report
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
