use std::collections::BTreeMap;

use crate::hsdo::{RowError, TableLayout};
use crate::model::{BackendName, BackendSpec, SlotNumber, SlotRecord, keys};
use crate::store::{Entry, Key, Revision};

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
    /// What cannot be read.
    pub problems: Vec<TableError>,
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
    /// error where its spec cannot be read.
    pub fn read(
        name: &BackendName,
        entries: &BTreeMap<Key, Entry>,
        revision: Revision,
    ) -> Result<Option<Self>, TableError> {
        let Some(entry) = entries.get(&keys::spec(name)) else {
            return Ok(None);
        };
        let spec = decode(entry)?;
        let mut table = Self {
            name: name.clone(),
            layout: TableLayout::Lbctl,
            revision,
            spec,
            slots: BTreeMap::new(),
            problems: Vec::new(),
        };
        let prefix = keys::slots(name);
        for (entry, number) in entries.values().filter_map(|e| Some((e, prefix.strip(&e.key)?))) {
            table.take(entry, number);
        }
        Ok(Some(table))
    }

    /// The highest slot the table needs a place for.
    pub fn places(&self) -> u32 {
        let last = self.slots.keys().next_back().map_or(0, |slot| slot.get());
        self.spec.slots.min(SlotNumber::MAX.get()).max(last)
    }

    fn take(&mut self, entry: &Entry, number: &str) {
        let slot = match number.parse::<SlotNumber>() {
            // Another spelling of a number would be a second entry for the same slot.
            Ok(slot) if slot.padded() == number => slot,
            _ => {
                let reason = "its last part is not a slot number of five digits".into();
                self.problems.push(TableError::Entry { key: entry.key.clone(), reason });
                return;
            }
        };
        let held = decode(entry).map_or_else(
            |problem| {
                self.problems.push(problem);
                Held::Unknown
            },
            Held::By,
        );
        self.slots.insert(slot, held);
    }
}

fn decode<T: serde::de::DeserializeOwned>(entry: &Entry) -> Result<T, TableError> {
    entry.json().map_err(|reason| TableError::Entry { key: entry.key.clone(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync_haproxy::testing::{entries, record, spec};

    fn name() -> BackendName {
        "web".parse().unwrap()
    }

    fn read(pairs: &[(&str, String)]) -> Result<Option<Table>, TableError> {
        Table::read(&name(), &entries(pairs), Revision(7))
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
