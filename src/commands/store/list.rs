use serde::Serialize;

use super::line::{Shown, preview};
use crate::error::CommandResult;
use crate::output::{self, OutputFormat};
use crate::store::{Entry, Listing, Prefix, SharedStore};
use crate::text::lines;

/// List the keys under a prefix, in order
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lbctl store list                       everything
  lbctl store list backends/web          backends/web/…, but not backends/web2/…
  lbctl store list --output json | jq -r '.entries[].key'")]
pub(super) struct Args {
    /// What the keys have in front [default: all keys]
    #[arg(hide_default_value = true, default_value = "/")]
    prefix: Prefix,

    /// A table with the beginning of each value, or JSON with all of it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: OutputFormat,
}

#[derive(Serialize)]
struct Listed {
    revision: u64,
    entries: Vec<Shown>,
}

impl Args {
    pub(super) async fn run(self, store: &SharedStore) -> CommandResult {
        let Self { prefix, output } = self;
        let listing = store.list(&prefix).await?;
        match output {
            OutputFormat::Table => output::print(&table(&listing)),
            OutputFormat::Json => output::print_json(&Listed {
                revision: listing.revision.0,
                entries: listing.entries.iter().map(Shown::of).collect(),
            }),
        }
    }
}

fn table(listing: &Listing) -> String {
    let mut table = output::table(["KEY", "REVISION", "LEASE", "BYTES", "VALUE"]);
    for Entry { key, value, created: _, modified, lease } in &listing.entries {
        let lease = lease.map_or_else(|| "-".to_owned(), |lease| lease.to_string());
        let (revision, bytes) = (modified.to_string(), value.len().to_string());
        table.add_row([lines(key.as_str()), revision, lease, bytes, preview(value)]);
    }
    output::render(&table)
}
