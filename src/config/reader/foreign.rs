//! What a reader makes of another program's settings, beside taking their values.

use super::{Reader, any_is_within, section_of};
use crate::config::Origin;
use crate::config::layer::{Note, NoteKind};

impl Reader {
    /// Where the setting was given that a problem is about: itself, the section's where a member of a
    /// list has that one's value, or what another program says below it.
    pub(super) fn blamed(&self, path: &str) -> Option<&Origin> {
        let own = self.origin(path).filter(|origin| **origin != Origin::Default);
        if own.is_some() || self.node(path).is_some() {
            return own;
        }
        let common = self.origin(&common_of(path)).filter(|o| matches!(o, Origin::Foreign { .. }));
        common.or_else(|| self.layer.origin_within(path))
    }

    /// Two files that say the same thing would be at odds sooner or later.
    pub(super) fn refuse_clash(&mut self, path: &str, line: usize) {
        let origin = self.layer.origin_within(path).filter(|origin| origin.is_written());
        if let Some(origin) = origin {
            let text = format!("{path} is set here and by {origin}: leave out one of the two");
            self.problem_at(line, &text);
        }
    }

    /// Whether a note on another program's setting is to be said.
    pub(super) fn counts(&self, note: &Note) -> bool {
        let section = section_of(&note.path);
        let is_read = any_is_within(&self.known, section);
        let origin = self.origin(&note.path).unwrap_or(&Origin::Default);
        let holds = matches!(origin, Origin::Default | Origin::Foreign { .. });
        match note.kind {
            _ if section.is_empty() => true,
            NoteKind::Warning => is_read && holds,
            NoteKind::Contradiction => self.used.contains(section) && holds,
            NoteKind::Mistake => is_read,
        }
    }

    /// Whether a note says already why a setting is missing; that of a list's member is missing in
    /// its section, too.
    pub(super) fn explains(&self, note: &Note, path: &str) -> bool {
        let is_meant = note.path == path || note.path == common_of(path);
        is_meant && note.kind != NoteKind::Warning && self.counts(note)
    }
}

/// The setting that holds for a list's member without its own: that of its section.
fn common_of(path: &str) -> String {
    let name = path.rsplit_once('.').map_or(path, |(_, name)| name);
    format!("{}.{name}", section_of(path))
}
