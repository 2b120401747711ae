//! `lbctl completions`.

use clap_complete::Shell;

use crate::error::CommandResult;
use crate::output;

/// Print a shell's completion script
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lbctl completions bash > /etc/bash_completion.d/lbctl
  lbctl completions zsh > /usr/local/share/zsh/site-functions/_lbctl
  lbctl completions fish > ~/.config/fish/completions/lbctl.fish
  source <(lbctl completions bash)    # this shell only")]
pub struct Args {
    /// For which shell
    #[arg(value_enum)]
    pub shell: Shell,
}

impl Args {
    /// Runs for the command line of `lbctl`.
    pub async fn run(self, mut lbctl: clap::Command) -> CommandResult {
        let Self { shell } = self;
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut lbctl, "lbctl", &mut script);
        output::print(&String::from_utf8_lossy(&script))
    }
}
