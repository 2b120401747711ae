use std::time::Duration;

use super::input;
use crate::config::Setting as _;
use crate::error::{CommandError, CommandResult, Kind};
use crate::model::format_duration;
use crate::output;
use crate::store::{Commit, Guard, Key, Lease, MAX_VALUE_LEN, SharedStore, Txn};

/// Write one value
///
/// Without VALUE, or with -, the value is read from stdin, byte for byte.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lbctl store put greeting hello
  lbctl store put logo - < logo.png
  lbctl store put lock/backup \"$HOSTNAME\" --if-absent --ttl 10m")]
pub(super) struct Args {
    /// The key
    key: Key,

    /// The value, or - for stdin
    #[arg(allow_hyphen_values = true)]
    value: Option<String>,

    /// Delete the key after this time, such as 30s or 5m; nothing prolongs it
    #[arg(long, value_name = "TIME", value_parser = Duration::parse)]
    ttl: Option<Duration>,

    /// Only if there is no such key; else exit code 75
    #[arg(long)]
    if_absent: bool,

    /// Say what would be written, and write nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl Args {
    /// Whether it makes a lease.
    pub(super) fn grants(&self) -> bool {
        self.ttl.is_some()
    }

    pub(super) async fn run(self, store: &SharedStore) -> CommandResult {
        let Self { key, value, ttl, if_absent, dry_run } = self;
        let value = match value {
            Some(text) if text != "-" => text.into_bytes(),
            other => input::stdin(other.is_some(), MAX_VALUE_LEN as u64)?,
        };
        let mut txn = Txn::new().put(key.clone(), value.clone());
        if if_absent {
            txn = txn.guard(Guard::Absent(key.clone()));
        }
        txn.check(store.name())?;
        if dry_run {
            let present = store.get(&key).await?.is_some();
            if present && if_absent {
                return Err(taken(&key));
            }
            let verb = if present { "replace" } else { "create" };
            let bytes = super::bytes(value.len());
            return output::print(&format!("would {verb} {key} ({bytes})\n"));
        }
        match ttl {
            None => commit(store, &key, txn, None).await,
            Some(ttl) => put_leased(store, &key, value, txn.guards, ttl).await,
        }
    }
}

async fn put_leased(
    store: &SharedStore,
    key: &Key,
    value: Vec<u8>,
    guards: Vec<Guard>,
    ttl: Duration,
) -> CommandResult {
    if ttl.is_zero() {
        return Err(CommandError::usage("--ttl 0 would delete the key at once"));
    }
    let lease = store.grant(ttl).await?;
    if lease.ttl != ttl {
        let (granted, asked) = (format_duration(lease.ttl), format_duration(ttl));
        tracing::warn!("the store granted {granted} where {asked} was asked for");
    }
    let txn = Txn { guards, ..Txn::new().put_leased(key.clone(), value, lease.id) };
    let result = commit(store, key, txn, Some(lease)).await;
    if result.is_err() {
        // Best effort: a lease without keys ends by itself.
        _ = store.revoke(lease.id).await.is_ok();
    }
    result
}

async fn commit(store: &SharedStore, key: &Key, txn: Txn, lease: Option<Lease>) -> CommandResult {
    let Commit::Committed(revision) = store.commit(txn).await? else {
        return Err(taken(key));
    };
    let lease = lease.map_or_else(String::new, |lease| {
        format!(", on lease {} for {}", lease.id, format_duration(lease.ttl))
    });
    output::print(&format!("put {key} at revision {revision}{lease}\n"))
}

fn taken(key: &Key) -> CommandError {
    CommandError::msg(Kind::Race, format!("the key {:?} exists already", key.as_str()))
        .hint("leave --if-absent out to replace it")
}
