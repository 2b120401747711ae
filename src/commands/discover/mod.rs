//! `lbctl discover`: keeps the slot table equal to what the sources see.

mod apply;
mod backend;
mod driver;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod hsdo;
mod output;
pub mod plan;
mod report;
mod reports;
mod settings;
mod shared;
pub mod sources;

pub use settings::{BackendSettings, Confirm, Settings};

use crate::config::{Effective, Flags, Globals, named};
use crate::daemon::{self, DaemonArgs, Reload};
use crate::error::{CommandError, CommandResult, Kind};
use crate::hsdo::{HsdoArgs, LayoutFlags};
use crate::output::{OutputFormat, print, print_json};
use output::PlannedBackend;

/// What a SIGHUP does not change.
const FIXED: &[&str] = &[
    "store",
    "log.format",
    "discover.id",
    "discover.ttl",
    "discover.admin",
    "discover.admin-hosts",
    "discover.shutdown-grace",
];

const EXAMPLES: &str = "\
Examples:
  # One backend, filled by servers that register themselves
  lbctl discover --backend web --source registry --slots 10

  # From a file that people or a deployment write
  lbctl discover --backend web --source file:/etc/lbctl/web.toml --slots 10

  # From DNS: addresses of a name with a port, or its SRV records
  lbctl discover --backend web --source dns:web.example.com:8080 --slots 10
  lbctl discover --backend web --source dns:_http._tcp.example.com --slots 10

  # The instances of AWS Auto Scaling groups, by name or by tag
  lbctl discover --backend web --source asg:web-a,web-b --port 8080 --slots 50
  lbctl discover --backend web --source asg:tag:service=web --slots 50

  # From Consul: the instances of services that pass their checks
  lbctl discover --backend web --source consul:web --slots 10

  # Many backends, as [[discover.backends]] of a file
  lbctl discover --config /etc/lbctl/lbctl.toml

  # In place of HSDO's server, beside HSDO's clients
  lbctl discover --backend web --source file:/etc/lbctl/web.json --slots 10 \\
      --table-layout hsdo --hsdo-table hsdo-web

  # In place of HSDO's server, as HSDO is set
  lbctl discover --hsdo-config conf/env.yaml

  # What would change?
  lbctl discover --config /etc/lbctl/lbctl.toml --dry-run";

/// Keep the slot table equal to what the sources see
///
/// Several copies may run; for each backend one of them leads. A server keeps its slot; a new one
/// takes the lowest free slot and its weight ramps up. One that leaves is drained; its slot rests
/// before another server may have it. An error or an empty answer of a source changes nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The backend to fill; with --config, only this one of the file
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,

    /// Where its endpoints come from: registry, file:PATH (.toml, .json, .yaml), dns:NAME:PORT,
    /// dns:NAME, asg:NAME,… (AWS Auto Scaling groups) or consul:SERVICE,…
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,

    /// How many slots the table has: as many as each HAProxy has places for servers
    #[arg(long, value_name = "N")]
    slots: Option<String>,

    /// Plan once, write it, and end
    #[arg(long)]
    once: bool,

    /// Print the plan and write nothing
    #[arg(long)]
    dry_run: bool,

    /// How the plan of --once or --dry-run is printed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: OutputFormat,

    #[command(flatten)]
    tuning: Tuning,

    #[command(flatten)]
    hsdo: HsdoArgs,

    #[command(flatten)]
    daemon: DaemonArgs,
}

/// What may differ from backend to backend; a flag wins over the file.
#[derive(Debug, Clone, clap::Args)]
struct Tuning {
    /// The weight a new server starts with [default: 10, or the maximum if that is less]
    #[arg(long, value_name = "WEIGHT", help_heading = "Ramp")]
    min_weight: Option<String>,

    /// The weight a server ends at, unless its source gives it one [default: 100]
    #[arg(long, value_name = "WEIGHT", help_heading = "Ramp")]
    max_weight: Option<String>,

    /// How much the weight grows at a time [default: 10]
    #[arg(long, value_name = "WEIGHT", help_heading = "Ramp")]
    weight_step: Option<String>,

    /// How long the weight stays before it grows [default: 10s]
    #[arg(long, value_name = "DURATION", help_heading = "Ramp")]
    weight_interval: Option<String>,

    /// How long a freed slot rests before another server may have it [default: 10s]
    #[arg(long, value_name = "DURATION", help_heading = "Slots")]
    rest: Option<String>,

    /// How long a server may drain before its slot is freed all the same [default: 30s]
    #[arg(long, value_name = "DURATION", help_heading = "Slots")]
    drain_deadline: Option<String>,

    /// How long a server drains even if no HAProxy has a session on it: for clients that come back
    /// to their server, as with cookies [default: 0s]
    #[arg(long, value_name = "DURATION", help_heading = "Slots")]
    drain_at_least: Option<String>,

