//! `lbctl demo`.

mod check;
mod child;
mod haproxy_config;
mod play;
mod stage;

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::config::Globals;
use crate::daemon;
use crate::error::CommandResult;

/// Play the whole thing on this machine
///
/// In a temporary folder, as real processes: an embedded store, three `lbctl serve --register`,
/// `lbctl discover`, a HAProxy with a stats page and `lbctl sync-haproxy`. Shows the table as it
/// changes; kill what you like, it is started again. Ctrl-C ends all and leaves nothing behind.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lbctl demo
  lbctl demo --check
  lbctl demo --port 4141 --stats-port 9000")]
pub struct Args {
    /// Play it without hands: each step with its time; ends with 0 only if all held
    #[arg(long)]
    check: bool,

    /// Where HAProxy takes clients, on 127.0.0.1 [default: a free port]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,

    /// Where HAProxy's stats page is, on 127.0.0.1 [default: a free port]
    #[arg(long, value_name = "PORT")]
    stats_port: Option<u16>,

    /// The HAProxy to run [default: the one on the PATH, or /usr/sbin/haproxy]
    #[arg(long, value_name = "FILE")]
    haproxy: Option<PathBuf>,
}

impl Args {
    pub async fn run(self, _globals: &Globals) -> CommandResult {
        let Self { check, port, stats_port, haproxy } = self;
        let stop = CancellationToken::new();
        let work = async {
            let mut stage = stage::Stage::build(port, stats_port, haproxy).await?;
            let result = match check {
                true => check::run(&mut stage, stop.clone()).await,
                false => play::run(&mut stage, stop.clone()).await,
            };
            stage.strike().await;
            result
        };
        daemon::until_signal(stop.clone(), work).await
    }
}
