use std::sync::Once;
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use super::feed::Views;
use super::pass::Pass;
use super::target::Target;
use crate::haproxy::{Command, CommandResult};
use crate::model::{BackendName, BackendReport, Timestamp};

/// Says what the metrics mean.
pub fn describe() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        describe_counter!(
            "lbctl_sync_commands_total",
            "Commands sent to HAProxy, by kind and by result: ok or refused"
        );
        describe_counter!("lbctl_sync_passes_total", "Comparisons, by result: ok or failed");
        describe_counter!("lbctl_sync_restarts_total", "Times HAProxy was seen as a new process");
        describe_gauge!("lbctl_sync_drift", "Slots that differ from the table, by HAProxy backend");
        describe_gauge!(
            "lbctl_sync_unplaced",
            "Held slots that HAProxy has no place for, by HAProxy backend"
        );
        describe_gauge!(
            "lbctl_sync_draining_sessions",
            "Live sessions on draining servers, by HAProxy backend"
        );
        describe_gauge!("lbctl_sync_table_revision", "Last revision of a table that was read");
        describe_gauge!("lbctl_sync_applied_revision", "Revision of a table that HAProxy shows");
        describe_gauge!("lbctl_sync_store_up", "1 while every table is watched, else 0");
        describe_gauge!("lbctl_sync_haproxy_up", "1 while HAProxy answers, else 0");
        describe_gauge!(
            "lbctl_sync_last_success_timestamp_seconds",
            "When HAProxy was last seen to be what the tables say"
        );
        describe_histogram!("lbctl_sync_pass_duration_seconds", "How long a comparison takes");
    });
}

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
    counter!("lbctl_sync_commands_total", "command" => kind, "result" => result).increment(1);
}

/// Takes in a pass that reached HAProxy.
pub fn passed(pass: &Pass, targets: &[Target], took: Duration, at: Timestamp) {
    counter!("lbctl_sync_passes_total", "result" => "ok").increment(1);
    counter!("lbctl_sync_restarts_total").increment(u64::from(pass.restarted));
    histogram!("lbctl_sync_pass_duration_seconds").record(took.as_secs_f64());
    gauge!("lbctl_sync_haproxy_up").set(1.0);
    for (target, look) in targets.iter().zip(&pass.targets) {
        let Some(look) = look else { continue };
        let backend = target.backend.to_string();
        gauge!("lbctl_sync_drift", "backend" => backend.clone()).set(count(look.plan.drift.len()));
        gauge!("lbctl_sync_unplaced", "backend" => backend.clone())
            .set(count(look.plan.unplaced.len()));
        let sessions = look.plan.sessions.values().fold(0u64, |sum, n| sum.saturating_add(*n));
        gauge!("lbctl_sync_draining_sessions", "backend" => backend).set(sessions as f64);
    }
    if pass.is_converged() {
        gauge!("lbctl_sync_last_success_timestamp_seconds").set(at.as_duration().as_secs_f64());
    }
}

/// Takes in that HAProxy did not answer.
pub fn failed() {
    counter!("lbctl_sync_passes_total", "result" => "failed").increment(1);
    gauge!("lbctl_sync_haproxy_up").set(0.0);
}

/// Takes in what is known of the tables.
pub fn tables(views: &Views) {
    let up = views.values().all(|view| view.loaded && view.stale.is_none());
    gauge!("lbctl_sync_store_up").set(if up { 1.0 } else { 0.0 });
    for (name, view) in views {
        if let Some(table) = &view.table {
            gauge!("lbctl_sync_table_revision", "table" => name.to_string())
                .set(table.revision.0 as f64);
        }
    }
}

/// Takes in what was reported of a table.
pub fn applied(table: &BackendName, report: &BackendReport) {
    gauge!("lbctl_sync_applied_revision", "table" => table.to_string())
        .set(report.applied.0 as f64);
}

fn count(number: usize) -> f64 {
    number as f64
}
