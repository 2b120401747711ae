//! `lbctl sync-haproxy`: keeps one HAProxy equal to the slot tables of the store.
//!
//! [`desired`] says what each slot is to be, [`plan`] what to send next, both pure; [`pass`] talks
//! to HAProxy, [`feed`] to the store, and [`driver`] decides when.

mod changed;
pub mod desired;
mod driver;
mod dump;
mod effects;
mod feed;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod lines;
mod metrics;
mod names;
mod once;
mod others;
mod pass;
pub mod plan;
pub mod predict;
pub mod problem;
mod report;
mod rows;
mod settings;
mod target;
#[cfg(test)]
mod testing;

use std::path::PathBuf;

use crate::config::{Effective, Flags, Globals, named};
use crate::daemon::{self, DaemonArgs, Reload};
use crate::error::CommandResult;
use crate::hsdo::{HsdoArgs, LayoutFlags};
use crate::output::OutputFormat;
pub use crate::tables::{Held, Left, Table, TableError};
pub use feed::{View, Views};
pub use pass::{Engine, Pass};
pub(crate) use settings::Settings;
use target::ModeName;
pub use target::{Filter, Licence, Mode, Selector, Target};

/// Keep one HAProxy equal to the slot table, without a reload
///
/// Runs beside each HAProxy. It reads the table that `lbctl discover` writes, compares it with what
/// HAProxy itself says, and sends only what differs over HAProxy's Runtime API. Several backends
/// are written in the configuration as [[sync-haproxy.backends]]; --from, --mode, --port,
/// --end-sessions and --server-options then hold for each of them, the last one for those in dynamic
/// mode.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// HAProxy's socket of level admin: PATH, HOST:PORT, abns@NAME, or master:ADDRESS for the master CLI
    #[arg(long, value_name = "SOCKET")]
    socket: Option<String>,

    /// The HAProxy backend to fill, and what its servers' names begin with
    #[arg(long, value_name = "HABACKEND[/PREFIX]")]
    backend: Option<String>,

    /// The table to fill it from: the backend's name in discover [default with --table-layout hsdo: HSDO's table's]
    #[arg(long, value_name = "NAME")]
    from: Option<String>,

    /// How servers come to be in HAProxy [default: slots]
    #[arg(long, value_name = "MODE")]
    mode: Option<ModeName>,

    /// Connect to this port in place of each server's own
    #[arg(long, value_name = "PORT")]
    port: Option<String>,

    /// Keep the port of each place in HAProxy's configuration, and set addresses alone
    #[arg(long)]
    keep_port: bool,

    /// Further words for `add server` in dynamic mode [default: check]
    #[arg(long, value_name = "WORDS")]
    server_options: Option<String>,

    /// Let the table's servers displace those that lbctl did not place
    #[arg(long)]
    take_over: bool,

    /// Let servers leave of which the table says nothing, as when its records were lost
    #[arg(long)]
    allow_drop: bool,

    /// Cut the sessions that a server still has when its time to drain is over
    #[arg(long)]
    end_sessions: bool,

    /// The name this HAProxy reports under [default: the host's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Time between two comparisons of everything [default: 10s]
    #[arg(long, value_name = "DURATION")]
    resync: Option<String>,

    /// Keep this file as HAProxy's `server-state-file`, so that a reload begins with the servers
    #[arg(long, value_name = "FILE")]
    dump_state: Option<PathBuf>,

    /// Make HAProxy equal to the table, then end
    #[arg(long)]
    once: bool,

    /// Print what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,

    /// How --dry-run prints
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: OutputFormat,

    #[command(flatten)]
    layout: LayoutFlags,

    /// How often HSDO's table is read [default: 1s]
    #[arg(long, value_name = "DURATION", help_heading = "HSDO's table")]
    table_poll: Option<String>,

    /// The region of HSDO's table [default: that of AWS_REGION, the profile or the instance]
    #[arg(long, value_name = "REGION", help_heading = "HSDO's table")]
    aws_region: Option<String>,

    #[command(flatten)]
    hsdo: HsdoArgs,

    #[command(flatten)]
    daemon: DaemonArgs,
}

