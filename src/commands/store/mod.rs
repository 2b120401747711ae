//! `lbctl store`.

mod backup;
mod delete;
mod export;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod get;
mod import;
mod init;
mod input;
mod line;
mod list;
mod plan;
mod put;
mod restore;
mod watch;

use crate::config::Globals;
use crate::error::CommandResult;
use crate::store::{SharedStore, await_to_read, open_as_guest, open_from, open_to_read, url_from};

/// Read and write the store by hand
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Examples:
  lbctl store list backends/web                        what discover has in its table
  lbctl store get backends/web/spec
  lbctl store watch --output json | jq .
  lbctl store backup /var/backups/lbctl.db             all of a SQLite store, as it runs
  lbctl store export > backup.jsonl
  lbctl store --store etcd://10.0.0.1:2379 import backup.jsonl

Keys are PART/PART/…, without the prefix of the store's URL. Exit code 69: the store is
unavailable; 75: somebody else changed the key first.";

#[derive(Debug, clap::Subcommand)]
enum Command {
    Get(get::Args),
    Put(put::Args),
    Delete(delete::Args),
    List(list::Args),
    Watch(watch::Args),
    Export(export::Args),
    Import(import::Args),
    Init(init::Args),
    Backup(backup::Args),
    Restore(restore::Args),
}

impl Args {
    pub async fn run(self, globals: &Globals) -> CommandResult {
        let Self { command } = self;
        match command {
            Command::Get(args) => args.run(&open(globals, For::Looking).await?).await,
            Command::Put(args) => {
                let purpose = if args.grants() { For::Granting } else { For::Writing };
                let store = open(globals, purpose.unless(args.dry_run)).await?;
                args.run(&store).await
            }
            Command::Delete(args) => {
                let store = open(globals, For::Writing.unless(args.dry_run)).await?;
                args.run(&store).await
            }
            Command::List(args) => args.run(&open(globals, For::Looking).await?).await,
            Command::Watch(args) => args.run(&await_to_read(&url_from(globals)?).await?).await,
            Command::Export(args) => args.run(&open(globals, For::Looking).await?).await,
            Command::Import(args) => {
                let store = open(globals, For::Writing.unless(args.dry_run)).await?;
                args.run(&store).await
            }
            // Before there is anything to open.
            Command::Init(args) => args.run(globals).await,
            Command::Backup(args) => args.run(globals).await,
            Command::Restore(args) => args.run(globals).await,
        }
    }
}

/// What the store is opened for.
#[derive(Debug, Clone, Copy)]
enum For {
    /// It makes no store.
    Looking,
    Writing,
    /// A lease counts by this host's clock, and so all of them have to.
    Granting,
}

impl For {
    fn unless(self, dry_run: bool) -> Self {
        if dry_run { Self::Looking } else { self }
    }
}

async fn open(globals: &Globals, purpose: For) -> CommandResult<SharedStore> {
    Ok(match purpose {
        For::Looking => open_to_read(&url_from(globals)?).await?,
        For::Writing => open_as_guest(&url_from(globals)?).await?,
        For::Granting => open_from(globals).await?,
    })
}

/// `1 key`, `2 keys`.
fn keys(count: usize) -> String {
    format!("{count} {}", if count == 1 { "key" } else { "keys" })
}

/// `1 byte`, `2 bytes`.
fn bytes(count: usize) -> String {
    format!("{count} {}", if count == 1 { "byte" } else { "bytes" })
}
