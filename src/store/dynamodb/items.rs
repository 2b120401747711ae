//! How the store lies in its table. Each kind of item has partitions of its own:
//!
//! | partition key `pk` | sort key `sk` | holds |
//! |---|---|---|
//! | `entries:/PREFIX` | the key | `data`, `created`, `modified`, `lease` |
//! | `head:/PREFIX` | `head` | `revision`: that of the last commit; `life` of the store, which an lbctl of before leaves out |
//! | `log:/PREFIX` | revision and part | `changes` of that commit, the `commit` that made them, `parts`; `expires` |
//! | `lease:/PREFIX:ID` | `lease` | `ttl_ms`, `renewals`, `held`: the keys put on it; `ended` |
//!
//! Entries share a partition, so that one query lists a prefix in key order. The head has its own,
//! since everybody polls it; so has each lease, since everybody renews.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use bytes::Bytes;

use crate::store::{Change, Entry, Key, LeaseId, Prefix, Revision, StoreLife};

pub(super) type Item = HashMap<String, AttributeValue>;

/// Bytes of changes in one item of the log: under the 400 KB that an item may have, and over one
/// value with its key.
const PART_LEN: usize = 350_000;

/// What a change takes in an item beside its key and value, at most.
const CHANGE_OVERHEAD: usize = 100;

/// How long the log is kept for watchers that were away; a later one gets a `Reset`.
const LOG_KEPT: Duration = Duration::from_secs(3600);

/// Where a prefix's items are.
#[derive(Debug, Clone)]
pub(super) struct Place {
    prefix: Prefix,
}

/// How far the store has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// That of the last commit.
    pub revision: u64,
    pub life: StoreLife,
}

/// A lease as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeaseItem {
    pub id: LeaseId,
    pub ttl: Duration,
    pub renewals: u64,
    pub held: Vec<Key>,
    /// No keep-alive brings it back; some of its keys are still to be deleted.
    pub ended: bool,
}

/// A part of a commit in the log.
#[derive(Debug, Clone)]
pub(super) struct LogPart {
    pub revision: u64,
    pub parts: usize,
    pub commit: String,
    pub changes: Vec<Change>,
}

impl Place {
    pub(super) fn new(prefix: &Prefix) -> Self {
        Self { prefix: prefix.clone() }
    }

    pub(super) fn entries(&self) -> String {
        format!("entries:/{}", self.prefix)
    }

    pub(super) fn log(&self) -> String {
        format!("log:/{}", self.prefix)
    }

    pub(super) fn head_key(&self) -> Item {
        item_key(format!("head:/{}", self.prefix), "head")
    }

    pub(super) fn entry_key(&self, key: &Key) -> Item {
        item_key(self.entries(), key.as_str())
    }

    pub(super) fn lease_key(&self, lease: LeaseId) -> Item {
        item_key(format!("lease:/{}:{lease}", self.prefix), "lease")
    }

    pub(super) fn log_key(&self, revision: u64, part: usize) -> Item {
        item_key(self.log(), &log_sort(revision, part))
    }

    pub(super) fn head(&self, head: &Head) -> Item {
        let attributes = [("revision", number(head.revision)), ("life", text(head.life.as_str()))];
        with(self.head_key(), attributes)
    }

    pub(super) fn entry(&self, entry: &Entry) -> Item {
        with(self.entry_key(&entry.key), entry_attributes(entry))
    }

    pub(super) fn lease(&self, lease: LeaseId, ttl: Duration) -> Item {
        let ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        with(self.lease_key(lease), [("ttl_ms", number(ms)), ("renewals", number(0))])
    }

    /// A commit's items in the log. They are swept by DynamoDB's own time to live, whose clock
    /// decides nothing but when garbage goes.
    pub(super) fn log_items(&self, revision: u64, commit: &str, changes: &[Change]) -> Vec<Item> {
        let parts = split(changes);
        let count = parts.len();
        let expires = jiff::Timestamp::now().as_second().unsigned_abs() + LOG_KEPT.as_secs();
        let item = |(part, changes): (usize, &[Change])| {
            let changes = changes.iter().map(change_attribute).collect();
            let attributes = [
                ("changes", AttributeValue::L(changes)),
                ("commit", AttributeValue::S(commit.to_owned())),
                ("parts", number(count as u64)),
                ("expires", number(expires)),
            ];
            with(self.log_key(revision, part), attributes)
        };
        parts.into_iter().enumerate().map(item).collect()
    }
}

/// The sort key of a part: ordered as the numbers are.
pub(super) fn log_sort(revision: u64, part: usize) -> String {
    format!("{revision:020}/{part:03}")
}

