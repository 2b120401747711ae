//! What others may have written into a store that is shown.

use super::{Snapshot, render};
use crate::model::Timestamp;
use crate::store::fuzzing::entries;
use crate::text;

/// Whatever the entries hold, nothing of it reaches a terminal as a command. The input is a line an
/// entry.
pub fn overview(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(now) = Timestamp::from_second(1_700_000_000) else { return };
    let snapshot = Snapshot::of(&entries(text), now);
    let shown = render(&snapshot);
    let plain = anstream::adapter::strip_str(&shown).to_string();
    assert_eq!(text::lines(&plain), plain, "a terminal would obey it");
    assert!(serde_json::to_string(&snapshot).is_ok());
}
