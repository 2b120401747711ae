//! Entries of tables for tests.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use crate::model::{BackendSpec, Ramp};
use crate::store::{Entry, Key, Revision};

pub fn entries(pairs: &[(&str, String)]) -> BTreeMap<Key, Entry> {
    let entry = |(key, value): &(&str, String)| Entry {
        key: key.parse().unwrap(),
        value: Bytes::from(value.clone()),
        created: Revision(1),
        modified: Revision(1),
        lease: None,
    };
    pairs.iter().map(entry).map(|e| (e.key.clone(), e)).collect()
}

/// A slot entry's text.
pub fn record(id: &str) -> String {
    json!({
        "id": id, "address": "10.0.0.1:80", "state": "ready",
        "since": "2026-01-01T00:00:00Z", "started": "2026-01-01T00:00:00Z", "from": "the future",
    })
    .to_string()
}

/// A spec entry's text.
pub fn spec(slots: u32) -> String {
    serde_json::to_string(&backend_spec(slots)).unwrap()
}

pub fn backend_spec(slots: u32) -> BackendSpec {
    BackendSpec {
        slots,
        ramp: Ramp::default(),
        drain_deadline: Duration::from_secs(300),
        drain_at_least: Duration::ZERO,
        rest: Duration::from_secs(10),
        unplaced: Vec::new(),
        origin: None,
    }
}
