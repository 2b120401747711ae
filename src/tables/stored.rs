use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::model::{
    BackendName, BackendSpec, Confirmation, Endpoint, EndpointId, Removals, SlotNumber, SlotRecord,
    SlotState, StoreLife, Timestamp, keys,
};
use crate::store::{Entry, Key, Revision};
use crate::text;

/// A backend's keys in the store, as far as they can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredTable {
    pub spec: Option<StoredSpec>,
    /// The slots that are held, and those whose entry is damaged. Any other is free.
    pub slots: BTreeMap<SlotNumber, StoredSlot>,
    /// Who left the slots before.
    pub removed: BTreeMap<SlotNumber, StoredRemovals>,
    pub confirmed: Option<StoredConfirmation>,
    /// Of what is remembered and of the confirmation, the keys that cannot be read, and why.
    pub unreadable: Vec<(Key, String)>,
    /// Keys that are none of these: left alone, and shown.
    pub strays: Vec<Key>,
}

/// The spec's entry, or why it cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSpec {
    pub modified: Revision,
    pub spec: Result<BackendSpec, String>,
}

/// What is remembered of a slot. What cannot be read is forgotten: then HAProxy goes on serving
/// whom it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRemovals {
    pub modified: Revision,
    pub removals: Removals,
}

/// A leader's word on the whole table; without a `confirmation` it cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredConfirmation {
    pub modified: Revision,
    pub confirmation: Option<Confirmation>,
}

impl StoredConfirmation {
    /// The confirmation, where it counts: in the same life of the store, and newer than `reborn_at`
    /// where the store's revisions have gone back to that.
    pub fn standing(&self, life: &StoreLife, reborn_at: Option<Revision>) -> Option<&Confirmation> {
        let confirmation = self.confirmation.as_ref()?;
        let old = reborn_at.is_some_and(|reborn| self.modified <= reborn);
        (!old && !confirmation.life.is_other(life)).then_some(confirmation)
    }

    /// One that holds in a store that does not say which life it is in.
    #[cfg(test)]
    pub fn of_any_life() -> Self {
        let (life, token) = Default::default();
        Self { modified: Revision::default(), confirmation: Some(Confirmation { life, token }) }
    }
}

/// A slot's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSlot {
    pub modified: Revision,
    pub content: Content,
}

/// What a slot's entry holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Sound(SlotRecord),
    /// Not what lbctl writes.
    Damaged(Damaged),
}

/// What is left of an entry that cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Damaged {
    /// Where it is still readable, its server keeps its slot.
    pub endpoint: Option<Endpoint>,
    pub why: String,
}

impl StoredTable {
    /// Reads the entries under [`keys::backend`].
    pub fn read<'a>(backend: &BackendName, entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let prefix = keys::backend(backend);
        let mut table = Self::default();
        for entry in entries {
            table.take(prefix.strip(&entry.key).unwrap_or_default(), entry);
        }
        table
    }

    /// Reads an entry; `part` is its key behind [`keys::backend`].
    pub fn take(&mut self, part: &str, entry: &Entry) {
        let modified = entry.modified;
        let (list, number) = part.split_once('/').unwrap_or((part, ""));
        match (list, slot_number(number)) {
            ("spec", None) if number.is_empty() => {
                self.spec = Some(StoredSpec { modified, spec: entry.json() });
            }
            ("confirmed", None) if number.is_empty() => {
                let confirmation = self.readable(entry);
                self.confirmed = Some(StoredConfirmation { modified, confirmation });
            }
            ("slots", Some(number)) => {
                let content = Content::read(&entry.value);
                self.slots.insert(number, StoredSlot { modified, content });
            }
            ("removed", Some(number)) => {
                let removals = self.readable(entry).unwrap_or_default();
                self.removed.insert(number, StoredRemovals { modified, removals });
            }
            _ => self.strays.push(entry.key.clone()),
        }
    }

    fn readable<T: DeserializeOwned>(&mut self, entry: &Entry) -> Option<T> {
        match entry.json() {
            Ok(value) => Some(value),
            Err(why) => {
                self.unreadable.push((entry.key.clone(), why));
                None
            }
        }
    }

    /// The spec, where it is there and can be read.
    pub fn spec(&self) -> Option<&BackendSpec> {
        self.spec.as_ref()?.spec.as_ref().ok()
    }

    /// The sound records, by slot.
    pub fn records(&self) -> impl Iterator<Item = (SlotNumber, &SlotRecord)> {
        self.slots.iter().filter_map(|(number, slot)| match &slot.content {
            Content::Sound(record) => Some((*number, record)),
            Content::Damaged(_) => None,
        })
    }

    /// The servers that are to take traffic.
    pub fn ready(&self) -> BTreeSet<EndpointId> {
        self.records()
            .filter(|(_, record)| record.state == SlotState::Ready)
            .map(|(_, record)| record.endpoint.id.clone())
            .collect()
    }
}

