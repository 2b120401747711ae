//! `lbctl status`.

use tokio_util::sync::CancellationToken;

use crate::config::Globals;
use crate::daemon;
use crate::error::CommandResult;
use crate::model::Timestamp;
use crate::output::{self, OutputFormat};
use crate::overview::{self, Snapshot};
use crate::store::{Prefix, await_to_read, open_to_read, url_from};

/// Show tables, servers, HAProxies and leaders
///
/// Everything comes from the store, so that it works on any host that reaches it. A weight of
/// "40 → 100" is 40 now and ramps up to 100.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lbctl status
  lbctl status --watch
  lbctl --store etcd://10.0.0.5:2379 status --output json | jq '.haproxies[] | select(.problem)'")]
pub struct Args {
    /// Go on and show every change, until Ctrl-C
    #[arg(long)]
    watch: bool,

    /// How it is printed; with --watch, JSON comes as one line a change
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: OutputFormat,
}

impl Args {
    pub async fn run(self, globals: &Globals) -> CommandResult {
        let Self { watch, output } = self;
        let url = url_from(globals)?;
        if watch {
            let stop = CancellationToken::new();
            let follow = async {
                let store = tokio::select! {
                    store = await_to_read(&url) => store?,
                    () = stop.cancelled() => return Ok(()),
                };
                overview::follow(store.as_ref(), output, String::new, stop.clone()).await
            };
            return daemon::until_signal(stop.clone(), follow).await;
        }
        let store = open_to_read(&url).await?;
        let listing = store.list(&Prefix::root()).await?;
        let snapshot = Snapshot::of(&listing.entries, Timestamp::now());
        match output {
            OutputFormat::Table => output::print(&overview::render(&snapshot)),
            OutputFormat::Json => output::print_json(&snapshot),
        }
    }
}
