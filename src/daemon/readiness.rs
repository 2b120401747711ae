use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// What a daemon still waits for before it is ready, and why; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    gates: Arc<watch::Sender<BTreeMap<String, Option<String>>>>,
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
        let gates = self.gates.borrow();
        gates.iter().filter_map(|(name, why)| Some((name.clone(), why.clone()?))).collect()
    }

    pub fn is_ready(&self) -> bool {
        self.gates.borrow().values().all(Option::is_none)
    }

    /// Waits until every gate is open, and there is one.
    pub async fn until_ready(&self) {
        let mut gates = self.gates.subscribe();
        let ready = gates.wait_for(|g| !g.is_empty() && g.values().all(Option::is_none));
        // The sender lives as long as `self`.
        if ready.await.is_err() {
            std::future::pending::<()>().await;
        }
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
        self.readiness.gates.send_if_modified(|gates| {
            let changed = gates.get(&self.name) != Some(&reason);
            gates.insert(self.name.clone(), reason);
            changed
        });
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.readiness.gates.send_modify(|gates| {
            gates.remove(&self.name);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_means_every_gate_is_open_and_a_reason_is_given_until_then() {
        let readiness = Readiness::default();
        let (store, haproxy) =
            (readiness.gate("store", "no answer yet"), readiness.gate("haproxy", "starting"));
        store.open();
        assert_eq!(readiness.reasons(), [("haproxy".to_owned(), "starting".to_owned())].into());
        let waiter = readiness.clone();
        let waited = crate::daemon::spawn_owned(async move { waiter.until_ready().await });
        assert!(!waited.is_finished());
        drop(haproxy);
        waited.join().await.unwrap();
        assert!(readiness.is_ready());
        store.close("gone");
        assert!(!readiness.is_ready());
    }
}