pub(super) fn number(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

pub(super) fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

/// `None` where a stored item is not what lbctl writes.
pub(super) fn read_entry(item: &Item) -> Option<Entry> {
    entry_of(item, "sk")
}

pub(super) fn read_head(item: &Item) -> Option<Head> {
    let life = item.get("life").and_then(|life| life.as_s().ok());
    let life = life.map(StoreLife::new).unwrap_or_default();
    Some(Head { revision: read_number(item, "revision")?, life })
}

pub(super) fn read_lease(item: &Item) -> Option<LeaseItem> {
    let held = match item.get("held") {
        Some(held) => held.as_ss().ok()?.iter().map(|k| k.parse().ok()).collect::<Option<_>>()?,
        None => Vec::new(),
    };
    let (_place, id) = item.get("pk")?.as_s().ok()?.rsplit_once(':')?;
    Some(LeaseItem {
        id: LeaseId(u64::from_str_radix(id, 16).ok()?),
        ttl: Duration::from_millis(read_number(item, "ttl_ms")?),
        renewals: read_number(item, "renewals")?,
        held,
        ended: item.contains_key("ended"),
    })
}

pub(super) fn read_log(item: &Item) -> Option<LogPart> {
    let (revision, _part) = item.get("sk")?.as_s().ok()?.split_once('/')?;
    let revision = revision.parse().ok()?;
    let change = |attribute: &AttributeValue| {
        let item = attribute.as_m().ok()?;
        if item.contains_key("data") {
            return entry_of(item, "key").map(Change::Put);
        }
        let key = item.get("key")?.as_s().ok()?.parse().ok()?;
        Some(Change::Delete { key, revision: Revision(revision) })
    };
    Some(LogPart {
        revision,
        parts: usize::try_from(read_number(item, "parts")?).ok()?,
        commit: item.get("commit")?.as_s().ok()?.clone(),
        changes: item.get("changes")?.as_l().ok()?.iter().map(change).collect::<Option<_>>()?,
    })
}

/// Whole commits from their parts, in order, each with its changes in key order; without those of
/// which a part is missing.
pub(super) fn whole_commits(parts: Vec<LogPart>) -> BTreeMap<u64, Vec<Change>> {
    let mut commits: BTreeMap<u64, (usize, Vec<Change>)> = BTreeMap::new();
    for part in parts {
        let (missing, changes) =
            commits.entry(part.revision).or_insert_with(|| (part.parts, Vec::new()));
        *missing = missing.saturating_sub(1);
        changes.extend(part.changes);
    }
    let whole = commits.into_iter().filter(|(_, (missing, _))| *missing == 0);
    whole
        .map(|(revision, (_, mut changes))| {
            changes.sort_by(|a, b| a.key().cmp(b.key()));
            (revision, changes)
        })
        .collect()
}

fn item_key(partition: String, sort: &str) -> Item {
    [("pk".to_owned(), text(partition)), ("sk".to_owned(), text(sort))].into()
}

fn with(mut item: Item, more: impl IntoIterator<Item = (&'static str, AttributeValue)>) -> Item {
    item.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
    item
}

fn entry_attributes(entry: &Entry) -> Vec<(&'static str, AttributeValue)> {
    let mut attributes = vec![
        ("data", AttributeValue::B(Blob::new(entry.value.to_vec()))),
        ("created", number(entry.created.0)),
        ("modified", number(entry.modified.0)),
    ];
    attributes.extend(entry.lease.map(|lease| ("lease", number(lease.0))));
    attributes
}

fn change_attribute(change: &Change) -> AttributeValue {
    let item = [("key".to_owned(), text(change.key().as_str()))].into();
    AttributeValue::M(match change {
        Change::Put(entry) => with(item, entry_attributes(entry)),
        Change::Delete { .. } => item,
    })
}

fn entry_of(item: &Item, key: &str) -> Option<Entry> {
    let value = item.get("data")?.as_b().ok()?;
    Some(Entry {
        key: item.get(key)?.as_s().ok()?.parse().ok()?,
        value: Bytes::copy_from_slice(value.as_ref()),
        created: Revision(read_number(item, "created")?),
        modified: Revision(read_number(item, "modified")?),
        lease: read_number(item, "lease").map(LeaseId),
    })
}

fn read_number(item: &Item, name: &str) -> Option<u64> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

/// Runs of changes that fit into an item each.
fn split(changes: &[Change]) -> Vec<&[Change]> {
    let len = |change: &Change| {
        let value = match change {
            Change::Put(entry) => entry.value.len(),
            Change::Delete { .. } => 0,
        };
        change.key().as_str().len() + value + CHANGE_OVERHEAD
    };
    let (mut parts, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, change) in changes.iter().enumerate() {
        if bytes + len(change) > PART_LEN && at > start {
            parts.push(&changes[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += len(change);
    }
    parts.push(&changes[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, len: usize) -> Change {
        Change::Put(Entry {
            key: key.parse().unwrap(),
            value: vec![7; len].into(),
            created: Revision(3),
            modified: Revision(5),
            lease: Some(LeaseId(u64::MAX)),
        })
    }

    #[test]
    fn a_commit_comes_back_from_its_parts_and_not_without_one() {
        let delete = Change::Delete { key: "d".parse().unwrap(), revision: Revision(5) };
        let changes = vec![put("a", 200_000), put("b", 200_000), put("c", 0), delete];
        let items = Place::new(&Prefix::root()).log_items(5, "id", &changes);
        assert_eq!(items.len(), 2);
        let parts: Vec<LogPart> = items.iter().map(|item| read_log(item).unwrap()).collect();
        let whole = whole_commits(parts.iter().rev().cloned().collect());
        assert_eq!(whole, [(5, changes)].into());
        assert!(whole_commits(parts[..1].to_vec()).is_empty());
    }

    #[test]
    fn log_keys_sort_as_their_numbers() {
        let sorts = [log_sort(9, 1), log_sort(10, 0), log_sort(10, 2), log_sort(u64::MAX, 0)];
        assert!(sorts.is_sorted(), "{sorts:?}");
    }
}
