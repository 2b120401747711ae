//! The store in memory.

use std::sync::Arc;

use lbctl::store::{MemoryStore, SharedStore};

use super::conformance::{Backend, conformance};

struct Memory(MemoryStore);

impl Backend for Memory {
    async fn fresh() -> Option<Self> {
        Some(Self(MemoryStore::new()))
    }

    async fn handle(&self) -> SharedStore {
        Arc::new(self.0.clone())
    }
}

conformance!(Memory);
