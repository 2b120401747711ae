use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::time::Duration;

use serde::Serialize;

use super::line::{Shown, preview};
use crate::error::CommandResult;
use crate::output::{self, OutputFormat};
use crate::store::{Change, Entry, Prefix, SharedStore, WatchEvent};
use crate::text;

/// How soon the end of whoever reads is noticed while nothing happens.
const READER_CHECK: Duration = Duration::from_millis(500);

/// Print the keys under a prefix, then every change as it happens, until Ctrl-C
///
/// One line an event: `reset` (what was known before no longer counts), then `put` for each key
/// there is; `put` and `delete` with the revision of each later change; `interrupted` when the
/// store goes away, and a new `reset` when it is back.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lbctl store watch backends/web
  lbctl store watch --output json | jq -c 'select(.event == \"put\") | .key'")]
pub(super) struct Args {
    /// What the keys have in front [default: all keys]
    #[arg(hide_default_value = true, default_value = "/")]
    prefix: Prefix,

    /// Lines for people, or one JSON object a line
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: OutputFormat,
}

/// One line.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    Reset {
        revision: u64,
        keys: usize,
    },
    Put {
        #[serde(flatten)]
        entry: Shown,
    },
    Delete {
        key: String,
        revision: u64,
    },
    Interrupted {
        error: String,
    },
}

impl Args {
    pub(super) async fn run(self, store: &SharedStore) -> CommandResult {
        let Self { prefix, output } = self;
        let mut watch = store.watch(&prefix).await?;
        loop {
            let event = tokio::select! {
                event = watch.next_event() => event,
                () = output::reader_is_gone(READER_CHECK) => return Ok(()),
            };
            let text = match output {
                OutputFormat::Table => lines(&event),
                OutputFormat::Json => json_lines(&event)?,
            };
            if output::write(text.as_bytes())? == ControlFlow::Break(()) {
                return Ok(());
            }
        }
    }
}

fn lines(event: &WatchEvent) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    match event {
        WatchEvent::Reset(listing) => {
            let (revision, keys) = (listing.revision, super::keys(listing.entries.len()));
            _ = writeln!(text, "reset        {revision:>8}  {keys}");
            listing.entries.iter().for_each(|entry| text.push_str(&put(entry)));
        }
        WatchEvent::Changed(changes) => changes.iter().for_each(|change| match change {
            Change::Put(entry) => text.push_str(&put(entry)),
            Change::Delete { key, revision } => {
                _ = writeln!(text, "delete       {revision:>8}  {}", text::lines(key.as_str()));
            }
        }),
        WatchEvent::Interrupted(error) => {
            _ = writeln!(text, "interrupted            {}", text::one_line(&error.to_string()));
        }
    }
    text
}

fn put(entry: &Entry) -> String {
    let (key, value) = (text::lines(entry.key.as_str()), preview(&entry.value));
    format!("put          {:>8}  {key}  {value}\n", entry.modified)
}

fn json_lines(event: &WatchEvent) -> CommandResult<String> {
    let put = |entry: &Entry| Event::Put { entry: Shown::of(entry) };
    let events: Vec<Event> = match event {
        WatchEvent::Reset(listing) => {
            let (revision, keys) = (listing.revision.0, listing.entries.len());
            let reset = Event::Reset { revision, keys };
            std::iter::once(reset).chain(listing.entries.iter().map(put)).collect()
        }
        WatchEvent::Changed(changes) => changes
            .iter()
            .map(|change| match change {
                Change::Put(entry) => put(entry),
                Change::Delete { key, revision } => {
                    Event::Delete { key: key.to_string(), revision: revision.0 }
                }
            })
            .collect(),
        WatchEvent::Interrupted(error) => vec![Event::Interrupted { error: error.to_string() }],
    };
    let mut text = String::new();
    for event in &events {
        text += &serde_json::to_string(event).map_err(anyhow::Error::new)?;
        text.push('\n');
    }
    Ok(text)
}
