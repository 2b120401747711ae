//! The store in memory.

use std::sync::{Arc, Mutex};

use lbctl::store::{MemoryCopy, MemoryStore, SharedStore};

use super::conformance::{Backend, conformance};

struct Memory {
    store: MemoryStore,
    copied: Mutex<Option<MemoryCopy>>,
}

impl Backend for Memory {
    async fn fresh() -> Option<Self> {
        Some(Self { store: MemoryStore::new(), copied: Mutex::default() })
    }

    async fn handle(&self) -> SharedStore {
        Arc::new(self.store.clone())
    }

    async fn copy(&self) -> bool {
        *self.copied.lock().unwrap() = Some(self.store.copy());
        true
    }

    async fn put_back(&self) {
        self.store.restore(self.copied.lock().unwrap().take().unwrap());
    }

    async fn lose_all(&self) -> bool {
        self.store.restore(MemoryStore::new().copy());
        true
    }
}

conformance!(Memory);
