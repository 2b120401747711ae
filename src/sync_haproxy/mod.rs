//! `lbctl sync-haproxy`.

use crate::config::Globals;
use crate::error::{CommandError, CommandResult, Kind};

/// Keep one HAProxy equal to the slot table, without a reload
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    pub async fn run(self, _globals: &Globals) -> CommandResult {
        Err(CommandError::msg(Kind::Failed, "not built yet"))
    }
}
