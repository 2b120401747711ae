//! `lbctl man`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap_mangen::Man;

use crate::error::CommandResult;
use crate::output;

/// Write the man pages
///
/// With a folder, one page for each command; without, the page of lbctl itself on stdout.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lbctl man | man -l -
  lbctl man /usr/local/share/man/man1")]
pub struct Args {
    /// The folder to write lbctl.1, lbctl-serve.1, … into; made if it is not there
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

impl Args {
    /// Runs for the command line of `lbctl`.
    pub async fn run(self, lbctl: clap::Command) -> CommandResult {
        let Self { dir } = self;
        let mut command = lbctl.disable_help_subcommand(true);
        command.build();
        match dir {
            None => output::print(&page(command)?),
            Some(dir) => {
                std::fs::create_dir_all(&dir)
                    .with_context(|| format!("cannot make the folder {}", dir.display()))?;
                Ok(write_pages(&command, &dir)?)
            }
        }
    }
}

/// A page for a command and, in the same way, for each of its subcommands.
fn write_pages(command: &clap::Command, dir: &Path) -> anyhow::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let path = dir.join(format!("{name}.1"));
    std::fs::write(&path, page(command.clone())?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    command.get_subcommands().try_for_each(|subcommand| write_pages(subcommand, dir))
}

fn page(command: clap::Command) -> anyhow::Result<String> {
    let mut page = Vec::new();
    Man::new(command).manual("lbctl manual").render(&mut page)?;
    Ok(String::from_utf8(page)?)
}
