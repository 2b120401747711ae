//! Reading settings by path, and gathering every mistake on the way.

mod foreign;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::document::{Document, Node, Value, read};
use super::layer::{Layer, NoteKind};
use super::source::{Effective, Flags, Origin, variable_name, variables};
use super::unknown::Unknown;
use super::{Kind, Setting, setting};
use crate::error::{CommandError, Kind as ErrorKind};

/// Every mistake found, one a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        match error.0.len() {
            1 => Self::new(ErrorKind::Config, error),
            // Each on a line of its own, where an editor finds `file:line:` at the start.
            mistakes => {
                let text = format!("the configuration has {mistakes} mistakes:\n{error}");
                Self::msg(ErrorKind::Config, text)
            }
        }
    }
}

/// Reads settings by path and gathers mistakes; [`Reader::finish`] reports them all.
pub struct Reader {
    document: Document,
    layer: Arc<Layer>,
    environment: BTreeMap<String, String>,
    flags: Flags,
    /// Every path that was asked for, whatever was found.
    known: BTreeSet<String>,
    /// Every list of tables that was asked for.
    known_lists: BTreeSet<String>,
    problems: Vec<(usize, String)>,
    warnings: BTreeSet<String>,
    effective: Vec<Effective>,
    /// Where each path stands among them.
    noted: HashMap<String, usize>,
    aside: bool,
    /// The sections that were read otherwise.
    used: BTreeSet<String>,
}

/// Without what was read: a password may be among it.
impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("effective", &self.effective).finish_non_exhaustive()
    }
}

/// What stands in a variable's text for bytes that are not UTF-8.
const NO_UTF8: char = char::REPLACEMENT_CHARACTER;

