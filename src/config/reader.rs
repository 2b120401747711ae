use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use super::file::{self, Node, Value};
use super::{Kind, Setting};
use crate::error::{CommandError, Kind as ErrorKind};

/// Read when it is there and `--config` was not given.
pub const DEFAULT_FILE: &str = "/etc/lbctl/lbctl.toml";

/// Settings given on the command line: by path, with the flag's name for messages.
#[derive(Debug, Clone, Default)]
pub struct Flags(BTreeMap<String, (String, &'static str)>);

impl Flags {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a flag in if it was given.
    #[must_use]
    pub fn set(mut self, path: &str, flag: &'static str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            self.0.insert(path.to_owned(), (value.to_string(), flag));
        }
        self
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

/// Every mistake found, one a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        Self::new(ErrorKind::Config, error)
    }
}

/// Reads settings by path and gathers mistakes; [`Reader::finish`] reports them all.
#[derive(Debug)]
pub struct Reader {
    file: Option<PathBuf>,
    tree: Node,
    environment: BTreeMap<String, String>,
    flags: Flags,
    used: BTreeSet<String>,
    problems: Vec<(usize, String)>,
    effective: Vec<Effective>,
}

impl Reader {
    /// Loads the file: the given one, which must be there, or the default one if it is there.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: Flags,
    ) -> Result<Self, ConfigError> {
        let (path, required) = match file {
            Some(path) => (path, true),
            None => (Path::new(DEFAULT_FILE), false),
        };
        let (file, text) = match std::fs::read_to_string(path) {
            Ok(text) => (Some(path.to_owned()), text),
            Err(error) if !required && error.kind() == std::io::ErrorKind::NotFound => {
                (None, String::new())
            }
            Err(error) => {
                return Err(ConfigError(vec![format!("cannot read {}: {error}", path.display())]));
            }
        };
        let (tree, syntax) = file::parse(&text);
        let mut reader = Self {
            file,
            tree,
            environment: environment
                .into_iter()
                .filter(|(name, _)| name.starts_with("LBCTL_"))
                .collect(),
            flags,
            used: BTreeSet::new(),
            problems: Vec::new(),
            effective: Vec::new(),
        };
        for error in syntax {
            let message = reader.at_line(error.line, &error.message);
            reader.problems.push((error.line, message));
        }
        Ok(reader)
    }

    /// A setting with a default.
    pub fn get<T: Setting>(&mut self, path: &str, default: T) -> T {
        match self.lookup(path) {
            Some(value) => value,
            None => {
                if !self.used.contains(path) {
                    self.note(path, Some(default.show()), Origin::Default);
                }
                default
            }
        }
    }

    /// A setting without one.
    pub fn find<T: Setting>(&mut self, path: &str) -> Option<T> {
        let value = self.lookup(path);
        if value.is_none() && !self.used.contains(path) {
            self.note(path, None, Origin::Default);
        }
        value
    }

    /// A setting that must be there; its absence is a mistake that names every way to set it.
    pub fn require<T: Setting>(&mut self, path: &str) -> Option<T> {
        let value = self.lookup(path);
        if value.is_none() && !self.used.contains(path) {
            self.problem(path, format!("{path} is not set"));
        }
        value
    }

    /// The members of a list of tables, as paths: `discover.backends[0]`, ….
    pub fn tables(&mut self, path: &str) -> Vec<String> {
        let Some(node) = self.node(path) else {
            return Vec::new();
        };
        let line = node.line;
        let count = match &node.value {
            Value::List(items) if items.iter().all(|i| matches!(i.value, Value::Table(_))) => {
                items.len()
            }
            _ => {
                self.used.insert(path.to_owned());
                let message =
                    self.at_line(line, &format!("{path} must be written as [[{path}]] tables"));
                self.problems.push((line, message));
                return Vec::new();
            }
        };
        (0..count).map(|index| format!("{path}[{index}]")).collect()
    }

    /// Records a contradiction, at the line or other origin of the setting it is about.
    pub fn problem(&mut self, path: &str, message: impl fmt::Display) {
        let origin = self.effective.iter().find(|e| e.path == path).map(|e| e.origin.clone());
        let line = self.nearest_line(path);
        let text = match origin {
            Some(Origin::Environment(_) | Origin::Flag(_)) | None if line.is_none() => {
                format!("{message}")
            }
            Some(origin @ (Origin::Environment(_) | Origin::Flag(_))) => {
                format!("{origin}: {message}")
            }
            _ => self.at_line(line.unwrap_or(0), &message.to_string()),
        };
        self.problems.push((line.unwrap_or(0), text));
    }

    /// Every mistake at once, unknown keys of the sections that were read among them; or every
    /// setting that was read.
    pub fn finish(mut self) -> Result<Vec<Effective>, ConfigError> {
        let mut unknown = Vec::new();
        if let Value::Table(sections) = &self.tree.value {
            for (name, node) in sections {
                let read =
                    self.used.iter().chain(self.effective.iter().map(|e| &e.path)).any(|p| {
                        p == name
                            || p.starts_with(&format!("{name}."))
                            || p.starts_with(&format!("{name}["))
                    });
                if read {
                    self.unknown(name, node, &mut unknown);
                } else if !super::SECTIONS.contains(&name.as_str()) {
                    unknown.push((node.line, format!("unknown setting {name}")));
                }
            }
        }
        for (line, message) in unknown {
            let message = self.at_line(line, &message);
            self.problems.push((line, message));
        }
        if self.problems.is_empty() {
            return Ok(self.effective);
        }
        self.problems.sort();
        self.problems.dedup();
        Err(ConfigError(self.problems.into_iter().map(|(_, message)| message).collect()))
    }

    fn lookup<T: Setting>(&mut self, path: &str) -> Option<T> {
        let (found, origin) = self.written::<T>(path)?;
        self.used.insert(path.to_owned());
        match found.and_then(|text| T::parse(&text)) {
            Ok(value) => {
                self.note(path, Some(value.show()), origin);
                Some(value)
            }
            Err(problem) => {
                let line = match origin {
                    Origin::File { line, .. } => line,
                    _ => 0,
                };
                self.problems.push((line, format!("{origin}: {path}: {problem}")));
                None
            }
        }
    }

    /// The text of a setting from the strongest source that has it.
    fn written<T: Setting>(&self, path: &str) -> Option<(Result<String, String>, Origin)> {
        if let Some((text, flag)) = self.flags.0.get(path) {
            return Some((Ok(text.clone()), Origin::Flag(flag)));
        }
        let name = environment_name(path);
        if let Some(text) = self.environment.get(&name) {
            return Some((Ok(text.clone()), Origin::Environment(name)));
        }
        let node = self.node(path)?;
        let origin = Origin::File { path: self.file.clone().unwrap_or_default(), line: node.line };
        Some((text_of(node, T::KINDS), origin))
    }

    fn note(&mut self, path: &str, value: Option<String>, origin: Origin) {
        if !self.effective.iter().any(|e| e.path == path) {
            self.effective.push(Effective { path: path.to_owned(), value, origin });
        }
    }

    fn node(&self, path: &str) -> Option<&Node> {
        let mut node = &self.tree;
        for part in path.split('.') {
            let (name, index) = match part.split_once('[') {
                Some((name, rest)) => (name, rest.strip_suffix(']')?.parse::<usize>().ok()),
                None => (part, None),
            };
            let Value::Table(members) = &node.value else {
                return None;
            };
            node = members.get(name)?;
            if let Some(index) = index {
                let Value::List(items) = &node.value else {
                    return None;
                };
                node = items.get(index)?;
            }
        }
        Some(node)
    }

    /// The line of a path, or of the nearest thing above it that is written.
    fn nearest_line(&self, path: &str) -> Option<usize> {
        let mut path = path;
        loop {
            if let Some(node) = self.node(path) {
                return Some(node.line);
            }
            path = path.rsplit_once('.')?.0;
        }
    }

    fn at_line(&self, line: usize, message: &str) -> String {
        match &self.file {
            Some(file) if line > 0 => format!("{}:{line}: {message}", file.display()),
            _ => message.to_owned(),
        }
    }

    fn unknown(&self, path: &str, node: &Node, found: &mut Vec<(usize, String)>) {
        if self.used.contains(path) {
            return;
        }
        match &node.value {
            Value::Table(members) => {
                for (name, member) in members {
                    self.unknown(&format!("{path}.{name}"), member, found);
                }
            }
            Value::List(items) if items.iter().any(|i| matches!(i.value, Value::Table(_))) => {
                for (index, item) in items.iter().enumerate() {
                    self.unknown(&format!("{path}[{index}]"), item, found);
                }
            }
            Value::Scalar { .. } | Value::List(_) => {
                found.push((node.line, format!("unknown setting {path}")));
            }
        }
    }
}

