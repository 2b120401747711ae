//! Sessions that a reload left on workers of before it. Only the master CLI reaches those.

use std::time::Duration;

use super::connection::Connection;
use super::{Observed, ObservedServer, Result, SocketAddress, Timeouts, observe, parse};
use crate::model::BackendName;

/// For one old worker: one that hangs must not hold up the current one.
const PATIENCE: Duration = Duration::from_secs(1);

/// Adds them to the live sessions of the same servers: those of the same name and address, since an
/// old worker goes on with the servers that it had.
pub(super) async fn add_sessions(
    master: &SocketAddress,
    timeouts: Timeouts,
    backends: &[BackendName],
    observed: &mut Observed,
) -> Result<()> {
    for pid in workers(master, timeouts).await? {
        // It may have ended meanwhile, and its sessions with it.
        let Ok(Ok(old)) =
            tokio::time::timeout(PATIENCE, look(master, timeouts, backends, pid)).await
        else {
            tracing::debug!(pid, "an old worker does not answer: its sessions are not counted");
            continue;
        };
        for (backend, servers) in &mut observed.backends {
            let old = old.backends.get(backend).map_or(&[][..], Vec::as_slice);
            servers.iter_mut().for_each(|server| add(server, old));
        }
    }
    Ok(())
}

async fn workers(master: &SocketAddress, timeouts: Timeouts) -> Result<Vec<u32>> {
    let mut connection = Connection::greeted(master, timeouts).await?;
    let command = "show proc".to_owned();
    let replies = connection.ask(std::slice::from_ref(&command)).await?;
    let reply = replies.first().map_or("", String::as_str);
    let address = master.clone();
    parse::old_workers(reply).map_err(|error| super::Error::Malformed { address, command, error })
}

async fn look(
    master: &SocketAddress,
    timeouts: Timeouts,
    backends: &[BackendName],
    pid: u32,
) -> Result<Observed> {
    let mut connection = Connection::open_worker(master, timeouts, pid).await?;
    observe::state(&mut connection, backends, true).await
}

fn add(server: &mut ObservedServer, old: &[ObservedServer]) {
    let is_same = |old: &&ObservedServer| {
        (&old.name, old.address, old.port) == (&server.name, server.address, server.port)
    };
    if let Some(more) = old.iter().find(is_same).and_then(|old| old.sessions) {
        server.sessions = Some(server.sessions.unwrap_or(0).saturating_add(more));
    }
}
