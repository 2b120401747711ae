use std::collections::BTreeMap;

use super::{Content, Damaged, StoredRemovals, StoredSpec, StoredTable};
use crate::hsdo::{RowError, TableLayout};
use crate::model::{BackendName, BackendSpec, ServerAddress, SlotNumber, SlotRecord, keys};
use crate::store::{Entry, Key, Revision, StoreLife};

/// One slot table as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    pub name: BackendName,
    pub layout: TableLayout,
    /// The revision of the last change that this table shows. HSDO's table has none: there it counts
    /// the changes that this process has seen.
    pub revision: Revision,
    pub spec: BackendSpec,
    /// A slot that is not here is free.
    pub slots: BTreeMap<SlotNumber, Held>,
    /// Who left the slots by a decision.
    pub removed: BTreeMap<SlotNumber, Left>,
    /// A leader stands behind it in this life of the store.
    pub confirmed: bool,
    /// The life of the store that it is of.
    pub life: StoreLife,
    /// What cannot be read.
    pub problems: Vec<TableError>,
}

/// Who is known to have left a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    Servers(Vec<ServerAddress>),
    /// Somebody has left it before the eyes of this process: whoever that was.
    Anyone,
    /// Nobody has left it since the first look, and who was in it before is not known: in HSDO's
    /// table, which remembers nobody and begins with free rows.
    Unseen,
}

/// Who holds a slot.
#[derive(Debug, Clone, PartialEq)]
pub enum Held {
    By(SlotRecord),
    /// The entry cannot be read: nobody knows, so the slot is left as it is.
    Unknown,
}

/// A part of a table that lbctl cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    #[error("store entry {key} cannot be read: {reason}")]
    Entry { key: Key, reason: String },
    #[error(transparent)]
    Row(#[from] RowError),
}

impl Table {
    /// Reads a table from the entries under its prefix: `None` where there is no such table, an
    /// error where its spec cannot be read. A confirmation counts in the same life of the store,
    /// and if it is newer than `reborn_at`, where the store's revisions have gone back.
    pub fn read(
        name: &BackendName,
        entries: &BTreeMap<Key, Entry>,
        revision: Revision,
        life: &StoreLife,
        reborn_at: Option<Revision>,
    ) -> Result<Option<Self>, TableError> {
        let stored = StoredTable::read(name, entries.values());
        let Some(StoredSpec { spec, .. }) = stored.spec else {
            return Ok(None);
        };
        let spec = spec.map_err(|reason| TableError::Entry { key: keys::spec(name), reason })?;
        let confirmed = stored.confirmed.as_ref().and_then(|said| said.standing(life, reborn_at));
        let mut table = Self {
            name: name.clone(),
            layout: TableLayout::Lbctl,
            revision,
            spec,
            slots: BTreeMap::new(),
            removed: BTreeMap::new(),
            confirmed: confirmed.is_some(),
            life: life.clone(),
            problems: Vec::new(),
        };
        for (slot, stored) in stored.slots {
            table.take(slot, stored.content);
        }
        for (slot, StoredRemovals { removals, .. }) in stored.removed {
            table.removed.insert(slot, Left::Servers(removals.addresses().collect()));
        }
        // Other keys may be a later version's.
        let slots = keys::slots(name);
        for key in stored.strays.into_iter().filter(|key| slots.contains(key)) {
            let reason = "its last part is not a slot number of five digits".into();
            table.problems.push(TableError::Entry { key, reason });
        }
        table.problems.sort_by_key(ToString::to_string);
        Ok(Some(table))
    }

    /// The highest slot the table needs a place for.
    pub fn places(&self) -> u32 {
        // What cannot be read is left as it is where it has a place, and needs none.
        let mut held = self.slots.iter().rev().filter(|(_, held)| matches!(held, Held::By(_)));
        let last = held.next().map_or(0, |(slot, _)| slot.get());
        self.spec.slots.min(SlotNumber::MAX.get()).max(last)
    }

    fn take(&mut self, slot: SlotNumber, content: Content) {
        let held = match content {
            Content::Sound(record) => Held::By(record),
            Content::Damaged(Damaged { why, .. }) => {
                let key = keys::slot(&self.name, slot);
                self.problems.push(TableError::Entry { key, reason: why });
                Held::Unknown
            }
        };
        self.slots.insert(slot, held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::testing::{entries, record, spec};

    fn name() -> BackendName {
        "web".parse().unwrap()
    }

    fn read(pairs: &[(&str, String)]) -> Result<Option<Table>, TableError> {
        Table::read(&name(), &entries(pairs), Revision(7), &StoreLife::default(), None)
    }

    #[test]
    fn without_a_spec_there_is_no_table_whatever_slots_there_are() {
        assert_eq!(read(&[("backends/web/slots/00001", record("a"))]), Ok(None));
    }

    #[test]
    fn a_spec_that_cannot_be_read_is_an_error_that_names_it() {
        let error = read(&[("backends/web/spec", "{".into())]).unwrap_err().to_string();
        assert!(error.starts_with("store entry backends/web/spec cannot be read"), "{error}");
    }

    #[test]
    fn a_damaged_slot_is_unknown_and_the_others_are_read() {
        let table = read(&[
            ("backends/web/spec", spec(3)),
            ("backends/web/slots/00001", "not json".into()),
            ("backends/web/slots/00002", record("b")),
            ("backends/web/slots/3", record("c")),
            ("backends/web/slots/00000", record("d")),
        ])
        .unwrap()
        .unwrap();
        let slot = |n| table.slots.get(&SlotNumber::new(n).unwrap());
        assert_eq!(slot(1), Some(&Held::Unknown));
        assert!(matches!(slot(2), Some(Held::By(record)) if record.endpoint.id.as_str() == "b"));
        assert_eq!(slot(3), None, "an odd spelling was taken for slot 3");
        let problems: Vec<String> = table.problems.iter().map(ToString::to_string).collect();
        for (problem, key) in problems.iter().zip(["slots/00000", "slots/00001", "slots/3"]) {
            assert!(problem.contains(key), "{problem}");
        }
        assert_eq!(problems.len(), 3);
    }

    #[test]
    fn an_address_that_could_break_out_of_a_command_makes_the_entry_unreadable() {
        let hostile = record("a").replace("10.0.0.1:80", "10.0.0.1:80; shutdown");
        let table = read(&[("backends/web/spec", spec(1)), ("backends/web/slots/00001", hostile)]);
        assert_eq!(table.unwrap().unwrap().problems.len(), 1);
    }

    #[test]
    fn a_held_slot_behind_the_last_needs_a_place_too() {
        let table =
            read(&[("backends/web/spec", spec(2)), ("backends/web/slots/00005", record("e"))]);
        assert_eq!(table.unwrap().unwrap().places(), 5);
    }
}
