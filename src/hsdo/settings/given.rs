use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::file::HsdoFile;
use super::variable::{self as var, ALL, Variable};
use super::yaml::Value;
use crate::config::{Layer, Origin, Place, nearest};
use crate::model::format_duration;

/// What HSDO was set to.
#[derive(Debug)]
pub struct Given(BTreeMap<&'static str, (Value, Origin)>);

impl Given {
    /// The file's settings with the environment's over them. Blank ones count as not set.
    pub fn gather(
        file: Option<HsdoFile>,
        environment: impl IntoIterator<Item = (String, String)>,
        layer: &mut Layer,
    ) -> Self {
        let mut given = BTreeMap::new();
        let HsdoFile { path, entries } = file.unwrap_or_default();
        for entry in entries {
            let place = Place::File { path: path.clone(), line: entry.line };
            match ALL.iter().find(|variable| variable.name == entry.key) {
                Some(Variable { name, .. }) => {
                    given.insert(*name, (entry.value, Origin::Foreign { name, place }));
                }
                None => warn_of_unknown(&entry.key, &path, entry.line, layer),
            }
        }
        for (name, value) in environment {
            let known = ALL.iter().find(|variable| variable.name == name);
            if let Some(Variable { name, .. }) = known.filter(|_| !value.trim().is_empty()) {
                let origin = Origin::Foreign { name, place: Place::Environment };
                given.insert(*name, (Value::Text(value), origin));
            }
        }
        given.retain(|_, (value, _)| !matches!(value, Value::Text(text) if text.trim().is_empty()));
        Self(given)
    }

    /// Whether any of them has another value than HSDO is shipped with.
    pub fn differs(&self, prefix: &str) -> bool {
        let shipped = |name: &str| ALL.iter().find(|v| v.name == name).map_or("", |v| v.shipped);
        let ours = self.0.iter().filter(|(name, _)| name.starts_with(prefix));
        let mut ours = ours.map(|(name, (value, _))| (name, value));
        ours.any(|(name, value)| match value {
            Value::Text(text) => !text.trim().eq_ignore_ascii_case(shipped(name)),
            Value::Bool(value) => value.to_string() != shipped(name),
            Value::Map(_) | Value::List => true,
        })
    }

    /// A setting's value, where it is set, and where it is or could be.
    pub fn value(&self, variable: Variable) -> (Option<&Value>, Origin) {
        let Variable { name, .. } = variable;
        match self.0.get(name) {
            Some((value, origin)) => (Some(value), origin.clone()),
            None => (None, Origin::Foreign { name, place: Place::Default }),
        }
    }

    /// The text of a setting, as shipped where it is not set. `None`: it is no text, which is noted
    /// for lbctl's setting `path`; the same holds for all below.
    pub fn text(
        &self,
        variable: Variable,
        path: &str,
        layer: &mut Layer,
    ) -> Option<(String, Origin)> {
        let (value, origin) = self.value(variable);
        match value {
            Some(Value::Text(text)) => Some((text.trim().to_owned(), origin)),
            Some(Value::Bool(value)) => Some((value.to_string(), origin)),
            None => Some((variable.shipped.to_owned(), origin)),
            Some(Value::Map(_) | Value::List) => {
                layer.mistake(path, &origin, "must be one text or number");
                None
            }
        }
    }

    fn parse<T>(
        &self,
        variable: Variable,
        path: &str,
        layer: &mut Layer,
        parse: impl FnOnce(&str) -> Option<T>,
        wanted: &str,
    ) -> Option<(T, Origin)> {
        let (text, origin) = self.text(variable, path, layer)?;
        let value = parse(&text);
        if value.is_none() {
            layer.mistake(path, &origin, format!("{text:?} is not {wanted}"));
        }
        Some((value?, origin))
    }

    pub fn number(
        &self,
        variable: Variable,
        range: RangeInclusive<u32>,
        path: &str,
        layer: &mut Layer,
    ) -> Option<(u32, Origin)> {
        let wanted = match range.end() {
            &u32::MAX => format!("a whole number of {} or more", range.start()),
            end => format!("a whole number from {} to {end}", range.start()),
        };
        let parse = |text: &str| text.parse().ok().filter(|number| range.contains(number));
        self.parse(variable, path, layer, parse, &wanted)
    }

    /// Whether a setting is on, as HSDO reads it: it compares with the text "true", so that one in
    /// capitals or without quotes is off, and so is a "yes". What looks like a yes is warned of.
    pub fn boolean(
        &self,
        variable: Variable,
        path: &str,
        layer: &mut Layer,
    ) -> Option<(bool, Origin)> {
        let (value, origin) = self.value(variable);
        let (is_on, shown) = match value {
            None => (false, None),
            Some(Value::Text(text)) if text == "true" => (true, None),
            Some(Value::Text(text)) if is_no(text) => (false, None),
            Some(Value::Text(text)) => (false, Some(format!("{text:?}"))),
            Some(Value::Bool(value)) => (false, value.then(|| "true without quotes".to_owned())),
            Some(Value::Map(_) | Value::List) => {
                layer.mistake(path, &origin, "must be the text \"true\" or \"false\"");
                return None;
            }
        };
        if let Some(shown) = shown {
            let warning =
                format!("is {shown}, which is off to HSDO, and so here: only \"true\" is on");
            layer.warn(path, &origin, warning);
        }
        Some((is_on, origin))
    }

    /// A time in seconds, which may have a fraction and be none at all.
    pub fn seconds(
        &self,
        variable: Variable,
        path: &str,
        layer: &mut Layer,
    ) -> Option<(Duration, Origin)> {
        let parse = |text: &str| Duration::try_from_secs_f64(text.parse().ok()?).ok();
        self.parse(variable, path, layer, parse, "a time in seconds")
    }

    /// HSDO's pause between two loops. It takes a shorter one than lbctl's least, down to none.
    pub fn interval(
        &self,
        least: Duration,
        path: &str,
        layer: &mut Layer,
    ) -> Option<(Duration, Origin)> {
        let (time, origin) = self.seconds(var::INTERVAL, path, layer)?;
        if time < least {
            let (time, least) = (format_duration(time), format_duration(least));
            let warning =
                format!("is {time}, and it is {least} here: the shortest that lbctl takes");
            layer.warn(path, &origin, warning);
        }
        Some((time.max(least), origin))
    }

    /// Names separated by commas, each once.
    pub fn names(
        &self,
        variable: Variable,
        path: &str,
        layer: &mut Layer,
    ) -> Option<(Vec<String>, Origin)> {
        let (text, origin) = self.text(variable, path, layer)?;
        let mut names: Vec<String> = Vec::new();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if names.iter().all(|other| other != name) {
                names.push(name.to_owned());
            }
        }
        Some((names, origin))
    }
}

/// Whether a text is one that people write for a no; a blank one is not set.
fn is_no(text: &str) -> bool {
    ["false", "no", "off", "0", "none"].iter().any(|no| text.trim().eq_ignore_ascii_case(no))
}

/// A misspelt name must not be passed over in silence; what a later HSDO may have is no mistake.
fn warn_of_unknown(name: &str, path: &Path, line: usize, layer: &mut Layer) {
    let guess = nearest(name, ALL.iter().map(|variable| variable.name));
    let guess = guess.map_or(String::new(), |near| format!(": did you mean {near}?"));
    let origin = Origin::File { path: path.to_owned(), line };
    layer.warn("", &origin, format!("{name:?} is no setting of HSDO{guess}"));
}
