//! `lbctl sync-haproxy`.

#![allow(dead_code, reason = "the driver follows")]

mod desired;
mod names;
mod plan;
mod predict;
mod problem;
mod table;
mod target;
#[cfg(test)]
mod testing;

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
