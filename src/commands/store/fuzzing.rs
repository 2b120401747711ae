//! What an export, or what poses as one, may hold.

use bytes::Bytes;

use super::line::{Line, preview, read_all};
use crate::store::{Entry, Revision};
use crate::text::one_line;

/// What is accepted comes back from its own export.
pub fn import_lines(data: &[u8]) {
    let shown = preview(data);
    assert_eq!(one_line(&shown), shown, "a terminal would obey it");
    let entries = match read_all(data) {
        Ok(Ok(entries)) => entries,
        Ok(Err(bad)) => return assert!(bad.count > 0 && !bad.first.is_empty()),
        Err(error) => panic!("a slice fails to read: {error}"),
    };
    let mut export = Vec::new();
    for (key, value) in &entries {
        let (key, value) = (key.clone(), Bytes::copy_from_slice(value));
        let (created, modified) = (Revision(1), Revision(1));
        let line = Line::of(&Entry { key, value, created, modified, lease: None });
        let written = serde_json::to_writer(&mut export, &line);
        assert!(written.is_ok(), "{line:?}");
        export.push(b'\n');
    }
    let lines = export.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(lines, entries.len(), "an entry is not one line");
    assert_eq!(read_all(&*export).ok(), Some(Ok(entries)));
}
