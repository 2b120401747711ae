use std::time::Duration;

use super::plan::Plan;
use crate::election::Leadership;
use crate::model::{BackendName, keys};
use crate::store::{
    Commit, Error, ErrorKind, Guard, Key, MAX_TXN_LEN, Result, Revision, Store, Txn,
};
use crate::tables::StoredTable;

/// How long one commit may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// What writing a plan came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Applied {
    /// All of it is written; the table is to be planned again once it shows this revision.
    Written(Revision),
    /// Somebody else changed a key that the plan saw otherwise, or leads now. What stood before the
    /// conflict in the plan's order is written.
    Conflict,
}

/// Writes a plan: each key is guarded by the revision the plan saw, and all by the leadership, so
/// that a plan that comes too late changes nothing.
pub async fn apply(
    store: &dyn Store,
    leadership: &Leadership,
    backend: &BackendName,
    table: &StoredTable,
    plan: &Plan,
) -> Result<Applied> {
    let mut written = Revision::default();
    for batch in batches(changes(store, backend, table, plan)?) {
        let mut txn = Txn::new();
        for change in batch {
            txn = txn.guard(change.guard());
            txn = match change.value {
                Some(value) => txn.put(change.key, value),
                None => txn.delete(change.key),
            };
        }
        let commit = tokio::time::timeout(DEADLINE, leadership.commit(store, txn)).await;
        match commit.unwrap_or_else(|_| Err(late(store, backend)))? {
            Commit::Committed(revision) => written = written.max(revision),
            Commit::Conflict => return Ok(Applied::Conflict),
        }
    }
    Ok(Applied::Written(written))
}

struct Change {
    key: Key,
    seen: Option<Revision>,
    value: Option<Vec<u8>>,
}

impl Change {
    fn put(
        store: &dyn Store,
        key: Key,
        value: &impl serde::Serialize,
        seen: Option<Revision>,
    ) -> Result<Self> {
        Ok(Self { value: Some(json(store, &key, value)?), key, seen })
    }

    fn guard(&self) -> Guard {
        match self.seen {
            Some(revision) => Guard::UnmodifiedSince(self.key.clone(), revision),
            None => Guard::Absent(self.key.clone()),
        }
    }
}

/// As many changes in a commit as it holds. Those of one inner list stay together.
fn batches(changes: Vec<Vec<Change>>) -> Vec<Vec<Change>> {
    // A guard and a write each, and the leadership's guard.
    let most = (MAX_TXN_LEN - 1) / 2;
    let mut batches: Vec<Vec<Change>> = Vec::new();
    for together in changes {
        match batches.last_mut().filter(|batch| batch.len() + together.len() <= most) {
            Some(batch) => batch.extend(together),
            None => batches.push(together),
        }
    }
    batches
}

/// In the order in which they are written.
fn changes(
    store: &dyn Store,
    backend: &BackendName,
    table: &StoredTable,
    plan: &Plan,
) -> Result<Vec<Vec<Change>>> {
    let mut changes = Vec::new();
    // The spec first: whoever reads a slot then knows the table it belongs to.
    if let Some(spec) = &plan.spec {
        let seen = table.spec.as_ref().map(|stored| stored.modified);
        changes.push(vec![Change::put(store, keys::spec(backend), spec, seen)?]);
    }
    for (slot, seen) in &plan.forgotten {
        let key = keys::removals(backend, *slot);
        changes.push(vec![Change { key, seen: Some(*seen), value: None }]);
    }
    for action in &plan.actions {
        let key = keys::slot(backend, action.slot);
        let mut together = vec![match &action.record {
            Some(record) => Change::put(store, key, record, action.seen)?,
            None => Change { key, seen: action.seen, value: None },
        }];
        if let Some(remember) = &action.remember {
            let key = keys::removals(backend, action.slot);
            together.push(Change::put(store, key, &remember.removals, remember.seen)?);
        }
        changes.push(together);
    }
    // Last: with it, all that stands before it is there.
    if let Some(confirm) = &plan.confirm {
        let key = keys::confirmed(backend);
        changes.push(vec![Change::put(store, key, &confirm.confirmation, confirm.seen)?]);
    }
    Ok(changes)
}

fn json(store: &dyn Store, key: &Key, value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::new(ErrorKind::Unsupported, store.name(), "commit", key, error))
}

fn late(store: &dyn Store, backend: &BackendName) -> Error {
    let reason = format!("no answer within {} s", DEADLINE.as_secs());
    Error::new(ErrorKind::Indeterminate, store.name(), "commit", keys::backend(backend), reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::election::{Candidate, Options, Standing};
    use crate::model::{BackendSpec, ElectionName, Ramp, Weight};
    use crate::store;

    #[tokio::test]
    async fn a_leader_that_was_replaced_unawares_writes_nothing() {
        let store = store::open(&"memory:".parse().unwrap()).await.unwrap();
        let backend: BackendName = "web".parse().unwrap();
        let options = Options {
            name: ElectionName::discover(&backend),
            id: "a".parse().unwrap(),
            ttl: Duration::from_secs(60),
        };
        let candidate = Candidate::start(store.clone(), options);
        let mut standing = candidate.standing();
        standing.wait_for(|now| matches!(now, Standing::Leader(_))).await.unwrap();
        let leadership = candidate.leadership().unwrap();
        let spec = BackendSpec {
            slots: 1,
            ramp: Ramp::flat(Weight::saturating(100)),
            drain_deadline: Duration::from_secs(1),
            drain_at_least: Duration::ZERO,
            rest: Duration::from_secs(1),
            unplaced: Vec::new(),
            origin: None,
        };
        let plan = Plan { spec: Some(spec), ..Plan::default() };
        let table = StoredTable::read(&backend, []);
        // Nothing is waited for, so that the copy of the leadership still says that it is held.
        let other = Txn::new().delete(leadership.key.clone());
        assert!(matches!(store.commit(other).await.unwrap(), Commit::Committed(_)));
        let applied = apply(&*store, &leadership, &backend, &table, &plan).await.unwrap();
        assert_eq!(applied, Applied::Conflict);
        assert!(store.get(&keys::spec(&backend)).await.unwrap().is_none());
    }
}
