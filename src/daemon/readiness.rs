use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What a daemon still waits for before it is ready, and why; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    gates: Arc<Mutex<BTreeMap<String, Option<String>>>>,
}

impl Readiness {
    /// A named condition, closed until it is opened. It is removed when the gate is dropped.
    pub fn gate(&self, name: impl Into<String>, reason: impl Into<String>) -> Gate {
        let gate = Gate { readiness: self.clone(), name: name.into() };
        gate.close(reason);
        gate
    }

    /// Every closed gate with its reason; empty means ready.
    pub fn reasons(&self) -> BTreeMap<String, String> {
        let gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.iter().filter_map(|(name, why)| Some((name.clone(), why.clone()?))).collect()
    }

    pub fn is_ready(&self) -> bool {
        self.reasons().is_empty()
    }
}

/// One condition of readiness.
#[derive(Debug)]
pub struct Gate {
    readiness: Readiness,
    name: String,
}

impl Gate {
    pub fn open(&self) {
        self.set(None);
    }

    pub fn close(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    fn set(&self, reason: Option<String>) {
        let mut gates = self.readiness.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.insert(self.name.clone(), reason);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let mut gates = self.readiness.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.remove(&self.name);
    }
}
