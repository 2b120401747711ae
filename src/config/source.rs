//! Where settings come from.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::sync::LazyLock;

use super::Setting;
use super::reader::is_within;
use super::setting::MASK;

/// Settings given on the command line: by path, with the flag's name for messages.
#[derive(Clone, Default)]
pub struct Flags {
    given: BTreeMap<String, String>,
    /// Of the flags that were not given too.
    names: BTreeMap<String, Cow<'static, str>>,
}

impl Flags {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a flag in if it was given.
    #[must_use]
    pub fn set(self, path: &str, flag: &'static str, value: Option<impl ToString>) -> Self {
        self.take(path.to_owned(), flag.into(), value.map(|value| value.to_string()))
    }

    /// Takes in flags that are called as their settings under a path are, from [`named!`]: of the
    /// field `max_clients` under `serve`, `--max-clients` and `serve.max-clients`.
    #[must_use]
    pub fn all<const N: usize>(
        self,
        base: &str,
        fields: [(&'static str, Option<String>); N],
    ) -> Self {
        fields.into_iter().fold(self, |flags, (field, value)| {
            let name = field.replace('_', "-");
            flags.take(format!("{base}.{name}"), format!("--{name}").into(), value)
        })
    }

    fn take(mut self, path: String, flag: Cow<'static, str>, value: Option<String>) -> Self {
        self.given.extend(value.map(|value| (path.clone(), value)));
        self.names.insert(path, flag);
        self
    }

    /// The flag that sets a setting, where the command has one.
    pub(super) fn name(&self, path: &str) -> Option<&str> {
        self.names.get(path).map(|name| &**name)
    }

    /// The text and the flag's name of a setting.
    pub(super) fn get(&self, path: &str) -> Option<(&str, Cow<'static, str>)> {
        self.given.get(path).map(String::as_str).zip(self.names.get(path).cloned())
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.given.keys().map(String::as_str)
    }
}

/// Fields of a command's flags with their names, for [`Flags::all`].
macro_rules! named {
    ($($field:ident),* $(,)?) => {
        [$((stringify!($field), $crate::config::FlagText::text(&$field))),*]
    };
}

pub(crate) use named;

/// A flag as the text of its setting; `None` where it was not given.
pub trait FlagText {
    fn text(&self) -> Option<String>;
}

impl FlagText for bool {
    fn text(&self) -> Option<String> {
        self.then(|| self.to_string())
    }
}

impl<T: Setting> FlagText for Option<T> {
    fn text(&self) -> Option<String> {
        self.as_ref().map(T::show)
    }
}

impl<T: FlagText> FlagText for &T {
    fn text(&self) -> Option<String> {
        (*self).text()
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
    File {
        path: PathBuf,
        line: usize,
    },
    Environment(String),
    Flag(Cow<'static, str>),
    /// A setting of another program, translated.
    Foreign {
        name: &'static str,
        place: Place,
    },
}

/// Where another program's setting was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: that program's own default.
    Default,
    Environment,
    File {
        path: PathBuf,
        line: usize,
    },
}

impl Origin {
    /// The line in its file; 0 for what is from none.
    pub(super) fn line(&self) -> usize {
        match self {
            Self::File { line, .. } | Self::Foreign { place: Place::File { line, .. }, .. } => {
                *line
            }
            Self::Default | Self::Environment(_) | Self::Flag(_) | Self::Foreign { .. } => 0,
        }
    }

    /// Whether somebody has written the value.
    pub fn is_written(&self) -> bool {
        !matches!(self, Self::Default | Self::Foreign { place: Place::Default, .. })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
            Self::Foreign { name, place: Place::Default } => write!(f, "default of {name}"),
            Self::Foreign { name, place: Place::Environment } => f.write_str(name),
            Self::Foreign { name, place: Place::File { path, line } } => {
                write!(f, "{}:{line}: {name}", path.display())
            }
        }
    }
}

/// A setting as it holds, for `config show`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    pub path: String,
    /// Masked where it is a secret; `None` where it is not set.
    pub value: Option<String>,
    /// As it stands behind the `=` in a file; `None` where it is not set, or has a secret in it.
    pub written: Option<String>,
    pub origin: Origin,
    /// Of a masked value: tells it from another one, in this process alone.
    pub secret: Option<u64>,
}

impl Effective {
    pub(super) fn new(path: &str, value: Option<&impl Setting>, origin: Origin) -> Self {
        let written = value.and_then(Setting::write);
        let secret = value.filter(|value| value.show().contains(MASK)).map(fingerprint);
        let value = value.map(Setting::show);
        Self { path: path.to_owned(), value, written, origin, secret }
    }

    /// Whether it is this setting, or one of this section.
    pub fn is_of(&self, path: &str) -> bool {
        is_within(&self.path, path)
    }
}

/// With a key that is made at each start, so that nobody can try passwords against it.
fn fingerprint(value: &impl Setting) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEY.hash_one(value.identity())
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
