//! The picture again at every change, and each second on a terminal, where weights and ages move by
//! themselves.

use std::io::IsTerminal as _;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Snapshot, render};
use crate::error::CommandResult;
use crate::model::Timestamp;
use crate::output::{self, OutputFormat};
use crate::store::{Mirror, Prefix, Store, WatchEvent};

/// Changes that come within this time make one picture.
const SETTLE: Duration = Duration::from_millis(50);

/// How often a terminal is drawn again when nothing changes.
const REDRAW: Duration = Duration::from_secs(1);

/// Puts the cursor at the top; what was there is overwritten line by line, so that nothing flickers.
const HOME: &str = "\x1b[H";
const CLEAR_REST_OF_LINE: &str = "\x1b[K\n";
const CLEAR_REST_OF_SCREEN: &str = "\x1b[J";

/// Shows the picture under a header until `stop` is cancelled. The header is asked for each time.
pub async fn follow(
    store: &dyn Store,
    format: OutputFormat,
    header: impl Fn() -> String,
    stop: CancellationToken,
) -> CommandResult {
    let mut mirror = Mirror::new(store.watch(&Prefix::root()).await?);
    let live = format == OutputFormat::Table && std::io::stdout().is_terminal();
    let mut show_at: Option<Instant> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            event = mirror.changed() => {
                if let WatchEvent::Interrupted(error) = event {
                    tracing::warn!(%error, "the picture may be old until the store is back");
                }
                let soon = Instant::now() + SETTLE;
                show_at = Some(show_at.map_or(soon, |at| at.min(soon)));
            }
            () = sleep_until(show_at.unwrap_or_else(Instant::now)), if show_at.is_some() => {
                if mirror.is_loaded() {
                    show(&mirror, format, live, &header())?;
                }
                show_at = live.then(|| Instant::now() + REDRAW);
            }
        }
    }
}

fn show(mirror: &Mirror, format: OutputFormat, live: bool, header: &str) -> CommandResult {
    let snapshot = Snapshot::of(mirror.entries().values(), Timestamp::now());
    if format == OutputFormat::Json {
        return output::print_json_line(&snapshot);
    }
    let stale = mirror.stale().map_or(String::new(), |error| format!("OLD: {error}\n\n"));
    let text = format!("{header}{stale}{}", render(&snapshot));
    if !live {
        return output::print(&format!("{text}\n"));
    }
    let lines = text.replace('\n', CLEAR_REST_OF_LINE);
    output::print(&format!("{HOME}{lines}{CLEAR_REST_OF_SCREEN}"))
}
