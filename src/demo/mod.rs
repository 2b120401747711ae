//! `lbctl demo`.

use crate::config::Globals;
use crate::error::{CommandError, CommandResult, Kind};

/// Play the whole thing on this machine
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    pub async fn run(self, _globals: &Globals) -> CommandResult {
        Err(CommandError::msg(Kind::Failed, "not built yet"))
    }
}
