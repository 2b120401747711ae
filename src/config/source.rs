//! Where settings come from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Settings given on the command line: by path, with the flag's name for messages.
#[derive(Clone, Default)]
pub struct Flags {
    given: BTreeMap<String, String>,
    /// Of the flags that were not given too.
    names: BTreeMap<String, &'static str>,
}

impl Flags {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a flag in if it was given.
    #[must_use]
    pub fn set(mut self, path: &str, flag: &'static str, value: Option<impl ToString>) -> Self {
        self.names.insert(path.to_owned(), flag);
        if let Some(value) = value {
            self.given.insert(path.to_owned(), value.to_string());
        }
        self
    }

    /// The flag that sets a setting, where the command has one.
    pub(super) fn name(&self, path: &str) -> Option<&'static str> {
        self.names.get(path).copied()
    }

    /// The text and the flag's name of a setting.
    pub(super) fn get(&self, path: &str) -> Option<(&str, &'static str)> {
        self.given.get(path).map(String::as_str).zip(self.name(path))
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.given.keys().map(String::as_str)
    }
}

/// Without the values: a password may be among them.
impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.given.keys()).finish()
    }
}

/// Where a setting's value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Environment(String),
    Flag(&'static str),
}

impl Origin {
    /// The line in the file; 0 for what is not from there.
    pub(super) fn line(&self) -> usize {
        match self {
            Self::File { line, .. } => *line,
            Self::Default | Self::Environment(_) | Self::Flag(_) => 0,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A setting as it holds, for `config show`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    pub path: String,
    /// Masked where it is a secret; `None` where it is not set.
    pub value: Option<String>,
    pub origin: Origin,
}

/// The variables that can be settings: `LBCTL_…`. An empty one counts as not set, since that is
/// what compose files and unit files make of a variable without a value.
pub(super) fn variables(
    environment: impl IntoIterator<Item = (String, String)>,
) -> BTreeMap<String, String> {
    environment
        .into_iter()
        .filter(|(name, value)| name.starts_with("LBCTL_") && !value.is_empty())
        .collect()
}

/// `discover.max-drop-percent` → `LBCTL_DISCOVER_MAX_DROP_PERCENT`.
pub(super) fn variable_name(path: &str) -> String {
    let name: String = path
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
        .collect();
    format!("LBCTL_{name}")
}
