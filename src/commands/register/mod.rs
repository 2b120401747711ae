//! `lbctl register`: any program as a server of a backend.

mod driver;
mod settings;

use std::ffi::OsString;

use crate::config::{Flags, Globals, named};
use crate::error::CommandResult;

pub(crate) use settings::Settings;

/// Register a server in a backend while a command runs
///
/// The command keeps stdin, stdout and stderr, and the environment but for lbctl's own variables
/// (LBCTL_*), which may hold passwords. On the first SIGTERM or SIGINT the server leaves:
/// load balancers drain it, then it is deregistered, then the signal is passed on; a second one is
/// passed on at once. Ends with the command's exit code (128 + N if signal N ended it). Other
/// signals are passed on as they come. The command runs in a process group of its own, so that
/// Ctrl-C drains too; it cannot read from a terminal.
///
/// Without a command the server is registered until SIGTERM or SIGINT.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The backend to register in
    #[arg(value_name = "BACKEND")]
    backend: String,

    /// Where load balancers reach the server
    #[arg(value_name = "IP:PORT")]
    address: String,

    /// What makes it the same server over time [default: a random UUID]
    #[arg(long, value_name = "NAME")]
    id: Option<String>,

    /// The weight to ramp up to, 0 to 256 [default: the ramp's max]
    #[arg(long, value_name = "WEIGHT")]
    weight: Option<String>,

    /// The group to register with
    #[arg(long, value_name = "NAME")]
    group: Option<String>,

    /// The zone to register with
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,

    /// How long the registration outlives a killed lbctl [default: 10s]
    #[arg(long, value_name = "DURATION")]
    ttl: Option<String>,

    /// How long to wait for the last session to end before the signal is passed on [default: 30s]
    #[arg(long, value_name = "DURATION")]
    drain_deadline: Option<String>,

    /// Register only once IP:PORT accepts a connection
    #[arg(long)]
    wait_port: bool,

    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  lbctl register web 10.0.0.5:8000 -- python3 -m http.server 8000
  lbctl register web 10.0.0.5:8000 --id web-5 --zone eu-1a --wait-port -- ./server --port 8000
  lbctl register web 10.0.0.6:8000      # something that runs elsewhere, until Ctrl-C";

impl Args {
    pub async fn run(self, globals: &Globals) -> CommandResult {
        let (flags, command) = self.split();
        let mut reader = globals.reader(flags)?;
        let settings = Settings::read(&mut reader);
        reader.finish()?;
        let Some(settings) = settings else {
            return Ok(());
        };
        Box::pin(driver::run(settings, command)).await
    }

    fn split(self) -> (Flags, Vec<OsString>) {
        let Self {
            backend,
            address,
            id,
            weight,
            group,
            zone,
            ttl,
            drain_deadline,
            wait_port,
            command,
        } = self;
        let flags = Flags::new()
            .set("register.backend", "BACKEND", Some(backend))
            .set("register.address", "IP:PORT", Some(address))
            .all("register", named![id, weight, group, zone, ttl, drain_deadline, wait_port]);
        (flags, command)
    }
}
