//! `lbctl store`.

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
mod watch;

use crate::config::Globals;
use crate::error::CommandResult;
use crate::store::open_from;

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
}

impl Args {
    pub async fn run(self, globals: &Globals) -> CommandResult {
        let Self { command } = self;
        let open = open_from(globals);
        match command {
            Command::Get(args) => args.run(&open.await?).await,
            Command::Put(args) => args.run(&open.await?).await,
            Command::Delete(args) => args.run(&open.await?).await,
            Command::List(args) => args.run(&open.await?).await,
            Command::Watch(args) => args.run(&open.await?).await,
            Command::Export(args) => args.run(&open.await?).await,
            Command::Import(args) => args.run(&open.await?).await,
            // Before there is anything to open.
            Command::Init(args) => args.run(globals).await,
        }
    }
}

/// `1 key`, `2 keys`.
fn keys(count: usize) -> String {
    format!("{count} {}", if count == 1 { "key" } else { "keys" })
}

/// `1 byte`, `2 bytes`.
fn bytes(count: usize) -> String {
    format!("{count} {}", if count == 1 { "byte" } else { "bytes" })
}
