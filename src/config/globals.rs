use std::path::PathBuf;

use crate::daemon::telemetry::LogFormat;

/// What every command takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Globals {
    /// Read settings from this TOML file [default: /etc/lbctl/lbctl.toml, if there]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,

    /// Where the shared state is: sqlite:PATH, etcd://HOST:PORT[,HOST:PORT]/PREFIX, etcds://… for
    /// TLS, or memory:
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options")]
    pub store: Option<String>,

    /// How log lines look
    #[arg(long, global = true, value_name = "FORMAT", help_heading = "Global options")]
    pub log_format: Option<LogFormat>,

    /// Say more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,

    /// Say only warnings; twice for nothing
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "verbose", help_heading = "Global options")]
    pub quiet: u8,
}
