//! `lbctl man`.

use crate::config::Globals;
use crate::error::{CommandError, CommandResult, Kind};

/// Write the man pages
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    pub async fn run(self, _globals: &Globals) -> CommandResult {
        Err(CommandError::msg(Kind::Failed, "not built yet"))
    }
}
