//! HSDO's settings in lbctl's words: a pure translation of its file and variables, and the flag
//! that asks for it.

mod backends;
mod client;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod given;
mod server;
#[cfg(test)]
mod tests;
mod variable;
mod yaml;

use std::path::{Path, PathBuf};

use self::file::HsdoFile;
use self::given::Given;
use self::variable as var;
use super::TableName;
use crate::config::{ConfigError, Globals, Layer};

/// The backend of discover that HSDO's settings make.
const BACKEND: &str = "hsdo";

/// Asks for HSDO's variables without a file.
const VARIABLES_ALONE: &str = "env";

/// Takes HSDO's settings; without it, not one of its variables is looked at, since names such as
/// INTERVAL and DEBUG are everybody's.
#[derive(Debug, Clone, clap::Args)]
pub struct HsdoArgs {
    /// Take HSDO's settings from its conf/env.yaml and its variables, or with "env" from the
    /// variables alone [default: LBCTL_HSDO_CONFIG, if set]
    #[arg(long, value_name = "FILE", help_heading = "Coming from HSDO")]
    hsdo_config: Option<PathBuf>,
}

impl HsdoArgs {
    /// The globals with HSDO's settings under those of the file, where they are asked for.
    pub fn over(&self, globals: &Globals) -> Result<Globals, ConfigError> {
        let named = self.hsdo_config.clone().or_else(|| {
            let name = std::env::var_os("LBCTL_HSDO_CONFIG").filter(|name| !name.is_empty());
            name.map(PathBuf::from)
        });
        let Some(named) = named else { return Ok(globals.clone()) };
        let file = match named.as_path() == Path::new(VARIABLES_ALONE) {
            true => None,
            false => Some(HsdoFile::load(&named, |path| globals.read(path))?),
        };
        // What is not UTF-8 becomes a text that no setting accepts, or is none of ours.
        let environment = std::env::vars_os().map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        });
        Ok(globals.over(translate(file, environment)))
    }
}

/// HSDO's settings as lbctl's.
fn translate(
    file: Option<HsdoFile>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Layer {
    let mut layer = Layer::default();
    let given = Given::gather(file, environment, &mut layer);
    if let Some((true, origin)) = given.boolean(var::DEBUG, "log.level", &mut layer) {
        layer.set("log.level", "debug", origin);
    }
    server::translate(&given, &mut layer);
    client::translate(&given, &mut layer);
    layer
}

/// The settings of a file's text, for tests.
#[cfg(test)]
pub(crate) fn translated(text: &str) -> Layer {
    let file = HsdoFile::parse(Path::new("conf/env.yaml"), text);
    file.map(|file| translate(Some(file), [])).unwrap()
}

/// What HSDO's server and client have in common.
fn translate_common(given: &Given, section: &str, interval: &str, layer: &mut Layer) {
    let path = |name: &str| format!("{section}.{name}");
    translate_table(given, section, layer);
    given.set_seconds(var::INTERVAL, &path(interval), layer);
    translate_region(given, &path("aws-region"), layer);
    translate_exporter(given, &path("admin"), layer);
}

fn translate_table(given: &Given, section: &str, layer: &mut Layer) {
    let path = format!("{section}.hsdo-table");
    let Some((table, origin)) = given.text(var::DYNAMODB_TABLE_NAME, &path, layer) else { return };
    if table.is_empty() {
        return layer.contradiction(&path, &origin, "is not set: name HSDO's DynamoDB table");
    }
    if let Err(problem) = table.parse::<TableName>() {
        return layer.mistake(&path, &origin, problem);
    }
    layer.set(path, table, origin.clone());
    layer.set(format!("{section}.table-layout"), "hsdo", origin);
}

fn translate_region(given: &Given, path: &str, layer: &mut Layer) {
    let Some((region, origin)) = given.text(var::AWS_DEFAULT_REGION, path, layer) else { return };
    if !origin.is_written() {
        layer.warn(path, &origin, format!("is not set: it is {region}, as HSDO is shipped"));
    }
    layer.set(path, region, origin);
}

/// HSDO's exporter listens on every address; lbctl listens on loopback, at a port of its own, unless
/// it is told otherwise, and HSDO's default tells nothing.
fn translate_exporter(given: &Given, path: &str, layer: &mut Layer) {
    let port = given.number(var::EXPORTER_PORT, 1..=65535, path, layer);
    let Some((port, origin)) = port.filter(|(_, origin)| origin.is_written()) else { return };
    let warning = format!(
        "/metrics and /status are served on every address of this host, as HSDO's exporter is: \
         --admin 127.0.0.1:{port} is for this host alone"
    );
    layer.warn(path, &origin, warning);
    layer.set(path, format!("0.0.0.0:{port}"), origin);
}