impl Reader {
    /// Loads the file: the given one, which must be there, or the default one if it is there.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: Flags,
    ) -> Result<Self, ConfigError> {
        Ok(Self::new(Document::load(file, read)?, environment, flags))
    }

    pub(super) fn new(
        document: Document,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: Flags,
    ) -> Self {
        let mut reader = Self {
            document,
            layer: Arc::default(),
            environment: variables(environment),
            flags,
            known: BTreeSet::new(),
            known_lists: BTreeSet::new(),
            problems: Vec::new(),
            warnings: BTreeSet::new(),
            effective: Vec::new(),
            noted: HashMap::new(),
            aside: false,
            used: BTreeSet::new(),
        };
        for mistake in std::mem::take(&mut reader.document.mistakes) {
            reader.problem_at(mistake.line, &mistake.message);
        }
        reader
    }

    /// Puts another program's settings between the defaults and the file.
    #[must_use]
    pub fn over(self, layer: Arc<Layer>) -> Self {
        Self { layer, ..self }
    }

    /// A setting with a default.
    pub fn get<T: Setting>(&mut self, path: &str, default: T) -> T {
        match self.lookup(path) {
            Found::Value(value) => value,
            Found::Mistake => default,
            Found::Nothing => {
                self.note(path, Some(&default), Origin::Default);
                default
            }
        }
    }

    /// A setting without one.
    pub fn find<T: Setting>(&mut self, path: &str) -> Option<T> {
        match self.lookup(path) {
            Found::Value(value) => Some(value),
            Found::Mistake => None,
            Found::Nothing => {
                self.note(path, None::<&T>, Origin::Default);
                None
            }
        }
    }

    /// A setting that must be there; its absence is a mistake that names the ways to set it.
    pub fn require<T: Setting>(&mut self, path: &str) -> Option<T> {
        match self.lookup(path) {
            Found::Value(value) => Some(value),
            Found::Mistake => None,
            Found::Nothing => {
                self.problem(path, format!("{path} is not set{}", self.ways(path)));
                self.note(path, None::<&T>, Origin::Default);
                None
            }
        }
    }

    /// How to set a setting, as the end of a sentence.
    fn ways(&self, path: &str) -> String {
        if path.contains('[') {
            return String::new();
        }
        let flag = self.flags.name(path).map(|flag| format!("give {flag}, "));
        format!(": {}set it in the file, or {}", flag.unwrap_or_default(), variable_name(path))
    }

    /// Where a setting's value came from, once it was read; `None` for a mistake.
    pub fn origin(&self, path: &str) -> Option<&Origin> {
        self.noted.get(path).and_then(|place| Some(&self.effective.get(*place)?.origin))
    }

    /// The members of a list of tables, as paths: `discover.backends[0]`, ….
    pub fn tables(&mut self, path: &str) -> Vec<String> {
        self.known_lists.insert(path.to_owned());
        let members = |count| (0..count).map(|index| format!("{path}[{index}]")).collect();
        let Some(Node { line, value }) = self.node(path) else {
            return members(self.layer.tables(path));
        };
        let line = *line;
        match value {
            Value::List(items) if items.iter().all(Node::is_table) => {
                let members = members(items.len());
                self.refuse_clash(path, line);
                members
            }
            _ => {
                self.problem_at(line, &format!("{path} must be written as [[{path}]] tables"));
                Vec::new()
            }
        }
    }

    /// Whether the file, the environment or a flag says anything about a section.
    pub fn mentions(&self, section: &str) -> bool {
        let variables = format!("{}_", variable_name(section));
        self.node(section).is_some()
            || self.layer.speaks_of(section)
            || self.environment.keys().any(|name| name.starts_with(&variables))
            || self.flags.paths().any(|path| is_within(path, section))
    }

    /// Reads for the sake of the values: what is missing or contradicts is passed over, since
    /// nobody uses these settings now. A value of a wrong type is a mistake all the same.
    pub fn aside<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.aside, true);
        let value = read(self);
        self.aside = before;
        value
    }

    /// Records a contradiction, at the line or other origin of the setting it is about.
    pub fn problem(&mut self, path: &str, message: impl fmt::Display) {
        if self.aside || self.layer.notes().iter().any(|note| self.explains(note, path)) {
            return;
        }
        match self.blamed(path) {
            None | Some(Origin::File { .. }) => {}
            Some(origin) => {
                let problem = (origin.line(), format!("{origin}: {message}"));
                return self.problems.push(problem);
            }
        }
        let line = self.nearest_line(path).unwrap_or(0);
        self.problem_at(line, &message.to_string());
    }

    /// Notes what is worth a warning; the same from several sections is said once.
    pub fn warn(&mut self, message: &str) {
        self.warnings.insert(message.to_owned());
    }

    /// Every mistake at once, unknown keys of the sections that were read among them; or every
    /// setting that was read. Variables that set nothing are only warned of, since a container
    /// platform may have put them there.
    pub fn finish(mut self) -> Result<Vec<Effective>, ConfigError> {
        for note in self.layer.clone().notes() {
            match note.kind {
                _ if !self.counts(note) => {}
                NoteKind::Warning => self.warn(&note.text),
                NoteKind::Contradiction | NoteKind::Mistake => {
                    self.problems.push((note.line, note.text.clone()));
                }
            }
        }
        let unknown = Unknown { known: &self.known, known_lists: &self.known_lists };
        let mistakes = unknown.keys(&self.document.tree);
        for warning in unknown.variables(self.environment.keys()).iter().chain(&self.warnings) {
            tracing::warn!("{warning}");
        }
        for (line, message) in mistakes {
            self.problem_at(line, &message);
        }
        if self.problems.is_empty() {
            return Ok(self.effective);
        }
        self.problems.sort();
        self.problems.dedup();
        Err(ConfigError(self.problems.into_iter().map(|(_, message)| message).collect()))
    }

    /// The value from the strongest source; a mistake in a weaker one is a mistake too.
    fn lookup<T: Setting>(&mut self, path: &str) -> Found<T> {
        self.known.insert(path.to_owned());
        if !self.aside {
            self.used.insert(section_of(path).to_owned());
        }
        // Of a list's members it is said once, of the list.
        if let Some(line) = self.node(path).map(|node| node.line).filter(|_| !path.contains('[')) {
            self.refuse_clash(path, line);
        }
        let mut found = Found::Nothing;
        for (text, origin) in self.written::<T>(path) {
            let text = text.and_then(|text| match (&origin, text.contains(NO_UTF8)) {
                (Origin::Environment(_), true) => Err("it is not UTF-8".into()),
                _ => Ok(text),
            });
            match text.and_then(|text| T::parse(&text)) {
                Ok(value) if matches!(found, Found::Nothing) => {
                    self.note(path, Some(&value), origin);
                    found = Found::Value(value);
                }
                Ok(_) => {}
                Err(problem) => {
                    let line = origin.line();
                    self.problems.push((line, format!("{origin}: {path}: {problem}")));
                    found = Found::Mistake;
                }
            }
        }
        found
    }

    /// The texts of a setting, the strongest source first.
    fn written<T: Setting>(&self, path: &str) -> Vec<(Result<String, String>, Origin)> {
        let mut texts = Vec::new();
        if let Some((text, flag)) = self.flags.get(path) {
            texts.push((Ok(text.to_owned()), Origin::Flag(flag)));
        }
        let name = variable_name(path);
        // A member of a list of tables has no variable: its name would be guesswork.
        if let Some(text) = self.environment.get(&name).filter(|_| !path.contains('[')) {
            texts.push((Ok(text.clone()), Origin::Environment(name)));
        }
        if let Some(node) = self.node(path) {
            let file = self.document.path.clone().unwrap_or_default();
            let origin = Origin::File { path: file, line: node.line };
            texts.push((text_of(node, T::KINDS), origin));
        }
        if let Some((text, origin)) = self.layer.get(path) {
            texts.push((Ok(text.clone()), origin.clone()));
        }
        texts
    }

    fn note(&mut self, path: &str, value: Option<&impl Setting>, origin: Origin) {
        if !self.noted.contains_key(path) {
            self.noted.insert(path.to_owned(), self.effective.len());
            self.effective.push(Effective::new(path, value, origin));
        }
    }

    fn node(&self, path: &str) -> Option<&Node> {
        path.split('.').try_fold(&self.document.tree, |node, part| {
            let (name, index) = match part.split_once('[') {
                Some((name, rest)) => (name, Some(rest.strip_suffix(']')?.parse().ok()?)),
                None => (part, None),
            };
            let Value::Table(members) = &node.value else { return None };
            let member = members.get(name)?;
            let Some(index): Option<usize> = index else { return Some(member) };
            let Value::List(items) = &member.value else { return None };
            items.get(index)
        })
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

    fn problem_at(&mut self, line: usize, message: &str) {
        let text = match &self.document.path {
            Some(file) if line > 0 => format!("{}:{line}: {message}", file.display()),
            _ => message.to_owned(),
        };
        self.problems.push((line, text));
    }
}