const EXAMPLES: &str = "\
Examples:
  # HAProxy has: backend app
  #                server-template srv 1-10 127.0.0.2:80 check disabled
  lbctl sync-haproxy --socket /run/haproxy/admin.sock --backend app/srv --from web

  # What would it do?
  lbctl sync-haproxy --socket /run/haproxy/admin.sock --backend app --from web --dry-run

  # No places in the configuration: servers are added and deleted (HAProxy 2.6 and later)
  lbctl sync-haproxy --socket 127.0.0.1:9999 --backend app --from web --mode dynamic \\
      --server-options 'check inter 2s'

  # In place of HSDO's client, beside HSDO's server
  lbctl sync-haproxy --socket /run/haproxy/admin.sock --backend app/srv --port 80 \\
      --table-layout hsdo --hsdo-table hsdo-web

  # In place of HSDO's client, as HSDO is set
  lbctl sync-haproxy --hsdo-config conf/env.yaml

Exit codes: 0 done, 1 not converged, 69 the store or HAProxy is unavailable, 78 configuration.";

/// What a SIGHUP does not change.
const FIXED: &[&str] = &[
    "store",
    "log.format",
    "sync-haproxy.admin",
    "sync-haproxy.admin-hosts",
    "sync-haproxy.shutdown-grace",
    "sync-haproxy.report-ttl",
];

impl Args {
    pub async fn run(self, globals: &Globals) -> CommandResult {
        let Self {
            socket,
            backend,
            from,
            mode,
            port,
            keep_port,
            server_options,
            take_over,
            allow_drop,
            end_sessions,
            name,
            resync,
            dump_state,
            once,
            dry_run,
            output,
            layout,
            table_poll,
            aws_region,
            hsdo,
            daemon,
        } = self;
        let flags = Flags::new().all(
            "sync-haproxy",
            named![socket, backend, name, resync, dump_state, table_poll, aws_region],
        );
        let flags = layout.set("sync-haproxy", flags);
        let flags = daemon.flags("sync-haproxy", flags);
        let of_backend = BackendFlags {
            from,
            mode,
            port,
            keep_port,
            server_options,
            take_over,
            allow_drop,
            end_sessions,
        };
        let globals = globals.clone();
        let (settings, reload) =
            Reload::start(FIXED, move || read(&hsdo.over(&globals)?, &flags, &of_backend))?;
        if !dry_run && !once {
            let options = settings.daemon.clone();
            let body = |context| Box::pin(driver::run(context, settings, reload));
            return daemon::run("sync-haproxy", options, body).await;
        }
        if dry_run {
            let store = settings.store.open_to_read().await?;
            return Box::pin(once::preview(&settings, &store, output)).await;
        }
        let store = settings.store.open().await?;
        Box::pin(once::converge(&settings, &store)).await
    }
}

/// The flags that are settings of each backend; they win over the file.
#[derive(Debug)]
struct BackendFlags {
    from: Option<String>,
    mode: Option<ModeName>,
    port: Option<String>,
    keep_port: bool,
    server_options: Option<String>,
    take_over: bool,
    allow_drop: bool,
    end_sessions: bool,
}

impl BackendFlags {
    fn set(&self, base: &str, flags: Flags) -> Flags {
        let Self {
            from,
            mode,
            port,
            keep_port,
            server_options,
            take_over,
            allow_drop,
            end_sessions,
        } = self;
        flags.all(
            base,
            named![
                from,
                mode,
                port,
                keep_port,
                server_options,
                take_over,
                allow_drop,
                end_sessions
            ],
        )
    }
}

fn read(
    globals: &Globals,
    flags: &Flags,
    of_backend: &BackendFlags,
) -> CommandResult<(Settings, Vec<Effective>)> {
    let mut reader = globals.reader_of_list("sync-haproxy.backends", |members| {
        let bases = members.iter().map(String::as_str).chain(["sync-haproxy"]);
        bases.fold(flags.clone(), |flags, base| of_backend.set(base, flags))
    })?;
    let settings = Settings::read(&mut reader);
    let slots = settings.targets.iter().filter(|target| target.mode == Mode::Slots).count();
    // Beside backends of the file it is for those that are dynamic.
    if of_backend.server_options.is_some() && slots > 0 && slots == settings.targets.len() {
        let message = "--server-options does nothing without --mode dynamic: give that too, or \
                       take it out";
        // No line of the file is to blame.
        reader.problem("--server-options", message);
    }
    Ok((settings, reader.finish()?))
}
