//! Keys and variables that set nothing, and what was probably meant.

use std::collections::BTreeSet;

use super::SECTIONS;
use super::document::{Node, Value};
use super::reader::any_is_within;
use super::source::variable_name;

/// Variables that are no settings: the log filter and the files' names.
const OTHER_VARIABLES: &[&str] = &["LBCTL_LOG", "LBCTL_CONFIG", "LBCTL_HSDO_CONFIG"];

/// How alike two names are, from 0 to 1, for one to be taken for the other.
const ALIKE: f64 = 0.7;

/// What was asked for: anything else under a section that was read is a mistake.
pub(super) struct Unknown<'a> {
    pub known: &'a BTreeSet<String>,
    pub known_lists: &'a BTreeSet<String>,
}

impl Unknown<'_> {
    /// The mistakes in the file's keys, with their lines. Sections of other commands, which this
    /// one did not read, are passed over.
    pub fn keys(&self, tree: &Node) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let Value::Table(sections) = &tree.value else { return found };
        for (name, node) in sections {
            if self.is_read(name) {
                self.walk(&quoted(name), node, &mut found);
            } else if !SECTIONS.contains(&name.as_str()) {
                let sections = SECTIONS.iter().copied().chain(self.members(""));
                found.push((node.line, unknown_setting(&quoted(name), nearest(name, sections))));
            }
        }
        found
    }

    /// A warning for each variable that sets nothing.
    pub fn variables<'n>(&self, names: impl Iterator<Item = &'n String>) -> Vec<String> {
        let settings: BTreeSet<String> = self.paths().map(variable_name).collect();
        let is_other =
            |name: &str| OTHER_VARIABLES.contains(&name) || name.starts_with("LBCTL_TEST_");
        names
            .filter(|name| !settings.contains(*name) && !is_other(name))
            .filter(|name| !is_other_section(self, name))
            .map(|name| {
                let guess = nearest(name, settings.iter().map(String::as_str));
                let guess = guess.map_or(String::new(), |near| format!(": did you mean {near}?"));
                format!("the variable {name} sets nothing{guess}")
            })
            .collect()
    }

    fn walk(&self, path: &str, node: &Node, found: &mut Vec<(usize, String)>) {
        let is_list = self.known_lists.contains(path);
        if self.known.contains(path) {
            return;
        }
        match &node.value {
            Value::List(items) if is_list => {
                let tables = items.iter().enumerate().filter(|(_, i)| i.is_table());
                for (index, item) in tables {
                    self.walk(&format!("{path}[{index}]"), item, found);
                }
            }
            // The reader has said already that it must be a list of tables.
            _ if is_list => {}
            Value::Table(members) if self.is_read(path) => {
                for (name, member) in members {
                    self.walk(&format!("{path}.{}", quoted(name)), member, found);
                }
            }
            _ if self.is_read(path) => {
                found.push((node.line, format!("{path} must be a table, as in [{path}]")));
            }
            _ => found.push((node.line, unknown_setting(path, self.nearest_sibling(path)))),
        }
    }

    fn is_read(&self, path: &str) -> bool {
        any_is_within(self.known, path) || any_is_within(self.known_lists, path)
    }

    fn paths(&self) -> impl Iterator<Item = &str> {
        self.known.iter().map(String::as_str).filter(|path| !path.contains('['))
    }

    /// The names that stand directly under a path.
    fn members(&self, above: &str) -> impl Iterator<Item = &str> {
        let start = if above.is_empty() { String::new() } else { format!("{above}.") };
        self.known
            .iter()
            .chain(self.known_lists)
            .filter_map(move |known| known.strip_prefix(start.as_str())?.split(['.', '[']).next())
    }

    fn nearest_sibling(&self, path: &str) -> Option<String> {
        let (above, name) = path.rsplit_once('.')?;
        nearest(name, self.members(above)).map(|near| format!("{above}.{near}"))
    }
}

/// Whether a variable belongs to a section that this command did not read.
fn is_other_section(unknown: &Unknown<'_>, name: &str) -> bool {
    let section = SECTIONS
        .iter()
        .filter(|section| name.starts_with(&format!("{}_", variable_name(section))))
        .max_by_key(|section| section.len());
    section.is_some_and(|section| !unknown.is_read(section))
}

fn unknown_setting(path: &str, meant: Option<String>) -> String {
    let guess = meant.map_or(String::new(), |meant| format!(": did you mean {meant}?"));
    format!("unknown setting {path}{guess}")
}

/// The name that was probably meant.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    candidates
        .map(|candidate| (strsim::normalized_damerau_levenshtein(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate.to_owned())
}

/// A key as it must be written: one with a dot of its own is no path.
fn quoted(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.chars().all(is_bare) {
        name.to_owned()
    } else {
        format!("{name:?}")
    }
}
