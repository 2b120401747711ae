//! `lbctl config`.

mod target;

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::config::{self, Effective, Flags, Globals, Origin, SECTIONS, SettingsOf};
use crate::error::{CommandError, CommandResult, Kind};
use crate::hsdo::HsdoArgs;
use crate::output;
use crate::store::StoreSettings;

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

    #[command(flatten)]
    pub hsdo: HsdoArgs,
}

/// Show every setting as it holds, and where it came from
///
/// Secrets are masked. Flags of other commands are not known here, those of all commands are.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lbctl config show
  lbctl --config ./lbctl.toml config show --output json | jq '.[] | select(.from != \"default\")'

  # HSDO's settings as a file for lbctl, over the one that has been read
  lbctl config show --hsdo-config conf/env.yaml --to /etc/lbctl/lbctl.toml")]
pub struct Show {
    /// How they are printed
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,

    /// Write them to this file, as toml: whole and at once, be it the file that is read
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,

    #[command(flatten)]
    pub hsdo: HsdoArgs,
}

/// How settings are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people: aligned columns, coloured on a terminal.
    #[default]
    Table,
    /// For programs.
    Json,
    /// As a file that sets what is set now, without the secrets.
    Toml,
}

impl Args {
    /// Runs with the settings that every command reads.
    pub async fn run(self, globals: &Globals, commands: &[SettingsOf]) -> CommandResult {
        let Self { action } = self;
        match action {
            Action::Check(args) => args.run(globals, commands),
            Action::Show(args) => args.run(globals, commands),
        }
    }
}

impl Check {
    fn run(self, globals: &Globals, commands: &[SettingsOf]) -> CommandResult {
        let Self { file, hsdo } = self;
        let globals = hsdo.over(globals)?;
        let settings = match file {
            Some(file) => read(&globals.with_file(file), commands)?.settings,
            None => read(&globals, commands)?.settings,
        };
        let set = settings.iter().filter(|s| s.origin != Origin::Default).count();
        output::print(&format!("no mistakes; {set} of {} settings are set\n", settings.len()))
    }
}

impl Show {
    fn run(self, globals: &Globals, commands: &[SettingsOf]) -> CommandResult {
        let Self { output, to, hsdo } = self;
        let (file, hsdo_file) = (globals.file(), hsdo.file());
        let sources: Vec<&Path> =
            [Some(&*file), hsdo_file.as_deref()].into_iter().flatten().collect();
        if to.is_none() {
            target::refuse_own_stdout(&sources)?;
        }
        let shown = read(&hsdo.over(globals)?, commands)?;
        if let Some(to) = to {
            return write(&to, output, hsdo_file.as_deref(), shown);
        }
        match output {
            Format::Table => output::print(&table(&shown.settings)),
            Format::Json => output::print_json(&list(&shown.settings)),
            Format::Toml => output::print(&config::as_toml(&shown.of_meant_sections())),
        }
    }
}

/// Writes settings as a file, unless that would lose something.
fn write(to: &Path, output: Format, hsdo: Option<&Path>, shown: Shown) -> CommandResult {
    if output == Format::Json {
        return Err(CommandError::usage("--to writes toml, and --output says json"));
    }
    if hsdo.is_some_and(|hsdo| target::is_same(hsdo, to)) {
        let message = format!("{} is HSDO's own file: name one for lbctl with --to", to.display());
        return Err(CommandError::usage(message));
    }
    let settings = shown.of_meant_sections();
    let is_lost = |setting: &&Effective| {
        let of_file = |path: &Path| target::is_same(path, to);
        let from = matches!(&setting.origin, Origin::File { path, .. } if of_file(path));
        from && setting.value.is_some() && setting.written.is_none()
    };
    if let Some(Effective { path, .. }) = settings.iter().find(is_lost) {
        let message = format!(
            "{path} has a secret, which is not written, and {} would lose it",
            to.display()
        );
        return Err(CommandError::msg(Kind::Config, message)
            .hint("write to another file, and add the secret there by hand"));
    }
    Ok(target::replace(to, &config::as_toml(&settings))?)
}

/// The settings of all commands.
struct Shown {
    settings: Vec<Effective>,
    /// The sections that somebody has set something in.
    meant: Vec<&'static str>,
}

impl Shown {
    fn of_meant_sections(self) -> Vec<Effective> {
        let is_meant = |s: &Effective| self.meant.iter().any(|section| s.is_of(section));
        self.settings.iter().filter(|s| is_meant(s)).cloned().collect()
    }
}

/// Reads the settings of all commands.
fn read(globals: &Globals, commands: &[SettingsOf]) -> Result<Shown, CommandError> {
    let mut reader = globals.reader(Flags::new())?;
    let is_meant = |section: &&str| reader.mentions(section) || ["store", "log"].contains(section);
    let meant = SECTIONS.iter().copied().filter(is_meant).collect();
    StoreSettings::read(&mut reader);
    for of in commands {
        // Strictly only where somebody has set one of them.
        let strictly = of.section.is_some_and(|section| reader.mentions(section));
        if strictly { (of.read)(&mut reader) } else { reader.aside(of.read) }
    }
    Ok(Shown { settings: reader.finish()?, meant })
}

fn table(settings: &[Effective]) -> String {
    let mut table = output::table(["SETTING", "VALUE", "FROM"]);
    for Effective { path, value, origin, .. } in settings {
        table.add_row([path, value.as_deref().unwrap_or("-"), &origin.to_string()]);
    }
    output::render(&table)
}

fn list(settings: &[Effective]) -> serde_json::Value {
    let one = |Effective { path, value, origin, .. }: &Effective| json!({ "setting": path, "value": value, "from": origin.to_string() });
    settings.iter().map(one).collect()
}
