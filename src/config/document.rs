//! The configuration file as a tree of texts that know their lines.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, Kind};
use crate::files;

/// Read when it is there and no file was named.
pub const DEFAULT_FILE: &str = "/etc/lbctl/lbctl.toml";

/// Far over what thousands of backends need: a wrong path (a log, a device) ends here.
const MAX_BYTES: u64 = 8 << 20;

/// How long a pipe in place of a file (`--config <(…)`) may take to end.
const PIPE_TIME: Duration = Duration::from_secs(5);

/// A parsed file, or the absence of the default one.
#[derive(Debug, Clone)]
pub(super) struct Document {
    pub path: Option<PathBuf>,
    pub tree: Node,
    pub mistakes: Vec<SyntaxError>,
}

impl Document {
    /// Loads the named file, which must be there, or the default one if it is there.
    pub fn load(
        named: Option<&Path>,
        read: impl FnOnce(&Path) -> std::io::Result<String>,
    ) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match read(path) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => {
                return Err(ConfigError(vec![format!("cannot read {}: {error}", path.display())]));
            }
        };
        Ok(Self { path: Some(path.to_owned()), ..Self::parse(&text) })
    }

    /// Parses a text; what can be read is kept beside the mistakes.
    fn parse(text: &str) -> Self {
        let lines = Lines::new(text);
        let (table, errors) = DeTable::parse_recoverable(text);
        let mistakes = errors
            .into_iter()
            .map(|error| SyntaxError {
                line: error.span().map_or(1, |span| lines.of(&span)),
                message: error.message().to_owned(),
            })
            .collect();
        Self { path: None, tree: lines.table(&table), mistakes }
    }
}

impl Default for Document {
    fn default() -> Self {
        Self::parse("")
    }
}

/// A value of the file, with its line (from 1).
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub line: usize,
    pub value: Value,
}

impl Node {
    pub fn is_table(&self) -> bool {
        matches!(self.value, Value::Table(_))
    }
}

#[derive(Clone)]
pub(super) enum Value {
    Scalar { text: String, kind: Option<Kind> },
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
}

/// Without the texts: a password may be among them.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar { kind, .. } => f.debug_tuple("Scalar").field(kind).finish(),
            Self::List(items) => f.debug_list().entries(items).finish(),
            Self::Table(members) => f.debug_map().entries(members).finish(),
        }
    }
}

/// A mistake in the file's syntax.
#[derive(Debug, Clone)]
pub(super) struct SyntaxError {
    pub line: usize,
    pub message: String,
}

/// Reads a configuration file, which is a text of a bounded length, or a pipe that gives one.
pub fn read(path: &Path) -> std::io::Result<String> {
    let bytes = files::read_stream(path, MAX_BYTES, PIPE_TIME)?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        std::io::Error::other(format!("line {line} is not UTF-8"))
    })
}

/// Turns byte offsets into line numbers.
struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    fn new(text: &str) -> Self {
        let after_newlines =
            text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
        Self { starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    fn of(&self, span: &Range<usize>) -> usize {
        self.starts.partition_point(|start| *start <= span.start)
    }

    fn table(&self, table: &Spanned<DeTable<'_>>) -> Node {
        let members = table.get_ref().iter().map(|(key, value)| {
            let mut node = self.node(value);
            // A key's own line is where a person looks, also for a table or a long list.
            node.line = self.of(&key.span());
            (key.get_ref().to_string(), node)
        });
        Node { line: self.of(&table.span()), value: Value::Table(members.collect()) }
    }

    fn node(&self, value: &Spanned<DeValue<'_>>) -> Node {
        let line = self.of(&value.span());
        let scalar = |text: String, kind| Value::Scalar { text, kind };
        let value = match value.get_ref() {
            DeValue::String(text) => scalar(text.to_string(), Some(Kind::Text)),
            DeValue::Integer(number) => {
                let text = match i128::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => number.to_string(),
                    Err(_) => number.as_str().to_owned(),
                };
                scalar(text, Some(Kind::Integer))
            }
            DeValue::Float(number) => scalar(number.as_str().to_owned(), Some(Kind::Float)),
            DeValue::Boolean(value) => scalar(value.to_string(), Some(Kind::Bool)),
            DeValue::Datetime(instant) => scalar(instant.to_string(), None),
            DeValue::Array(items) => {
                Value::List(items.iter().map(|item| self.node(item)).collect())
            }
            DeValue::Table(members) => {
                return self.table(&Spanned::new(value.span(), members.clone()));
            }
        };
        Node { line, value }
    }
}
