use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::adopt::is_of;
use crate::hsdo::{LastUpdate, Row, Rows, Server};
use crate::model::{EndpointId, Ramp, SlotNumber, SlotRecord, SlotState, Timestamp, Weight};
use crate::store::Revision;
use crate::tables::{Content, StoredSlot, StoredTable};

/// How long a server that HSDO's server has taken out stays out, before it is put back because
/// lbctl's table still has it: HSDO may know sooner than the source that it has gone.
const PATIENCE: Duration = Duration::from_secs(15);

/// What HSDO's table is to show.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub table: Arc<StoredTable>,
    /// That of the last change that the table shows.
    pub revision: Revision,
    pub slots: u32,
    pub ramp: Ramp,
    /// Whom the source saw at its last good look.
    pub known: Arc<BTreeSet<EndpointId>>,
}

/// What a leader has seen come true of its slots. It tells a row that is still to be written from
/// one that somebody else has changed since.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The revisions of the slots' entries that their rows have shown.
    shown: BTreeMap<SlotNumber, Revision>,
    /// Since when somebody else has freed the row of a ready server.
    freed: BTreeMap<SlotNumber, Instant>,
}

/// What to write, and when to look again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Projection {
    pub writes: Vec<Row>,
    pub wake: Option<Duration>,
}

/// What is to be done about a row.
enum Due {
    /// It shows what it should.
    Right,
    Write(Row),
    /// What stands there is for somebody else to change, or for the next adoption to take in.
    Leave,
    /// As before, for so long.
    Later(Duration),
}

impl Ledger {
    /// Whether a slot's entry, as it was modified last, has been in its row.
    pub fn has_shown(&self, slot: SlotNumber, modified: Revision) -> bool {
        self.shown.get(&slot) == Some(&modified)
    }

    /// The rows that differ from what the table says at `now`, and notes which show it.
    pub fn project(
        &mut self,
        wanted: &Wanted,
        rows: &Rows,
        (now, at): (Timestamp, Instant),
        update: &LastUpdate,
    ) -> Projection {
        let mut projection = Projection { wake: next_step(wanted, now), ..Projection::default() };
        let slots: BTreeSet<SlotNumber> =
            SlotNumber::first(wanted.slots).chain(wanted.table.slots.keys().copied()).collect();
        self.shown.retain(|slot, _| wanted.table.slots.contains_key(slot));
        self.freed.retain(|slot, _| rows.is_free(*slot));
        for slot in slots {
            let due = Projector { wanted, rows, ledger: self, now, at, update }.due(slot);
            match (due, wanted.table.slots.get(&slot)) {
                (Due::Right, Some(stored)) => _ = self.shown.insert(slot, stored.modified),
                (Due::Right, None) | (Due::Leave, _) => {}
                (Due::Write(row), _) => projection.writes.push(row),
                (Due::Later(left), _) => {
                    self.freed.entry(slot).or_insert(at);
                    projection.wake = Some(projection.wake.map_or(left, |wake| wake.min(left)));
                }
            }
        }
        // Whoever serves comes first: rows that are there without one say that it has gone.
        projection.writes.sort_by_key(|row| row.holder().is_none());
        projection
    }
}

/// How long until a ramp takes its next step, which HSDO's clients read from the row.
fn next_step(wanted: &Wanted, now: Timestamp) -> Option<Duration> {
    let ready = wanted.table.records().filter(|(_, record)| record.state == SlotState::Ready);
    let next =
        |record: &SlotRecord| wanted.ramp.next_change(record.started, now, record.endpoint.weight);
    ready.filter_map(|(_, record)| next(record)).min()
}

struct Projector<'a> {
    wanted: &'a Wanted,
    rows: &'a Rows,
    ledger: &'a Ledger,
    now: Timestamp,
    at: Instant,
    update: &'a LastUpdate,
}

