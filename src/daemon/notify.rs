//! What systemd is told of a `Type=notify` unit, and its watchdog. Nothing here waits for a service
//! manager that does not read, but the tasks that have nothing else to do.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::Readiness;

const READY: &str = "READY=1\n";
const STOPPING: &str = "STOPPING=1\n";
const WATCHDOG: &str = "WATCHDOG=1\n";

/// Tells systemd once when the daemon becomes ready, and feeds the watchdog if the unit has one.
/// Never ends. The watchdog is fed from the runtime, so that a runtime that no longer runs tasks is
/// restarted.
pub(super) async fn report(readiness: Readiness) {
    let feed = sd_notify::watchdog_enabled().map(|timeout| timeout / 3);
    let ready = async {
        readiness.until_ready().await;
        say(READY).await;
        std::future::pending::<()>().await;
    };
    tokio::join!(ready, watchdog(feed));
}

/// Tells systemd that the daemon stops, unless that would have to wait.
pub(super) fn stopping() {
    let said = connected().and_then(|manager| match manager {
        Some(manager) => manager.send(STOPPING.as_bytes()).map(|_| ()),
        None => Ok(()),
    });
    log(said);
}

async fn watchdog(feed: Option<Duration>) {
    let Some(every) = feed else { return };
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        say(WATCHDOG).await;
    }
}

/// Waits until the service manager takes it; does nothing where none listens.
async fn say(message: &str) {
    let said = async {
        let Some(manager) = connected()? else { return Ok(()) };
        let manager = tokio::net::UnixDatagram::from_std(manager)?;
        manager.send(message.as_bytes()).await.map(|_| ())
    };
    log(said.await);
}

fn log(said: io::Result<()>) {
    if let Err(error) = said {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}

/// A socket to the service manager (sd_notify(3)), which does not block.
fn connected() -> io::Result<Option<UnixDatagram>> {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address(&name)?)?;
    Ok(Some(socket))
}

fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}
