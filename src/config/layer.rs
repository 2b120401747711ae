use std::collections::BTreeMap;
use std::fmt;

use super::Origin;
use super::reader::is_within;

/// Settings of another program, translated into this one's: weaker than the file, stronger than the
/// defaults.
#[derive(Clone, Default)]
pub struct Layer {
    settings: BTreeMap<String, (String, Origin)>,
    notes: Vec<Note>,
    spoken: Vec<&'static str>,
}

/// What is to be said of a translated setting, or of one that could not be translated.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    /// The setting here that it is about; empty: said in any case.
    pub path: String,
    pub kind: NoteKind,
    /// In the other program's file; 0 for what is not from there.
    pub line: usize,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoteKind {
    /// Said where the translated value holds.
    Warning,
    /// Missing or contradictory: said where the settings are used and nothing stronger is set.
    Contradiction,
    /// No value at all: said wherever the settings are read.
    Mistake,
}

impl Layer {
    /// Sets a setting to a text as a variable would have it.
    pub fn set(&mut self, path: impl Into<String>, text: impl ToString, origin: Origin) {
        self.settings.insert(path.into(), (text.to_string(), origin));
    }

    /// Says that a section is meant to be used, as the file does by having it.
    pub fn speak_of(&mut self, section: &'static str) {
        self.spoken.push(section);
    }

    /// Records that the other program's setting for `path` is no value.
    pub fn mistake(&mut self, path: &str, origin: &Origin, problem: impl fmt::Display) {
        self.note(path, NoteKind::Mistake, origin, problem);
    }

    /// Records that the other program's setting for `path` is missing or contradicts another.
    pub fn contradiction(&mut self, path: &str, origin: &Origin, problem: impl fmt::Display) {
        self.note(path, NoteKind::Contradiction, origin, problem);
    }

    /// Records what is worth a warning where the setting is used.
    pub fn warn(&mut self, path: &str, origin: &Origin, warning: impl fmt::Display) {
        self.note(path, NoteKind::Warning, origin, warning);
    }

    fn note(&mut self, path: &str, kind: NoteKind, origin: &Origin, text: impl fmt::Display) {
        let text = match origin {
            // Not "default of": nobody has set it, and by this name it can be set.
            Origin::Foreign { name, .. } if !origin.is_written() => format!("{name}: {text}"),
            _ => format!("{origin}: {text}"),
        };
        self.notes.push(Note { path: path.to_owned(), kind, line: origin.line(), text });
    }

    pub(crate) fn get(&self, path: &str) -> Option<&(String, Origin)> {
        self.settings.get(path)
    }

    pub(crate) fn notes(&self) -> &[Note] {
        &self.notes
    }

    pub(crate) fn speaks_of(&self, section: &str) -> bool {
        self.spoken.contains(&section)
    }

    /// Where the first setting under a path comes from.
    pub(super) fn origin_within(&self, path: &str) -> Option<&Origin> {
        let within = self.settings.range(path.to_owned()..);
        let mut within = within.take_while(|(other, _)| other.starts_with(path));
        within.find(|(other, _)| is_within(other, path)).map(|(_, (_, origin))| origin)
    }

    /// How many tables a list has.
    pub(crate) fn tables(&self, path: &str) -> usize {
        let has = |index: &usize| self.origin_within(&format!("{path}[{index}]")).is_some();
        (0..).take_while(has).count()
    }

    #[cfg(test)]
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.settings.keys().map(String::as_str)
    }
}

/// Without the texts: a password may be among them.
impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.settings.keys()).finish()
    }
}
