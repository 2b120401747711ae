use std::time::Duration;

use super::feed::Views;
use super::pass::Pass;
use super::target::Target;
use crate::haproxy::{Command, CommandResult};
use crate::metrics::{Counters, Gauges, Histograms, Scope};
use crate::model::{BackendName, BackendReport, Timestamp};

static COMMANDS: Counters<2> = Counters::new(
    "lbctl_sync_commands",
    "Commands sent to HAProxy, by kind and by result: ok or refused",
    ["command", "result"],
);
static PASSES: Counters<1> =
    Counters::new("lbctl_sync_passes", "Comparisons, by result: ok or failed", ["result"]);
static RESTARTS: Counters<0> =
    Counters::new("lbctl_sync_restarts", "Times HAProxy was seen as a new process", []);
static DRIFT: Gauges<1> = Gauges::new(
    "lbctl_sync_drift",
    "Slots that differ from the table, by HAProxy backend",
    ["backend"],
);
static UNPLACED: Gauges<1> = Gauges::new(
    "lbctl_sync_unplaced",
    "Held slots that HAProxy has no place for, by HAProxy backend",
    ["backend"],
);
static DRAINING_SESSIONS: Gauges<1> = Gauges::new(
    "lbctl_sync_draining_sessions",
    "Live sessions on draining servers, by HAProxy backend",
    ["backend"],
);
static TABLE_REVISION: Gauges<1> =
    Gauges::new("lbctl_sync_table_revision", "Last revision of a table that was read", ["table"]);
static APPLIED_REVISION: Gauges<1> =
    Gauges::new("lbctl_sync_applied_revision", "Revision of a table that HAProxy shows", ["table"]);
static STORE_UP: Gauges<0> =
    Gauges::new("lbctl_sync_store_up", "1 while every table is watched, else 0", []);
static HAPROXY_UP: Gauges<0> =
    Gauges::new("lbctl_sync_haproxy_up", "1 while HAProxy answers, else 0", []);
static LAST_SUCCESS: Gauges<0> = Gauges::new(
    "lbctl_sync_last_success_timestamp_seconds",
    "When HAProxy was last seen to be what the tables say",
    [],
);
static PASS_DURATION: Histograms<0> =
    Histograms::new("lbctl_sync_pass_duration_seconds", "How long a comparison takes", []);

/// Counts one command.
pub fn command(command: &Command, result: &CommandResult) {
    let kind = match command {
        Command::SetAddress { .. } => "address",
        Command::SetWeight { .. } => "weight",
        Command::SetState { .. } => "state",
        Command::SetHealthDown { .. } => "health_down",
        Command::EnableHealth { .. } => "enable_health",
        Command::EnableAgent { .. } => "enable_agent",
        Command::DisableAgent { .. } => "disable_agent",
        Command::SetAgentUp { .. } => "agent",
        Command::EndSessions { .. } => "end_sessions",
        Command::AddServer { .. } => "add",
        Command::DelServer { .. } => "delete",
    };
    let result = if result.is_ok() { "ok" } else { "refused" };
    COMMANDS.with([kind, result]).inc();
}

/// What is told of backends and tables; it goes with the settings that name them.
#[derive(Debug, Default)]
pub struct Shown(Scope);

impl Shown {
    /// Takes in a pass that reached HAProxy.
    pub fn passed(&self, pass: &Pass, targets: &[Target], took: Duration, at: Timestamp) {
        PASSES.with(["ok"]).inc();
        RESTARTS.get().inc_by(u64::from(pass.restarted));
        PASS_DURATION.get().observe(took.as_secs_f64());
        HAPROXY_UP.get().set(1.0);
        for (target, look) in targets.iter().zip(&pass.targets) {
            let Some(look) = look else { continue };
            let backend = || [target.backend.to_string()];
            self.0.series(&DRIFT, backend()).set(look.plan.drift.len() as f64);
            self.0.series(&UNPLACED, backend()).set(look.plan.unplaced.len() as f64);
            let sessions = look.plan.sessions.values().fold(0u64, |sum, n| sum.saturating_add(*n));
            self.0.series(&DRAINING_SESSIONS, backend()).set(sessions as f64);
        }
        if pass.is_converged() {
            LAST_SUCCESS.get().set(at.as_duration().as_secs_f64());
        }
    }

    /// Takes in what is known of the tables.
    pub fn tables(&self, views: &Views) {
        let up = views.values().all(|view| view.loaded && view.stale.is_none());
        STORE_UP.get().set(if up { 1.0 } else { 0.0 });
        for (name, view) in views {
            if let Some(table) = &view.table {
                let revision = table.revision.0 as f64;
                self.0.series(&TABLE_REVISION, [name.to_string()]).set(revision);
            }
        }
    }

    /// Takes in what was reported of a table.
    pub fn applied(&self, table: &BackendName, report: &BackendReport) {
        self.0.series(&APPLIED_REVISION, [table.to_string()]).set(report.applied.0 as f64);
    }
}

/// Takes in that HAProxy did not answer.
pub fn failed() {
    PASSES.with(["failed"]).inc();
    HAPROXY_UP.get().set(0.0);
}
