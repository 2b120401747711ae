use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde_json::Value;

/// What `/status` shows: named JSON values that a daemon's loops publish; clones share it. Never
/// put a secret here.
#[derive(Debug, Clone, Default)]
pub struct StatusBoard {
    parts: Arc<Mutex<BTreeMap<String, Value>>>,
}

impl StatusBoard {
    /// Replaces a part.
    pub fn publish(&self, name: impl Into<String>, value: &impl Serialize) {
        let value = serde_json::to_value(value)
            .unwrap_or_else(|error| Value::String(format!("cannot be shown: {error}")));
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into(), value);
    }

    pub fn snapshot(&self) -> BTreeMap<String, Value> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
