use std::io::{IsTerminal as _, stdout};
use std::ops::ControlFlow;

use super::line::Shown;
use crate::error::{CommandError, CommandResult, Kind};
use crate::output::{self, OutputFormat};
use crate::store::{Key, SharedStore};

/// Print one value, byte for byte
///
/// A newline is added only on a terminal. A key that is not there is an error (exit code 1).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lbctl store get backends/web/spec
  lbctl store get logo > logo.png
  lbctl store get backends/web/slots/00001 --output json    with revisions and lease")]
pub(super) struct Args {
    /// The key
    key: Key,

    /// The value alone, or a JSON object with all that is known of it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: OutputFormat,
}

impl Args {
    pub(super) async fn run(self, store: &SharedStore) -> CommandResult {
        let Self { key, output } = self;
        let entry = store.get(&key).await?.ok_or_else(|| no_key(&key))?;
        if output == OutputFormat::Json {
            return output::print_json(&Shown::of(&entry));
        }
        let mut bytes = entry.value.to_vec();
        if stdout().is_terminal() && !bytes.ends_with(b"\n") {
            bytes.push(b'\n');
        }
        match output::write(&bytes)? {
            ControlFlow::Continue(()) | ControlFlow::Break(()) => Ok(()),
        }
    }
}

pub(super) fn no_key(key: &Key) -> CommandError {
    CommandError::msg(Kind::Failed, format!("there is no key {:?} in the store", key.as_str()))
        .hint("see what there is: lbctl store list")
}
