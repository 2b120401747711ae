//! The command line: what there is, and how a command's end becomes an exit code.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser};
use tokio::runtime::Builder;

use crate::commands::{
    self, completions, config, demo, discover, man, register, serve, status, store, sync_haproxy,
};
use crate::config::{Globals, LogSettings};
use crate::daemon::telemetry;
use crate::error::{CommandError, CommandResult};

/// One control plane for HAProxy fleets and the services behind them
#[derive(Debug, Parser)]
#[command(
    name = "lbctl",
    version,
    propagate_version = true,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = HELP
)]
pub struct Cli {
    #[command(flatten)]
    pub globals: Globals,

    #[command(subcommand)]
    pub command: Command,
}

const HELP: &str = "\
Examples:
  lbctl demo                                           play it all on this machine
  lbctl serve --register web                           a server that registers itself
  lbctl discover --backend web --source registry --slots 20
  lbctl sync-haproxy --socket /run/haproxy/admin.sock --backend web --from web
  lbctl status --watch

Settings: defaults < /etc/lbctl/lbctl.toml (or --config) < LBCTL_* variables < flags; see
`lbctl config show`.

Exit codes: 0 done, 1 failed, 2 usage, 69 the store or HAProxy is unavailable, 75 lost a race (try
again), 78 configuration, 130 and 143 ended at once by a second signal.";

/// The commands, each of which is an `Args` and a `run` under `commands`.
#[derive(Debug, clap::Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one of them in a process")]
pub enum Command {
    Serve(serve::Args),
    Register(register::Args),
    Discover(discover::Args),
    SyncHaproxy(sync_haproxy::Args),
    Status(status::Args),
    Demo(demo::Args),
    Store(store::Args),
    Config(config::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Parses the command line, runs the command and answers the process's exit code.
pub fn main() -> ExitCode {
    telemetry::report_panics();
    let cli = Cli::parse();
    let LogSettings { format, level } = cli.globals.log_settings();
    telemetry::init_logs(format, level);
    let (code, report) = match start(cli) {
        Ok(()) => (ExitCode::SUCCESS, String::new()),
        // A closed stderr leaves the exit code to say it.
        Err(error) => (error.exit_code(), error.report()),
    };
    telemetry::last_words(&report);
    code
}

fn start(cli: Cli) -> CommandResult {
    let mut builder = runtime(&cli.command);
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| CommandError::from(anyhow::Error::new(error).context("cannot start")))?;
    let result = runtime.block_on(run(cli));
    // A blocking call that hangs (a full disk, a dead mount) must not keep the process alive.
    runtime.shutdown_background();
    crate::store::close();
    result
}

fn runtime(command: &Command) -> Builder {
    match command {
        Command::Serve(_) => Builder::new_multi_thread(),
        // A pass waits for HAProxy up to once a command: one thread hears a reply and goes on with
        // it, where two would wake each other.
        Command::SyncHaproxy(_) => Builder::new_current_thread(),
        _ => {
            let mut builder = Builder::new_multi_thread();
            // The others mostly wait, and each thread keeps memory of its own (glibc's arenas): a
            // megabyte and more of a discover with a thousand servers.
            builder.worker_threads(1);
            builder
        }
    }
}

async fn run(cli: Cli) -> CommandResult {
    let Cli { globals, command } = cli;
    match command {
        Command::Serve(args) => args.run(&globals).await,
        Command::Register(args) => args.run(&globals).await,
        Command::Discover(args) => args.run(&globals).await,
        Command::SyncHaproxy(args) => args.run(&globals).await,
        Command::Status(args) => args.run(&globals).await,
        Command::Demo(args) => args.run(&globals).await,
        Command::Store(args) => args.run(&globals).await,
        Command::Config(args) => args.run(&globals, commands::SETTINGS).await,
        Command::Completions(args) => args.run(Cli::command()).await,
        Command::Man(args) => args.run(Cli::command()).await,
    }
}
