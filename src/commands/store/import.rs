use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::line::BadLines;
use super::plan::{Step, batches, is_of_its_store, plan};
use super::{input, line};
use crate::error::{CommandError, CommandResult, Kind};
use crate::output;
use crate::store::{Commit, Entry, Key, Prefix, SharedStore};

/// How many bad lines or keys are shown.
const SHOWN: usize = BadLines::TOLD;

/// Write the keys of an export
///
/// Every line is checked first, and nothing is written if one is bad. Keys that are there with the
/// same value stay as they are; a key that is there with another value is an error, and nothing is
/// written, unless --replace is given. Keys that are not in the export stay.
///
/// Keys of running processes (elections, registrations, reports, client counts) are left out: they
/// would be there for ever, since no process stands behind them. A table of which anything is
/// written is confirmed by a leader again before HAProxys take servers down by it.
///
/// A large import is many commits. If it is cut short, run it again: it goes on where it was. One of
/// more than 1 GiB, or with a line of more than 2 MiB, is refused.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lbctl store import backup.jsonl --dry-run
  lbctl store import backup.jsonl --replace
  lbctl store --store sqlite:old.db export | lbctl store import")]
pub(super) struct Args {
    /// The export, or - for stdin
    file: Option<PathBuf>,

    /// Replace the values of keys that are there already
    #[arg(long)]
    replace: bool,

    /// Say what would be written, and write nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl Args {
    pub(super) async fn run(self, store: &SharedStore) -> CommandResult {
        let Self { file, replace, dry_run } = self;
        let file = file.as_deref();
        let read = line::read_all(input::file_or_stdin(file)?)
            .map_err(|error| input::unreadable(error, file.unwrap_or(Path::new("-"))))?;
        let mut wanted = read.map_err(|bad| bad_lines(&bad))?;
        let total = wanted.len();
        wanted.retain(|key, _| !is_of_its_store(key));
        if wanted.len() < total {
            let left_out = super::keys(total - wanted.len());
            tracing::warn!("left out {left_out} of running processes, which write their own");
        }
        let total = wanted.len();
        let listing = store.list(&Prefix::root()).await?;
        let stored: BTreeMap<Key, Entry> =
            listing.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        let steps = plan(wanted, &stored);
        if !replace {
            refuse_replacements(&steps)?;
        }
        if dry_run {
            return output::print(&describe(&steps, total));
        }
        let written = steps.len();
        write(store, steps).await?;
        let total = super::keys(total);
        output::print(&format!("wrote {written} of {total}; the others were so already\n"))
    }
}

async fn write(store: &SharedStore, steps: Vec<Step>) -> CommandResult {
    let (total, mut written) = (steps.len(), 0);
    for txn in batches(steps) {
        let in_this = txn.guards.len();
        let so_far = || format!("{written} of {} written", super::keys(total));
        match store.commit(txn).await {
            Ok(Commit::Committed(_)) => written += in_this,
            Ok(Commit::Conflict) => {
                return Err(CommandError::msg(
                    Kind::Race,
                    format!("somebody else changed one of the keys meanwhile; {}", so_far()),
                )
                .hint("run it again: it goes on where it was"));
            }
            Err(error) => return Err(CommandError::from(error).context(so_far())),
        }
    }
    Ok(())
}

fn bad_lines(bad: &BadLines) -> CommandError {
    CommandError::msg(
        Kind::Failed,
        format!("nothing was written, because of bad lines:\n{}", first(&bad.first, bad.count)),
    )
    .hint("each line is {\"key\":…,\"value\":…} or {\"key\":…,\"value_base64\":…}")
}

fn refuse_replacements(steps: &[Step]) -> CommandResult {
    let replaced: Vec<String> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Replace { old, .. } => Some(old.key.to_string()),
            Step::Create { .. } => None,
        })
        .collect();
    if replaced.is_empty() {
        return Ok(());
    }
    let message = format!(
        "nothing was written, because the store has {} with another value or on a lease:\n{}",
        super::keys(replaced.len()),
        first(&replaced, replaced.len())
    );
    Err(CommandError::msg(Kind::Failed, message).hint("--replace replaces them"))
}

fn first(lines: &[String], count: usize) -> String {
    let mut text =
        lines.iter().take(SHOWN).map(|l| format!("  {l}")).collect::<Vec<_>>().join("\n");
    if count > SHOWN {
        text += &format!("\n  and {} more", count - SHOWN);
    }
    text
}

fn describe(steps: &[Step], total: usize) -> String {
    let mut text = String::new();
    for step in steps {
        // Writing to a String cannot fail.
        _ = writeln!(text, "would {}", step.describe());
    }
    let (steps, total) = (steps.len(), super::keys(total));
    _ = writeln!(text, "would write {steps} of {total}; the others are so already");
    text
}
