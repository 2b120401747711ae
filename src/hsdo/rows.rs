use std::collections::BTreeMap;

use super::row::{Item, Row, RowError, slot};
use crate::model::SlotNumber;

/// HSDO's table as one scan found it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    rows: BTreeMap<SlotNumber, Stored>,
    /// Rows that are no slot's.
    strays: Vec<RowError>,
}

/// A row as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// What a write demands to find again.
    pub item: Item,
    pub row: Result<Row, RowError>,
}

impl Rows {
    pub fn read(items: impl IntoIterator<Item = Item>) -> Self {
        let mut rows = Self::default();
        for item in items {
            match slot(&item) {
                Ok(slot) => {
                    let row = Row::read(&item);
                    rows.rows.insert(slot, Stored { item, row });
                }
                Err(stray) => rows.strays.push(stray),
            }
        }
        // A scan has no order.
        rows.strays.sort_by(|a, b| a.row.cmp(&b.row));
        rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.strays.is_empty()
    }

    pub fn get(&self, slot: SlotNumber) -> Option<&Stored> {
        self.rows.get(&slot)
    }

    /// Every row that is a slot's, in the slots' order.
    pub fn iter(&self) -> impl Iterator<Item = (SlotNumber, &Stored)> {
        self.rows.iter().map(|(slot, stored)| (*slot, stored))
    }

    /// Those that can be read.
    pub fn sound(&self) -> impl Iterator<Item = &Row> {
        self.rows.values().filter_map(|stored| stored.row.as_ref().ok())
    }

    /// Why the others cannot.
    pub fn errors(&self) -> impl Iterator<Item = &RowError> {
        self.rows.values().filter_map(|stored| stored.row.as_ref().err()).chain(&self.strays)
    }

    /// Whether it is known that nobody serves in a slot.
    pub fn is_free(&self, slot: SlotNumber) -> bool {
        match self.rows.get(&slot).map(|stored| &stored.row) {
            None => true,
            Some(Ok(row)) => row.holder().is_none(),
            Some(Err(_)) => false,
        }
    }

    /// Takes a row in that was written.
    pub fn put(&mut self, row: Row) {
        let stored = Stored { item: row.to_item(), row: Ok(row.clone()) };
        self.rows.insert(row.slot, stored);
    }
}
