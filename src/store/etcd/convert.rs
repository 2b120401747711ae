//! Between our keys, entries and transactions and etcd's.

use std::time::Duration;

use bytes::Bytes;
use etcd_client::{
    Compare, CompareOp, Event, EventType, KeyValue, PutOptions, ResponseHeader, TxnOp,
};

use crate::store::{Change, Entry, Guard, Key, LeaseId, Prefix, Revision, Txn, Write};

/// Where our keys are in etcd: behind the URL's prefix, each with a leading `/`.
#[derive(Debug, Clone)]
pub(super) struct Keyspace {
    /// `/lbctl/`, or `/` for the root.
    start: String,
}

impl Keyspace {
    pub(super) fn new(prefix: &Prefix) -> Self {
        Self { start: format!("/{}", prefix.start()) }
    }

    /// A key as etcd has it.
    pub(super) fn place(&self, key: &Key) -> Vec<u8> {
        format!("{}{key}", self.start).into_bytes()
    }

    /// Where the store's life is kept: no key of the store is there, see [`Self::key`].
    pub(super) fn life(&self) -> Vec<u8> {
        format!("{}/life", self.start).into_bytes()
    }

    /// Whether one of the events is of the store's life.
    pub(super) fn tells_of_life(&self, events: &[Event]) -> bool {
        let life = self.life();
        events.iter().any(|event| event.kv().is_some_and(|kv| kv.key() == life))
    }

    /// The first key under a prefix, and the first one behind all of them.
    pub(super) fn range(&self, prefix: &Prefix) -> (Vec<u8>, Vec<u8>) {
        let start = format!("{}{}", self.start, prefix.start()).into_bytes();
        let mut end = start.clone();
        // The start ends in `/`, whose successor is `0`.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        (start, end)
    }

    /// `None` for a key that lbctl cannot have written: somebody else's, and none of our business.
    fn key(&self, place: &[u8]) -> Option<Key> {
        let rest = std::str::from_utf8(place).ok()?.strip_prefix(&self.start)?;
        // Parsing drops a leading `/`, which would make two keys one.
        let key = if rest.starts_with('/') { None } else { rest.parse().ok() };
        if key.is_none() {
            tracing::debug!(key = rest, "passing over a key in etcd that is not lbctl's");
        }
        key
    }

    pub(super) fn entry(&self, kv: &KeyValue) -> Option<Entry> {
        Some(Entry {
            key: self.key(kv.key())?,
            value: Bytes::copy_from_slice(kv.value()),
            created: unsigned(kv.create_revision()),
            modified: unsigned(kv.mod_revision()),
            lease: (kv.lease() != 0).then(|| LeaseId(kv.lease().cast_unsigned())),
        })
    }

    /// The events of one answer, commit by commit. etcd never splits a commit over two answers
    /// unless fragments were asked for.
    pub(super) fn commits(&self, events: &[Event]) -> Vec<Vec<Change>> {
        let mut commits: Vec<Vec<Change>> = Vec::new();
        for change in events.iter().filter_map(|event| self.change(event)) {
            match commits.last_mut() {
                Some(commit) if commit[0].revision() == change.revision() => commit.push(change),
                Some(_) | None => commits.push(vec![change]),
            }
        }
        for commit in &mut commits {
            commit.sort_by(|a, b| a.key().cmp(b.key()));
        }
        commits
    }

    fn change(&self, event: &Event) -> Option<Change> {
        let kv = event.kv()?;
        match event.event_type() {
            EventType::Put => self.entry(kv).map(Change::Put),
            EventType::Delete => {
                let key = self.key(kv.key())?;
                Some(Change::Delete { key, revision: unsigned(kv.mod_revision()) })
            }
        }
    }

    pub(super) fn txn(&self, txn: Txn) -> etcd_client::Txn {
        let guards: Vec<Compare> = txn.guards.iter().flat_map(|g| self.compares(g)).collect();
        let writes: Vec<TxnOp> = txn.writes.into_iter().map(|w| self.operation(w)).collect();
        etcd_client::Txn::new().when(guards).and_then(writes)
    }

    /// An absent key compares as one with all revisions 0.
    fn compares(&self, guard: &Guard) -> Vec<Compare> {
        let place = self.place(guard.key());
        let created = |op, revision| Compare::create_revision(place.clone(), op, revision);
        match guard {
            Guard::Absent(_) => vec![created(CompareOp::Equal, 0)],
            // No key was created at revision 0; to etcd that would be the absent one.
            Guard::CreatedAt(_, Revision(0)) => vec![created(CompareOp::Less, 0)],
            Guard::CreatedAt(_, revision) => vec![created(CompareOp::Equal, signed(*revision))],
            Guard::UnmodifiedSince(_, revision) => {
                let after = signed(*revision).saturating_add(1);
                vec![
                    created(CompareOp::Greater, 0),
                    Compare::mod_revision(place.clone(), CompareOp::Less, after),
                ]
            }
        }
    }

    fn operation(&self, write: Write) -> TxnOp {
        let place = self.place(write.key());
        match write {
            Write::Put { value, lease, .. } => {
                let options = lease.map(|id| PutOptions::new().with_lease(id.0.cast_signed()));
                TxnOp::put(place, Vec::from(value), options)
            }
            Write::Delete { .. } => TxnOp::delete(place, None),
        }
    }
}

/// The revision an answer is of.
pub(super) fn revision_of(header: Option<&ResponseHeader>) -> Revision {
    unsigned(header.map_or(0, ResponseHeader::revision))
}

/// etcd's revisions are signed and never negative.
pub(super) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

pub(super) fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}

fn unsigned(revision: i64) -> Revision {
    Revision(u64::try_from(revision).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_live_behind_the_prefix_and_come_back_without_it() {
        for (prefix, place) in [("lbctl", "/lbctl/a/b"), ("", "/a/b"), ("x/y", "/x/y/a/b")] {
            let keyspace = Keyspace::new(&prefix.parse().unwrap());
            let key: Key = "a/b".parse().unwrap();
            assert_eq!(keyspace.place(&key), place.as_bytes());
            assert_eq!(keyspace.key(place.as_bytes()), Some(key));
        }
    }

    #[test]
    fn a_range_ends_before_keys_that_only_begin_alike() {
        let keyspace = Keyspace::new(&"lbctl".parse().unwrap());
        let (start, end) = keyspace.range(&"a".parse().unwrap());
        let inside = |key: &[u8]| start.as_slice() <= key && key < end.as_slice();
        assert!(inside(b"/lbctl/a/") && inside(b"/lbctl/a/\xff\xff"));
        assert!(!inside(b"/lbctl/a") && !inside(b"/lbctl/ab") && !inside(b"/lbctl/b/a"));
    }

    #[test]
    fn keys_of_others_are_passed_over() {
        let keyspace = Keyspace::new(&"lbctl".parse().unwrap());
        for foreign in [&b"/lbctl/"[..], b"/lbctl//a", b"/lbctl/a//b", b"/lbctl/\xff", b"/other/a"]
        {
            assert_eq!(keyspace.key(foreign), None, "{foreign:?}");
        }
    }
}
