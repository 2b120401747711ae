//! A table as discover writes it.

use lbctl::model::{
    BackendName, Confirmation, Removal, Removals, Revision, SlotNumber, SlotRecord, SlotState,
    StoreLife, Timestamp, keys,
};
use lbctl::store::{SharedStore, Txn};

/// Adds the word of a leader, which holds in every life of the store.
pub fn confirmed(txn: Txn, backend: &BackendName) -> Txn {
    let confirmation = Confirmation { life: StoreLife::default(), token: Revision(1) };
    txn.put(keys::confirmed(backend), serde_json::to_vec(&confirmation).unwrap())
}

/// The changes of some slots, each of which remembers who leaves it.
pub async fn changes(
    store: &SharedStore,
    backend: &BackendName,
    slots: impl IntoIterator<Item = (u32, Option<SlotRecord>)>,
) -> Txn {
    let mut txn = Txn::new();
    for (number, record) in slots {
        let number = SlotNumber::new(number).unwrap();
        let (key, memory) = (keys::slot(backend, number), keys::removals(backend, number));
        let before = store.get(&key).await.unwrap();
        let before = before.and_then(|entry| entry.json::<SlotRecord>().ok());
        let removals = store.get(&memory).await.unwrap();
        let known: Removals = removals.and_then(|entry| entry.json().ok()).unwrap_or_default();
        let mut removals = known.clone();
        let address = record.as_ref().map(|record| record.endpoint.address);
        if let Some(before) = before.filter(|before| Some(before.endpoint.address) != address) {
            let (id, address) = (before.endpoint.id, before.endpoint.address);
            removals.add(Removal { id, address, at: Timestamp::now() });
        }
        if let Some(record) = record.as_ref().filter(|record| record.state != SlotState::Rest) {
            removals.forget(record.endpoint.address);
        }
        if removals != known {
            txn = txn.put(memory, serde_json::to_vec(&removals).unwrap());
        }
        txn = match record {
            Some(record) => txn.put(key, serde_json::to_vec(&record).unwrap()),
            None => txn.delete(key),
        };
    }
    txn
}