impl Projector<'_> {
    fn due(&self, slot: SlotNumber) -> Due {
        let row = match self.rows.get(slot).map(|stored| &stored.row) {
            Some(Ok(row)) => Some(row),
            // Whoever mends it decides what it says.
            Some(Err(_)) => return Due::Leave,
            // It has no place beyond the slots.
            None if slot.get() > self.wanted.slots => return Due::Right,
            None => None,
        };
        let holder = row.and_then(Row::holder);
        match self.wanted.table.slots.get(&slot) {
            None if holder.is_some() => Due::Leave,
            None => free(slot, row),
            Some(StoredSlot { content: Content::Damaged(_), .. }) => Due::Leave,
            Some(StoredSlot { content: Content::Sound(record), modified }) => match record.state {
                SlotState::Ready => self.ready(slot, *modified, record, row),
                SlotState::Drain => self.drain(record, row, slot),
                SlotState::Rest => self.rest(slot, *modified, record, row),
            },
        }
    }

    fn ready(
        &self,
        slot: SlotNumber,
        modified: Revision,
        record: &SlotRecord,
        row: Option<&Row>,
    ) -> Due {
        let known = self.wanted.known.contains(&record.endpoint.id);
        let shown = self.ledger.has_shown(slot, modified);
        let right = self.row_of(slot, record);
        match row.map(|row| (row, row.holder())) {
            Some((row, Some(holder))) if is_of(holder, &record.endpoint) => {
                let same = row.server == right.server && self.is_weight_of(row, record);
                if same { Due::Right } else { Due::Write(right) }
            }
            // Another one has it: who is right is known only where the source sees this one.
            Some((_, Some(_))) if known => Due::Write(right),
            Some((_, Some(_))) => Due::Leave,
            // Somebody has freed it: HSDO may know sooner than the source that it has gone.
            Some(_) if known && shown => self.put_back(slot, right),
            // Nobody frees a row by deleting it.
            None if known || shown => Due::Write(right),
            Some(_) if known => Due::Write(right),
            _ => Due::Leave,
        }
    }

    /// HSDO's server ramps too: where it is ahead, the ramp comes after.
    fn is_weight_of(&self, row: &Row, record: &SlotRecord) -> bool {
        let (ramp, own) = (&self.wanted.ramp, record.endpoint.weight);
        let weight = ramp.weight_at(record.started, self.now, own);
        row.weight == weight || (weight < row.weight && row.weight <= ramp.target(own))
    }

    fn put_back(&self, slot: SlotNumber, right: Row) -> Due {
        let waited = self.ledger.freed.get(&slot).map_or(Duration::ZERO, |since| self.at - *since);
        match PATIENCE.checked_sub(waited).filter(|left| !left.is_zero()) {
            Some(left) => Due::Later(left),
            None => Due::Write(right),
        }
    }

    /// As it is, at weight 0: HSDO's clients then send it nothing new. One that HSDO's server has
    /// taken out already stays out.
    fn drain(&self, record: &SlotRecord, row: Option<&Row>, slot: SlotNumber) -> Due {
        let Some(row) = row else { return Due::Write(Row::free(slot)) };
        match row.holder() {
            Some(holder) if is_of(holder, &record.endpoint) && row.weight != Weight::ZERO => {
                let updated = self.update.clone();
                Due::Write(Row { weight: Weight::ZERO, updated, ..row.clone() })
            }
            Some(holder) if !is_of(holder, &record.endpoint) => Due::Leave,
            _ => Due::Right,
        }
    }

    fn rest(
        &self,
        slot: SlotNumber,
        modified: Revision,
        record: &SlotRecord,
        row: Option<&Row>,
    ) -> Due {
        match row.and_then(Row::holder) {
            None => free(slot, row),
            Some(holder) if !is_of(holder, &record.endpoint) => Due::Leave,
            // It was free: HSDO's server has placed it anew.
            Some(_) if self.ledger.has_shown(slot, modified) => Due::Leave,
            Some(_) => Due::Write(Row::free(slot)),
        }
    }

    fn row_of(&self, slot: SlotNumber, record: &SlotRecord) -> Row {
        let endpoint = &record.endpoint;
        Row {
            slot,
            server: Some(Server::of(endpoint)),
            weight: self.wanted.ramp.weight_at(record.started, self.now, endpoint.weight),
            enabled: true,
            updated: self.update.clone(),
        }
    }
}

fn free(slot: SlotNumber, row: Option<&Row>) -> Due {
    let free = Row::free(slot);
    if row == Some(&free) { Due::Right } else { Due::Write(free) }
}
