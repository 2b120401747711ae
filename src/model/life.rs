use std::fmt;

use serde::{Deserialize, Serialize};

/// What tells one life of a store from the next: a store that was rebuilt empty, or restored from a
/// copy, begins another one. Revisions only grow within one life.
///
/// The default is that of a store that does not say: it counts as the same as any other.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreLife(String);

impl StoreLife {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// One that no other store has.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the store did not say which life it is in.
    pub fn is_unknown(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both are known and not the same.
    pub fn is_other(&self, other: &Self) -> bool {
        !self.is_unknown() && !other.is_unknown() && self != other
    }
}

impl fmt::Display for StoreLife {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
