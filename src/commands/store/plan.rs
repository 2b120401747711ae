//! What an import has to write, and in which commits.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::keys;
use crate::store::{Entry, Guard, Key, MAX_TXN_BYTES, MAX_TXN_LEN, Txn};
use crate::text::lines;

/// Over the bytes of a key `backends/<backend>/confirmed`.
const MAX_CONFIRMED: usize = 512;

/// What an import does to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Create { key: Key, value: Vec<u8> },
    Replace { old: Entry, value: Vec<u8> },
}

impl Step {
    fn key(&self) -> &Key {
        match self {
            Self::Create { key, .. } => key,
            Self::Replace { old, .. } => &old.key,
        }
    }

    fn value(&self) -> &[u8] {
        match self {
            Self::Create { value, .. } | Self::Replace { value, .. } => value,
        }
    }

    /// Bytes in a commit: the key stands in the guard and in the write.
    fn len(&self) -> usize {
        2 * self.key().as_str().len() + self.value().len()
    }

    /// What is said of it.
    pub(super) fn describe(&self) -> String {
        let verb = match self {
            Self::Create { .. } => "create",
            Self::Replace { .. } => "replace",
        };
        format!("{verb} {} ({})", lines(self.key().as_str()), super::bytes(self.value().len()))
    }
}

/// The steps from what is stored to what is wanted; keys that are as wanted need none, and keys
/// that are not wanted stay.
pub(super) fn plan(wanted: BTreeMap<Key, Vec<u8>>, stored: &BTreeMap<Key, Entry>) -> Vec<Step> {
    let step = |(key, value): (Key, Vec<u8>)| match stored.get(&key) {
        None => Some(Step::Create { key, value }),
        Some(old) if old.value == value && old.lease.is_none() => None,
        Some(old) => Some(Step::Replace { old: old.clone(), value }),
    };
    wanted.into_iter().filter_map(step).collect()
}

/// Whether an import leaves a key out: it says that a process is there, or that a leader stands
/// behind a table, which is true of the store that the export was made of.
pub(super) fn is_of_its_store(key: &Key) -> bool {
    let table = keys::backend_of(key);
    keys::is_presence(key) || table.is_some_and(|table| keys::confirmed(&table) == *key)
}

/// Commits as large as a store takes them; each fails if one of its keys was changed meanwhile. Each
/// has one guard a step. What a leader has said of a table counts no more with the commit that
/// changes a part of it.
pub(super) fn batches(steps: Vec<Step>) -> Vec<Txn> {
    let mut batches = Vec::new();
    let (mut txn, mut bytes, mut tables) = (Txn::new(), 0, BTreeSet::new());
    for step in steps {
        // A guard, a write, and the end of a confirmation.
        let full = txn.guards.len() + txn.writes.len() + 3 > MAX_TXN_LEN;
        if full || bytes + step.len() + MAX_CONFIRMED > MAX_TXN_BYTES {
            batches.push(std::mem::take(&mut txn));
            (bytes, tables) = (0, BTreeSet::new());
        }
        bytes += step.len();
        if let Some(table) = keys::backend_of(step.key())
            && tables.insert(table.clone())
        {
            let confirmed = keys::confirmed(&table);
            bytes += confirmed.as_str().len();
            txn = txn.delete(confirmed);
        }
        txn = match step {
            Step::Create { key, value } => txn.guard(Guard::Absent(key.clone())).put(key, value),
            Step::Replace { old, value } => {
                txn.guard(Guard::UnmodifiedSince(old.key.clone(), old.modified)).put(old.key, value)
            }
        };
    }
    if !txn.writes.is_empty() {
        batches.push(txn);
    }
    batches
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::store::{LeaseId, Revision};

    fn stored(key: &str, value: &str, lease: Option<LeaseId>) -> (Key, Entry) {
        let (key, revision): (Key, _) = (key.parse().unwrap(), Revision(3));
        let value = Bytes::from(value.to_owned());
        (key.clone(), Entry { key, value, created: revision, modified: revision, lease })
    }

    #[test]
    fn only_what_differs_is_written() {
        let old = BTreeMap::from([
            stored("same", "v", None),
            stored("other", "v", None),
            stored("leased", "v", Some(LeaseId(1))),
            stored("unwanted", "v", None),
        ]);
        let wanted = ["same", "new", "leased"].map(|k| (k.parse().unwrap(), b"v".to_vec()));
        let mut wanted = BTreeMap::from(wanted);
        wanted.insert("other".parse().unwrap(), b"w".to_vec());
        let steps: Vec<String> = plan(wanted, &old).iter().map(Step::describe).collect();
        assert_eq!(
            steps,
            ["replace leased (1 byte)", "create new (1 byte)", "replace other (1 byte)"]
        );
    }

    #[test]
    fn what_is_of_another_store_is_left_out_and_a_table_that_changes_is_confirmed_anew() {
        let is_left_out = |key: &str| is_of_its_store(&key.parse().unwrap());
        let out = ["elections/e", "haproxies/lb1", "serve/a/1", "registry/web/a"];
        assert!(out.map(is_left_out).iter().all(|out| *out));
        assert!(is_left_out("backends/web/confirmed"));
        let kept = ["backends/web/spec", "backends/web/slots/00001", "history/x", "backends/web"];
        assert!(!kept.map(is_left_out).iter().any(|out| *out));
        let old = BTreeMap::from([
            stored("backends/a/spec", "v", None),
            stored("backends/b/spec", "v", None),
        ]);
        let spec = |table: &str, value: &str| {
            (format!("backends/{table}/spec").parse().unwrap(), value.as_bytes().to_vec())
        };
        let steps = plan(BTreeMap::from([spec("a", "v"), spec("b", "w")]), &old);
        let batches = batches(steps);
        let keys: Vec<&str> = batches[0].writes.iter().map(|write| write.key().as_str()).collect();
        assert_eq!(keys, ["backends/b/confirmed", "backends/b/spec"]);
    }

    proptest! {
        #[test]
        fn every_batch_is_small_enough_and_none_is_empty(
            sizes in prop::collection::vec(0..crate::store::MAX_VALUE_LEN, 0..100)
        ) {
            let steps: Vec<Step> = sizes
                .iter()
                .enumerate()
                .map(|(i, size)| Step::Create {
                    key: format!("k/{i}").parse().unwrap(),
                    value: vec![0; *size],
                })
                .collect();
            let batches = batches(steps);
            for txn in &batches {
                prop_assert!(txn.check("test").is_ok());
                prop_assert_eq!(txn.guards.len(), txn.writes.len());
            }
            prop_assert_eq!(batches.iter().map(|t| t.writes.len()).sum::<usize>(), sizes.len());
        }
    }
}
