//! `lbctl config`.

use std::path::PathBuf;

use serde_json::json;

use crate::config::{Effective, Flags, Globals, Reader};
use crate::error::{CommandError, CommandResult};
use crate::output::{self, OutputFormat};
use crate::store::StoreSettings;
use crate::{discover, register, serve, sync_haproxy};

/// Check and show the configuration
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lbctl config check ./lbctl.toml
  LBCTL_SERVE_PORT=5152 lbctl config show")]
pub struct Args {
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with the configuration.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    Check(Check),
    Show(Show),
}

/// Report every mistake in the file and the LBCTL_ variables at once
///
/// Settings that a command cannot do without are asked for only where the file or a variable
/// speaks of that command. Ends with 78 if there is a mistake.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lbctl config check
  lbctl config check ./lbctl.toml && systemctl reload lbctl-discover")]
pub struct Check {
    /// The file [default: that of --config]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Show every setting as it holds, and where it came from
///
/// Secrets are masked. Flags of other commands are not known here, those of all commands are.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lbctl config show
  lbctl --config ./lbctl.toml config show --output json | jq '.[] | select(.from != \"default\")'")]
pub struct Show {
    /// For people or for programs
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: OutputFormat,
}

impl Args {
    pub async fn run(self, globals: &Globals) -> CommandResult {
        let Self { action } = self;
        match action {
            Action::Check(args) => args.run(globals),
            Action::Show(args) => args.run(globals),
        }
    }
}

impl Check {
    fn run(self, globals: &Globals) -> CommandResult {
        let Self { file } = self;
        let settings = match file {
            Some(file) => read(&globals.with_file(file))?,
            None => read(globals)?,
        };
        let set = settings.iter().filter(|s| s.origin != crate::config::Origin::Default).count();
        output::print(&format!("no mistakes; {set} of {} settings are set\n", settings.len()))
    }
}

impl Show {
    fn run(self, globals: &Globals) -> CommandResult {
        let Self { output } = self;
        let settings = read(globals)?;
        match output {
            OutputFormat::Table => output::print(&table(&settings)),
            OutputFormat::Json => output::print_json(&list(&settings)),
        }
    }
}

/// Reads the settings of all commands.
fn read(globals: &Globals) -> Result<Vec<Effective>, CommandError> {
    let mut reader = globals.reader(Flags::new())?;
    StoreSettings::read(&mut reader);
    section(&mut reader, "serve", |reader| drop(serve::Settings::read(reader)));
    // What it registers is said on its command line.
    reader.aside(register::Settings::read);
    section(&mut reader, "discover", |reader| drop(discover::Settings::read(reader)));
    section(&mut reader, "sync-haproxy", |reader| drop(sync_haproxy::Settings::read(reader)));
    Ok(reader.finish()?)
}

/// Reads the settings of one command; strictly only where somebody has set one of them.
fn section(reader: &mut Reader, name: &str, read: impl FnOnce(&mut Reader)) {
    if reader.mentions(name) { read(reader) } else { reader.aside(read) }
}

fn table(settings: &[Effective]) -> String {
    let mut table = output::table(["SETTING", "VALUE", "FROM"]);
    for Effective { path, value, origin } in settings {
        table.add_row([path, value.as_deref().unwrap_or("-"), &origin.to_string()]);
    }
    output::render(&table)
}

fn list(settings: &[Effective]) -> serde_json::Value {
    let one = |Effective { path, value, origin }: &Effective| json!({ "setting": path, "value": value, "from": origin.to_string() });
    settings.iter().map(one).collect()
}
