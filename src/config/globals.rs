use std::path::PathBuf;

use super::{ConfigError, Flags, Reader};
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

impl Globals {
    /// A reader over the file, this process's environment and a command's flags, `--store` added.
    pub fn reader(&self, flags: Flags) -> Result<Reader, ConfigError> {
        // A variable that is not UTF-8 is none of ours.
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let flags = flags.set("store.url", "--store", self.store.as_ref());
        Reader::load(self.config.as_deref(), environment, flags)
    }
}
