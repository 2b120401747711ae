//! The live demo: the table as it changes, and dead processes started again.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use super::stage::Stage;
use crate::error::CommandResult;
use crate::output::{self, OutputFormat};
use crate::overview;

/// How long a killed server stays away, so that its leaving can be watched.
const SERVER_PAUSE: Duration = Duration::from_secs(10);

/// How long any other killed process stays away: as long as a service manager would let it.
const OTHER_PAUSE: Duration = Duration::from_secs(1);

/// How often dead processes are looked for.
const LOOK: Duration = Duration::from_millis(500);

/// Shows the table until `stop` is cancelled.
pub(super) async fn run(stage: &mut Stage, stop: CancellationToken) -> CommandResult {
    let store = stage.store.clone();
    let header = RefCell::new(header(stage));
    let shown = overview::follow(
        store.as_ref(),
        OutputFormat::Table,
        || header.borrow().clone(),
        stop.clone(),
    );
    let restarts = async {
        let mut looks = interval(LOOK);
        let mut dead: Vec<(String, Instant)> = Vec::new();
        loop {
            looks.tick().await;
            restart(stage, &mut dead)?;
            header.replace(self::header(stage));
        }
    };
    tokio::select! {
        result = shown => {
            result?;
            output::print("\nstopping all of it\n")
        }
        result = restarts => result,
    }
}

/// Starts what has been dead for its pause.
fn restart(stage: &mut Stage, dead: &mut Vec<(String, Instant)>) -> CommandResult {
    for child in stage.children() {
        if child.id().is_some() {
            dead.retain(|(name, _)| *name != child.name);
            continue;
        }
        let pause = if child.name.starts_with("server") { SERVER_PAUSE } else { OTHER_PAUSE };
        match dead.iter().find(|(name, _)| *name == child.name) {
            None => dead.push((child.name.clone(), Instant::now())),
            Some((_, since)) if since.elapsed() >= pause => child.start()?,
            Some(_) => {}
        }
    }
    Ok(())
}

fn header(stage: &mut Stage) -> String {
    let (port, stats, admin) = (stage.port, stage.stats_port, stage.admin_ports);
    let mut text = format!(
        "\
lbctl demo: three servers, one HAProxy, no reload.   Ctrl-C ends all and leaves nothing behind.

  talk to it:  nc 127.0.0.1 {port}       then WHO, WHERE, WHY or QUIT
  stats page:  http://127.0.0.1:{stats}/
  metrics:     http://127.0.0.1:{}/metrics (discover), http://127.0.0.1:{}/metrics (sync-haproxy)
  logs:        {}
  kill -9 a process and watch (a server comes back after {} s, the others after {} s):
",
        admin[0],
        admin[1],
        stage.dir().display(),
        SERVER_PAUSE.as_secs(),
        OTHER_PAUSE.as_secs(),
    );
    for child in stage.children() {
        let id = child.id().map_or("gone".into(), |id| id.to_string());
        // Writing to a String cannot fail.
        _ = write!(text, "  {} {id}", child.name);
    }
    text + "\n\n"
}
