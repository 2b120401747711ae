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
use std::time::Duration;

use self::file::HsdoFile;
use self::given::Given;
use self::variable as var;
use super::TableName;
use crate::config::{ConfigError, Globals, Layer, Origin};
use crate::model::{BackendName, format_duration};

/// The backend where HSDO's own settings name no table.
const UNNAMED: &str = "hsdo";

/// The variable that names the backend.
const BACKEND_VARIABLE: &str = "LBCTL_HSDO_BACKEND";

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

    /// The backend of lbctl's that HSDO's table becomes [default: LBCTL_HSDO_BACKEND, if set, else
    /// the table's own name]
    #[arg(long, value_name = "NAME", help_heading = "Coming from HSDO")]
    hsdo_backend: Option<BackendName>,
}

/// What HSDO's table is called as a backend of lbctl's, and where that was set.
#[derive(Debug)]
struct Named {
    name: String,
    origin: Origin,
    /// Why it is no name.
    problem: Option<String>,
}

impl Named {
    /// Its own name, which no other HSDO in the same store has, unless another is chosen.
    fn read(given: &Given, chosen: Option<(String, Origin)>) -> Self {
        // What is no table's name is told where the table is read.
        let table = || {
            let text = given.text(var::DYNAMODB_TABLE_NAME, "", &mut Layer::default());
            text.filter(|(name, _)| name.parse::<TableName>().is_ok())
        };
        let Some((name, origin)) = chosen.or_else(table) else {
            let (_, origin) = given.value(var::DYNAMODB_TABLE_NAME);
            return Self { name: UNNAMED.to_owned(), origin, problem: None };
        };
        match name.parse::<BackendName>() {
            Ok(_) => Self { name, origin, problem: None },
            Err(error) => {
                let problem = format!("{error}: give the backend another with --hsdo-backend");
                Self { name: UNNAMED.to_owned(), origin, problem: Some(problem) }
            }
        }
    }

    fn set(&self, path: &str, layer: &mut Layer) {
        let Self { name, origin, problem } = self;
        if let Some(problem) = problem {
            layer.mistake(path, origin, problem);
        }
        layer.set(path, name, origin.clone());
    }
}

impl HsdoArgs {
    /// The globals with HSDO's settings under those of the file, where they are asked for.
    pub fn over(&self, globals: &Globals) -> Result<Globals, ConfigError> {
        let Some(named) = self.named() else { return Ok(globals.clone()) };
        let file = match named.as_path() == Path::new(VARIABLES_ALONE) {
            true => None,
            false => Some(HsdoFile::load(&named, |path| globals.read(path))?),
        };
        // What is not UTF-8 becomes a text that no setting accepts, or is none of ours.
        let environment = std::env::vars_os().map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        });
        Ok(globals.over(translate(file, environment, self.chosen()?)))
    }

    /// HSDO's own file, where there is one.
    pub fn file(&self) -> Option<PathBuf> {
        self.named().filter(|named| named != Path::new(VARIABLES_ALONE))
    }

    fn named(&self) -> Option<PathBuf> {
        self.hsdo_config.clone().or_else(|| {
            let name = std::env::var_os("LBCTL_HSDO_CONFIG").filter(|name| !name.is_empty());
            name.map(PathBuf::from)
        })
    }

    /// The backend's name that somebody has chosen.
    fn chosen(&self) -> Result<Option<(String, Origin)>, ConfigError> {
        if let Some(name) = &self.hsdo_backend {
            return Ok(Some((name.to_string(), Origin::Flag("--hsdo-backend".into()))));
        }
        let Some(name) = std::env::var_os(BACKEND_VARIABLE).filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        match name.to_string_lossy().parse::<BackendName>() {
            Ok(name) => Ok(Some((name.to_string(), Origin::Environment(BACKEND_VARIABLE.into())))),
            Err(error) => Err(ConfigError(vec![format!("{BACKEND_VARIABLE}: {error}")])),
        }
    }
}

/// HSDO's settings as lbctl's.
fn translate(
    file: Option<HsdoFile>,
    environment: impl IntoIterator<Item = (String, String)>,
    chosen: Option<(String, Origin)>,
) -> Layer {
    let mut layer = Layer::default();
    let given = Given::gather(file, environment, &mut layer);
    // It moves no server, so that whoever wrote a true in any way may have it.
    if let Some((text, origin)) = given.text(var::DEBUG, "log.level", &mut layer)
        && text.eq_ignore_ascii_case("true")
    {
        layer.set("log.level", "debug", origin);
    }
    let named = Named::read(&given, chosen);
    server::translate(&given, &named, &mut layer);
    client::translate(&given, &named, &mut layer);
    layer
}

/// The settings of a file's text, for tests.
#[cfg(test)]
pub(crate) fn translated(text: &str) -> Layer {
    let file = HsdoFile::parse(Path::new("conf/env.yaml"), text);
    file.map(|file| translate(Some(file), [], None)).unwrap()
}

/// What HSDO's server and client have in common.
fn translate_common(
    given: &Given,
    section: &str,
    (interval, least): (&str, Duration),
    layer: &mut Layer,
) {
    let path = |name: &str| format!("{section}.{name}");
    translate_table(given, section, layer);
    if let Some((time, origin)) = given.interval(least, &path(interval), layer) {
        layer.set(path(interval), format_duration(time), origin);
    }
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
    let port = given.number(var::EXPORTER_PORT, 0..=65535, path, layer);
    let Some((port, origin)) = port.filter(|(_, origin)| origin.is_written()) else { return };
    let warning = format!(
        "/metrics and /status are served on every address of this host, as HSDO's exporter is: \
         --admin 127.0.0.1:{port} is for this host alone"
    );
    layer.warn(path, &origin, warning);
    layer.set(path, format!("0.0.0.0:{port}"), origin);
}
