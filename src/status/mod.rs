//! `lbctl status`.

use crate::config::Globals;
use crate::error::{CommandError, CommandResult, Kind};

/// Show tables, servers, HAProxys and leaders
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    pub async fn run(self, _globals: &Globals) -> CommandResult {
        Err(CommandError::msg(Kind::Failed, "not built yet"))
    }
}