/// `discover.max-drop-percent` → `LBCTL_DISCOVER_MAX_DROP_PERCENT`.
fn environment_name(path: &str) -> String {
    let name: String = path
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
        .collect();
    format!("LBCTL_{name}")
}

fn text_of(node: &Node, kinds: &[Kind]) -> Result<String, String> {
    match &node.value {
        Value::Scalar { text, kind: Some(kind) } if kinds.contains(kind) => Ok(text.clone()),
        // One text where a list may stand is a list of one.
        Value::Scalar { text, kind: Some(Kind::Text) } if kinds.contains(&Kind::List) => {
            Ok(text.clone())
        }
        Value::List(items) if kinds.contains(&Kind::List) => {
            let texts: Result<Vec<String>, String> =
                items.iter().map(|item| text_of(item, &[Kind::Text, Kind::Integer])).collect();
            Ok(texts?.join(","))
        }
        Value::Scalar { .. } | Value::List(_) | Value::Table(_) => Err(format!(
            "must be {}",
            kinds.iter().map(|k| wanted(*k)).collect::<Vec<_>>().join(" or ")
        )),
    }
}

fn wanted(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "a text in quotes",
        Kind::Integer => "a whole number",
        Kind::Float => "a number",
        Kind::Bool => "true or false",
        Kind::List => "a list of texts",
    }
}
