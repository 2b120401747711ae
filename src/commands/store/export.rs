use std::ops::ControlFlow;

use super::line::Line;
use crate::error::CommandResult;
use crate::output;
use crate::store::{Prefix, SharedStore};

/// Print every key and value under a prefix, one JSON object a line
///
/// All of it is of one revision. A value is in `value` where it is text and in `value_base64` where
/// it is not. Keys on a lease belong to a running process and would outlive it in a copy, so they
/// are left out unless asked for. An import leaves those of lbctl's own processes out in any case.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lbctl store export > backup.jsonl
  lbctl store export backends | lbctl store --store etcd://10.0.0.1:2379 import")]
pub(super) struct Args {
    /// What the keys have in front [default: all keys]
    #[arg(hide_default_value = true, default_value = "/")]
    prefix: Prefix,

    /// Also the keys on leases; imported, they are on none
    #[arg(long)]
    include_leased: bool,
}

impl Args {
    pub(super) async fn run(self, store: &SharedStore) -> CommandResult {
        let Self { prefix, include_leased } = self;
        let listing = store.list(&prefix).await?;
        let (mut lines, mut left_out) = (Vec::new(), 0);
        for entry in &listing.entries {
            if entry.lease.is_some() && !include_leased {
                left_out += 1;
                continue;
            }
            serde_json::to_writer(&mut lines, &Line::of(entry)).map_err(anyhow::Error::new)?;
            lines.push(b'\n');
        }
        if left_out > 0 {
            let keys = super::keys(left_out);
            tracing::warn!("left out {keys} on a lease: --include-leased takes them along");
        }
        match output::write(&lines)? {
            ControlFlow::Continue(()) | ControlFlow::Break(()) => Ok(()),
        }
    }
}
