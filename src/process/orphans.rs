//! What the first process of a container owes to the others.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, getpid, waitpid};
use tokio::signal::unix::{SignalKind, signal};

/// How long an ended child is left to those who have started it.
const OTHERS_FIRST: Duration = Duration::from_secs(1);

/// As process 1, ends the children that were left to it: their parents have ended before them, and
/// nobody else takes them off the table of processes. Never ends.
pub async fn reap_orphans() {
    if !getpid().is_init() {
        return std::future::pending().await;
    }
    let mut ended = match signal(SignalKind::child()) {
        Ok(ended) => ended,
        Err(error) => {
            tracing::warn!(%error, "ended processes without a parent stay: cannot hear of them");
            return std::future::pending().await;
        }
    };
    let mut seen = BTreeSet::new();
    loop {
        if seen.is_empty() {
            ended.recv().await;
        }
        // A command that this process has started itself is waited for elsewhere, and at once.
        tokio::time::sleep(OTHERS_FIRST).await;
        let now = ended_children();
        now.intersection(&seen).for_each(|pid| reap(*pid));
        seen = now.difference(&seen).copied().collect();
    }
}

fn reap(pid: i32) {
    let Some(pid) = Pid::from_raw(pid) else { return };
    if let Err(error) = waitpid(Some(pid), WaitOptions::NOHANG) {
        tracing::debug!(%error, ?pid, "it was waited for already");
    }
}

/// The children of this process that have ended and were not waited for (proc(5)).
fn ended_children() -> BTreeSet<i32> {
    let own = getpid().as_raw_nonzero().get();
    let Ok(processes) = std::fs::read_dir("/proc") else { return BTreeSet::new() };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_ended_child(*pid, own)).collect()
}

fn is_ended_child(pid: i32, parent: i32) -> bool {
    // Gone meanwhile, or somebody else's.
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The name in parentheses may hold anything.
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.next() == Some("Z") && fields.next() == Some(&*parent.to_string())
}