impl Content {
    pub fn read(value: &[u8]) -> Self {
        /// The part of a record that names its server.
        #[derive(Deserialize)]
        struct Rest {
            #[serde(flatten)]
            endpoint: Endpoint,
        }
        match serde_json::from_slice(value) {
            Ok(record) => Self::Sound(record),
            Err(why) => {
                let endpoint = serde_json::from_slice::<Rest>(value).ok().map(|rest| rest.endpoint);
                Self::Damaged(Damaged {
                    endpoint,
                    why: text::one_line(&why.to_string()).into_owned(),
                })
            }
        }
    }

    /// The record to go on from: a damaged one whose server is known counts as fully ramped, and
    /// one whose server is unknown rests under a made-up name, since a HAProxy may still serve it.
    pub fn repaired(&self, number: SlotNumber, now: Timestamp) -> Option<SlotRecord> {
        match self {
            Self::Sound(record) => Some(record.clone()),
            Self::Damaged(Damaged { endpoint: Some(endpoint), .. }) => Some(SlotRecord {
                endpoint: endpoint.clone(),
                state: if endpoint.leaving { SlotState::Drain } else { SlotState::Ready },
                since: now,
                started: Timestamp::UNIX_EPOCH,
            }),
            Self::Damaged(Damaged { endpoint: None, .. }) => {
                let endpoint = Endpoint {
                    id: format!("damaged-{}", number.padded()).parse().ok()?,
                    // Of TEST-NET-1 (RFC 5737), and never served: the slot is at rest.
                    address: "192.0.2.1:9".parse().ok()?,
                    name: None,
                    group: None,
                    zone: None,
                    weight: None,
                    leaving: true,
                };
                Some(SlotRecord { endpoint, state: SlotState::Rest, since: now, started: now })
            }
        }
    }
}

/// Only the padded form counts, so that two keys never mean one slot.
fn slot_number(text: &str) -> Option<SlotNumber> {
    text.parse().ok().filter(|number: &SlotNumber| number.padded() == text)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn read(entries: &[(&str, &str)]) -> StoredTable {
        let entries: Vec<Entry> = entries
            .iter()
            .map(|(key, value)| Entry {
                key: format!("backends/web/{key}").parse().unwrap(),
                value: Bytes::copy_from_slice(value.as_bytes()),
                created: Revision(1),
                modified: Revision(1),
                lease: None,
            })
            .collect();
        StoredTable::read(&"web".parse().unwrap(), &entries)
    }

    const SOUND: &str = r#"{"id":"a","address":"10.0.0.1:80","state":"ready","new":1,
        "since":"2026-01-01T00:00:00Z","started":"2026-01-01T00:00:00Z"}"#;

    #[test]
    fn unknown_fields_are_fine_and_damage_keeps_what_can_be_kept() {
        let halved = &SOUND.replace("\"ready\"", "\"napping\"");
        let table = read(&[("slots/00001", SOUND), ("slots/00002", halved), ("slots/00003", "{")]);
        let content: Vec<&Content> = table.slots.values().map(|slot| &slot.content).collect();
        assert!(matches!(content[0], Content::Sound(record) if record.endpoint.id.as_str() == "a"));
        assert!(
            matches!(content[1], Content::Damaged(Damaged { endpoint: Some(e), .. }) if e.id.as_str() == "a")
        );
        assert!(matches!(content[2], Content::Damaged(Damaged { endpoint: None, .. })));
    }

    #[test]
    fn keys_that_are_no_slot_are_strays() {
        let names = ["slots/1", "slots/000001", "slots/00000", "slots/x", "notes"];
        let entries: Vec<_> = names.iter().map(|name| (*name, SOUND)).collect();
        let table = read(&entries);
        assert_eq!(table.strays.len(), names.len());
        assert!(table.slots.is_empty() && table.spec.is_none());
    }
}
