//! What systemd is told of a `Type=notify` unit, and its watchdog.

use std::time::Duration;

use sd_notify::NotifyState;

use super::Readiness;

/// Tells systemd once when the daemon becomes ready, and feeds the watchdog if the unit has one.
/// Never ends. The watchdog is fed from the runtime, so that a runtime that no longer runs tasks is
/// restarted.
pub(super) async fn report(readiness: Readiness) {
    let feed = sd_notify::watchdog_enabled().map(|timeout| timeout / 3);
    let ready = async {
        readiness.until_ready().await;
        say(&[NotifyState::Ready]);
        std::future::pending::<()>().await;
    };
    tokio::join!(ready, watchdog(feed));
}

/// Tells systemd that the daemon stops.
pub(super) fn stopping() {
    say(&[NotifyState::Stopping]);
}

async fn watchdog(feed: Option<Duration>) {
    let Some(every) = feed else { return };
    let mut ticks = tokio::time::interval(every);
    loop {
        ticks.tick().await;
        say(&[NotifyState::Watchdog]);
    }
}

/// Does nothing where no service manager listens.
fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}