/// What the sources say of a setting.
enum Found<T> {
    Value(T),
    Nothing,
    /// Recorded already.
    Mistake,
}

/// Whether a path is the given one or below it.
pub(super) fn is_within(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Whether one of these paths is the given one or below it.
pub(super) fn any_is_within(paths: &BTreeSet<String>, above: &str) -> bool {
    let begins = |start: String| {
        paths.range(start.clone()..).next().is_some_and(|path| path.starts_with(&start))
    };
    paths.contains(above) || begins(format!("{above}.")) || begins(format!("{above}["))
}

fn section_of(path: &str) -> &str {
    path.split(['.', '[']).next().unwrap_or(path)
}

fn text_of(node: &Node, kinds: &[Kind]) -> Result<String, String> {
    match &node.value {
        Value::Scalar { text, kind: Some(kind) } if kinds.contains(kind) => Ok(text.clone()),
        // One text where a list may stand is a list of one.
        Value::Scalar { text, kind: Some(Kind::Text) } if kinds.contains(&Kind::List) => {
            Ok(setting::join([text.as_str()]))
        }
        Value::List(items) if kinds.contains(&Kind::List) => {
            let texts = items.iter().map(|item| text_of(item, &[Kind::Text, Kind::Integer]));
            let texts: Vec<String> = texts
                .collect::<Result<_, _>>()
                .map_err(|problem| format!("each item {problem}"))?;
            Ok(setting::join(texts.iter().map(String::as_str)))
        }
        Value::Scalar { .. } | Value::List(_) | Value::Table(_) => {
            let wanted: Vec<&str> = kinds.iter().map(|kind| kind.wanted()).collect();
            Err(format!("must be {}", wanted.join(" or ")))
        }
    }
}
