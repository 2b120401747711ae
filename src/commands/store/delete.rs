use std::fmt::Write as _;

use super::get::no_key;
use crate::error::{CommandError, CommandResult, Kind};
use crate::output;
use crate::store::{Commit, Key, MAX_TXN_LEN, Prefix, SharedStore, Txn};

/// Delete one key, or all keys under a prefix
///
/// A key that is not there is an error (exit code 1); a prefix with nothing under it is not.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lbctl store delete greeting
  lbctl store delete --prefix backends/web --dry-run
  lbctl store delete --prefix backends/web")]
pub(super) struct Args {
    /// The key; with --prefix, what the keys have in front
    key: String,

    /// Delete every key under KEY/, but not KEY itself
    #[arg(long)]
    prefix: bool,

    /// Say what would be deleted, and delete nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl Args {
    pub(super) async fn run(self, store: &SharedStore) -> CommandResult {
        let Self { key, prefix, dry_run } = self;
        let keys = if prefix {
            keys_under(store, &key).await?
        } else {
            let key: Key = key.parse().map_err(|error| CommandError::usage(format!("{error}")))?;
            store.get(&key).await?.ok_or_else(|| no_key(&key))?;
            vec![key]
        };
        if dry_run {
            let mut text = String::new();
            for key in &keys {
                // Writing to a String cannot fail.
                _ = writeln!(text, "would delete {key}");
            }
            return output::print(&text);
        }
        delete(store, &keys).await?;
        output::print(&format!("deleted {}\n", super::keys(keys.len())))
    }
}

async fn keys_under(store: &SharedStore, text: &str) -> CommandResult<Vec<Key>> {
    let prefix: Prefix = text.parse().map_err(|error| CommandError::usage(format!("{error}")))?;
    if prefix == Prefix::root() {
        return Err(CommandError::usage("--prefix / would delete everything in the store")
            .hint("delete one part after the other; lbctl store list shows them"));
    }
    Ok(store.list(&prefix).await?.entries.into_iter().map(|entry| entry.key).collect())
}

async fn delete(store: &SharedStore, keys: &[Key]) -> CommandResult {
    for batch in keys.chunks(MAX_TXN_LEN) {
        let txn = batch.iter().fold(Txn::new(), |txn, key| txn.delete(key.clone()));
        if store.commit(txn).await? == Commit::Conflict {
            return Err(CommandError::msg(Kind::Race, "the store refused an unguarded delete"));
        }
    }
    Ok(())
}