    /// Refuse to remove more of the servers than this within --drop-window [default: 50]
    #[arg(long, value_name = "PERCENT", help_heading = "Safety")]
    max_drop_percent: Option<String>,

    /// Refuse to remove servers below this many [default: 1]
    #[arg(long, value_name = "N", help_heading = "Safety")]
    min_servers: Option<String>,

    /// Remove whatever the source no longer sees, be it everything
    #[arg(long, help_heading = "Safety")]
    allow_drop: bool,

    /// How long a removed server counts for --max-drop-percent [default: 1m]
    #[arg(long, value_name = "DURATION", help_heading = "Safety")]
    drop_window: Option<String>,

    /// So many looks in a row must miss a server before a refused removal is done [default: 3]
    #[arg(long, value_name = "N", help_heading = "Safety")]
    confirm_passes: Option<String>,

    /// How far apart those looks are [default: 10s]
    #[arg(long, value_name = "DURATION", help_heading = "Safety")]
    confirm_interval: Option<String>,

    #[command(flatten)]
    sources: sources::SourceFlags,

    #[command(flatten)]
    layout: LayoutFlags,

    /// Who this copy is in elections, for people [default: <host>-<process id>]
    #[arg(long, value_name = "ID", help_heading = "Daemon options")]
    id: Option<String>,

    /// After this time without a sign of life from the leading copy another takes over [default: 10s]
    #[arg(long, value_name = "DURATION", help_heading = "Daemon options")]
    ttl: Option<String>,
}

impl Args {
    pub async fn run(self, globals: &Globals) -> CommandResult {
        let Self { backend, source, slots, once, dry_run, output, tuning, hsdo, daemon: flags } =
            self;
        let given = Given { backend, source, slots, tuning, daemon: flags };
        let globals = globals.clone();
        let (settings, reload) = Reload::start(FIXED, move || given.read(&hsdo.over(&globals)?))?;
        if dry_run {
            return show(output, &driver::dry_run(settings).await?);
        }
        if once {
            return finish_once(output, &driver::run_once(settings).await?);
        }
        let options = settings.daemon.clone();
        daemon::run("discover", options, move |context| driver::run(settings, context, reload))
            .await
    }
}

/// The flags that are settings; kept, since a reload reads the file under them again.
#[derive(Debug, Clone)]
struct Given {
    backend: Option<String>,
    source: Option<String>,
    slots: Option<String>,
    tuning: Tuning,
    daemon: DaemonArgs,
}

impl Given {
    fn read(&self, globals: &Globals) -> CommandResult<(Settings, Vec<Effective>)> {
        let mut reader =
            globals.reader_of_list("discover.backends", |members| self.flags(members))?;
        let settings = Settings::read(&mut reader);
        Ok((settings, reader.finish()?))
    }

    /// A flag is a setting of each backend of the file.
    fn flags(&self, members: &[String]) -> Flags {
        let Tuning { id, ttl, .. } = &self.tuning;
        let flags = self.daemon.clone().flags("discover", Flags::new());
        let flags = flags
            .set("discover.backend", "--backend", self.backend.as_ref())
            .all("discover", named![id, ttl]);
        let bases = members.iter().map(String::as_str).chain(["discover"]);
        bases.fold(flags, |flags, base| self.settings_of(base, flags))
    }

    /// What may differ from backend to backend.
    fn settings_of(&self, base: &str, flags: Flags) -> Flags {
        let Self { backend: _, source, slots, tuning, daemon: _ } = self;
        let Tuning {
            min_weight,
            max_weight,
            weight_step,
            weight_interval,
            rest,
            drain_deadline,
            drain_at_least,
            max_drop_percent,
            min_servers,
            allow_drop,
            drop_window,
            confirm_passes,
            confirm_interval,
            sources,
            layout,
            id: _,
            ttl: _,
        } = tuning;
        layout.set(base, sources.set(base, flags)).all(
            base,
            named![
                source,
                slots,
                min_weight,
                max_weight,
                weight_step,
                weight_interval,
                rest,
                drain_deadline,
                drain_at_least,
                max_drop_percent,
                min_servers,
                allow_drop,
                drop_window,
                confirm_passes,
                confirm_interval
            ],
        )
    }
}

fn show(format: OutputFormat, plans: &[PlannedBackend]) -> CommandResult {
    match format {
        OutputFormat::Table => print(&output::text(plans)),
        OutputFormat::Json => print_json(&plans),
    }
}

/// What is refused fails the command, once what could be done is done.
fn finish_once(format: OutputFormat, plans: &[PlannedBackend]) -> CommandResult {
    show(format, plans)?;
    let refused = plans.iter().find_map(|p| Some((&p.backend, p.plan.refused.as_ref()?)));
    match refused {
        None => Ok(()),
        Some((backend, refused)) => {
            Err(CommandError::msg(Kind::Failed, format!("backend {backend}: refused: {refused}"))
                .hint("--allow-drop removes them all the same"))
        }
    }
}
