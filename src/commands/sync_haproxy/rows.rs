//! HSDO's table as a feed: read again and again, since it tells nobody that it has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::feed::{Teller, View, damage};
use super::settings;
use crate::config::Reader;
use crate::daemon::{Backoff, Health};
use crate::hsdo::{HsdoTable, Row, Rows, Server, ServerWeights, Stored, TableLayout, TablePlace};
use crate::model::{
    BackendName, BackendSpec, Endpoint, NameError, Ramp, ServerAddress, SlotNumber, SlotRecord,
    SlotState, Timestamp, Weight,
};
use crate::store::{Revision, StoreLife};
use crate::tables::{Held, Left, Table, TableError};

/// HSDO's table, and how often it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HsdoFeed {
    pub place: TablePlace,
    pub poll: Duration,
}

impl HsdoFeed {
    pub fn read(reader: &mut Reader, layout: TableLayout) -> Option<Self> {
        let path = |name: &str| format!("sync-haproxy.{name}");
        // In the other layout it says whose the table in the store is to be.
        let table = match layout {
            TableLayout::Hsdo => reader.find(&path("hsdo-table")),
            TableLayout::Lbctl => None,
        };
        let region = reader.find(&path("aws-region"));
        let least = Duration::from_millis(100);
        let poll = settings::duration(reader, &path("table-poll"), 1, least);
        let place = TablePlace::of(reader, "sync-haproxy", layout, table, region)?;
        Some(Self { place, poll })
    }

    /// The name that it is reported under: the one set, as of the backend that discover keeps in
    /// it, else its own.
    pub fn name(&self, reader: &mut Reader, path: &str) -> Option<BackendName> {
        let set = reader.find(path);
        let own = || match self.place.table.as_str().parse() {
            Ok(own) => Some(own),
            Err(error) => {
                let error: NameError = error;
                reader.problem(path, format!("{error}: set from"));
                None
            }
        };
        set.or_else(own)
    }
}

/// Never connected to: each target of HSDO's table has a port of its own.
const NO_PORT: u16 = 1;

/// Reads the table until it is dropped.
pub(super) async fn follow(feed: HsdoFeed, teller: Teller) {
    let HsdoFeed { place, poll } = feed;
    let table = HsdoTable::open(&place).await;
    let mut health = Health::new(format!("reading HSDO's table {}", place.table));
    let mut backoff = Backoff::new(poll, poll.max(Duration::from_secs(5)));
    let mut weights = ServerWeights::default();
    let mut seen = Seen::default();
    loop {
        let wait = match table.scan(false).await {
            Ok(rows) => {
                health.succeeded();
                weights.show(&rows);
                teller.update(|view| seen.take(teller.name(), rows, view));
                // Load balancers that were started together do not all read at once.
                poll.mul_f64(0.75 + fastrand::f64() / 2.0)
            }
            Err(error) => {
                health.failed(&error);
                seen.was_empty |= error.is_missing();
                teller.update(|view| view.stale = Some(error.to_string()));
                backoff.next_wait()
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// What was read last, and how often it was something new.
#[derive(Debug, Default)]
struct Seen {
    rows: Rows,
    changes: u64,
    /// Rows that were not free and are not there any more: nobody frees a row by deleting it.
    lost: BTreeSet<SlotNumber>,
    /// The last look found no row at all, or no table.
    was_empty: bool,
    /// Rows that somebody has left before our eyes.
    left: BTreeSet<SlotNumber>,
}

impl Seen {
    fn take(&mut self, name: &BackendName, rows: Rows, view: &mut View) {
        view.loaded = true;
        view.stale = None;
        if rows.is_empty() {
            self.was_empty = true;
            // HSDO's server makes every row at its start: this is no table without servers.
            view.problem = Some(
                "HSDO's table is empty, so HAProxy is left as it is: is hsdo-table its name, and \
                 has a server of HSDO's or discover begun to fill it?"
                    .to_owned(),
            );
            return;
        }
        let was_empty = std::mem::take(&mut self.was_empty);
        if self.changes == 0 || self.rows != rows {
            self.changes += 1;
            let not_free = |slot: &SlotNumber| !self.rows.is_free(*slot);
            let known = self.lost.len();
            self.lost.extend(self.rows.iter().map(|(slot, _)| slot).filter(not_free));
            self.lost.retain(|slot| rows.get(*slot).is_none());
            if self.lost.len() > known {
                let lost = self.lost.len();
                tracing::warn!(table = %name, lost, "rows of HSDO's table are not there any more: their servers stay");
            }
            let before = self.rows.sound().filter(|row| row.holder().is_some());
            let gone: Vec<SlotNumber> =
                before.filter(|row| !is_held_by(&rows, row)).map(|row| row.slot).collect();
            // Of a table that begins anew nobody can tell who has left it.
            match was_empty {
                true => self.left.clear(),
                false => self.left.extend(gone),
            }
            let mut table = table(name, &rows, Revision(self.changes));
            table.removed = self.removed(&rows);
            table.slots.extend(self.lost.iter().map(|slot| (*slot, Held::Unknown)));
            view.table = Some(Arc::new(table));
            self.rows = rows;
        }
        view.problem = damage(view.table.as_deref()).or_else(|| doubles(&self.rows));
    }
}

impl Seen {
    /// What rows say of who was in them: HSDO's server frees them, and gives them to others, in one
    /// step, and nobody knows who was in one before the first look.
    fn removed(&self, rows: &Rows) -> BTreeMap<SlotNumber, Left> {
        let left = |row: &Row| match self.left.contains(&row.slot) {
            true => (row.slot, Left::Anyone),
            false => (row.slot, Left::Unseen),
        };
        rows.sound().map(left).collect()
    }
}

/// Whether the server of a row is still in it; a row that is not there any more says nothing.
fn is_held_by(rows: &Rows, row: &Row) -> bool {
    match rows.get(row.slot).map(|stored| &stored.row) {
        Some(Ok(now)) => {
            now.holder().map(|server| server.ip) == row.holder().map(|server| server.ip)
        }
        Some(Err(_)) | None => true,
    }
}

fn table(name: &BackendName, rows: &Rows, revision: Revision) -> Table {
    let held = |(slot, stored): (SlotNumber, &Stored)| match &stored.row {
        Ok(row) => Some((slot, record(row, row.holder()?))),
        Err(_) => Some((slot, Held::Unknown)),
    };
    Table {
        name: name.clone(),
        layout: TableLayout::Hsdo,
        revision,
        spec: BackendSpec {
            slots: rows.iter().last().map_or(0, |(slot, _)| slot.get()),
            // Whoever writes the rows ramps: each server is at its own weight from the start.
            ramp: Ramp::flat(Weight::MAX),
            drain_deadline: Duration::ZERO,
            drain_at_least: Duration::ZERO,
            rest: Duration::ZERO,
            unplaced: Vec::new(),
            origin: None,
        },
        slots: rows.iter().filter_map(held).collect(),
        removed: BTreeMap::new(),
        // HSDO's server writes as it thinks right, and nobody says that it leads.
        confirmed: true,
        life: StoreLife::default(),
        problems: rows.errors().cloned().map(TableError::Row).collect(),
    }
}

fn record(row: &Row, server: &Server) -> Held {
    let Ok(address) = ServerAddress::new(server.ip, NO_PORT) else { return Held::Unknown };
    let endpoint = Endpoint {
        id: server.name.clone(),
        address,
        name: None,
        group: server.group.clone(),
        zone: None,
        weight: Some(row.weight),
        leaving: false,
    };
    // A server of weight 0 gets no new sessions from HSDO's clients either.
    let state = if row.weight == Weight::ZERO { SlotState::Drain } else { SlotState::Ready };
    let epoch = Timestamp::UNIX_EPOCH;
    Held::By(SlotRecord { endpoint, state, since: epoch, started: epoch })
}

/// Says which server has two rows that take traffic. Both are served, as HSDO's clients do, so that
/// all load balancers agree.
fn doubles(rows: &Rows) -> Option<String> {
    let mut first: BTreeMap<IpAddr, SlotNumber> = BTreeMap::new();
    for row in rows.sound().filter(|row| row.weight > Weight::ZERO) {
        let Some(server) = row.holder() else { continue };
        if let Some(other) = first.insert(server.ip, row.slot) {
            let (slot, ip) = (row.slot, server.ip);
            return Some(format!(
                "rows {other} and {slot} of HSDO's table both have {ip}, which gets a double share: \
                 discover frees one, or do it by hand"
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::sync_haproxy::desired::{Desired, Wanted};
    use crate::commands::sync_haproxy::target::Target;
    use crate::commands::sync_haproxy::testing::{at, target};
    use crate::hsdo::LastUpdate;

    fn slot(number: u32) -> SlotNumber {
        SlotNumber::new(number).unwrap()
    }

    fn row(number: u32, ip: &str, weight: u64) -> Row {
        let (name, group) = (format!("i-{number}").parse().unwrap(), Some("blue".parse().unwrap()));
        let server = Some(Server { ip: ip.parse().unwrap(), name, group });
        let weight = Weight::saturating(weight);
        Row { slot: slot(number), server, weight, enabled: true, updated: LastUpdate::never() }
    }

    fn rows(rows: &[Row]) -> Rows {
        Rows::read(rows.iter().map(Row::to_item))
    }

    fn seen(seen: &mut Seen, rows: Rows, view: &mut View) {
        seen.take(&"web".parse().unwrap(), rows, view);
    }

    #[test]
    fn a_row_is_served_at_its_own_weight_and_the_targets_port() {
        let disabled = Row { enabled: false, ..row(4, "10.0.0.4", 7) };
        let table = [row(1, "10.0.0.1", 3), row(2, "10.0.0.2", 0), Row::free(slot(3)), disabled];
        let (mut seen_rows, mut view) = (Seen::default(), View::default());
        seen(&mut seen_rows, rows(&table), &mut view);
        let target = Target { port: Some(8080), ..target() };
        let wanted = Wanted::compute(view.table.as_ref().unwrap(), &target, at(0));
        let address = |ip: &str| format!("{ip}:8080").parse().unwrap();
        let ready = Desired::Ready {
            address: address("10.0.0.1"),
            weight: Weight::saturating(3),
            target: Weight::saturating(3),
        };
        assert_eq!(wanted.of(slot(1)), ready);
        assert_eq!(wanted.of(slot(2)), Desired::Drain { address: address("10.0.0.2") });
        assert_eq!([3, 4].map(|n| wanted.of(slot(n))), [Desired::Free; 2]);
        assert_eq!((wanted.places, view.problem), (4, None));
    }

    #[test]
    fn an_empty_table_is_not_one_without_servers() {
        let (mut seen_rows, mut view) = (Seen::default(), View::default());
        seen(&mut seen_rows, Rows::default(), &mut view);
        assert!(view.loaded && view.table.is_none());
        assert!(view.problem.as_ref().unwrap().contains("empty"), "{view:?}");
        seen(&mut seen_rows, rows(&[row(1, "10.0.0.1", 3)]), &mut view);
        assert_eq!(view.problem, None);
        let before = view.table.clone();
        seen(&mut seen_rows, Rows::default(), &mut view);
        assert!(view.problem.is_some() && view.table == before);
        seen(&mut seen_rows, rows(&[row(1, "10.0.0.1", 3)]), &mut view);
        assert!(view.problem.is_none() && view.table == before);
    }

    #[test]
    fn a_row_that_is_deleted_leaves_its_server_as_it_is_until_there_is_one_again() {
        let (mut seen_rows, mut view) = (Seen::default(), View::default());
        let table = [row(1, "10.0.0.1", 3), row(2, "10.0.0.2", 3), Row::free(slot(3))];
        let mut items: Vec<_> = table.iter().map(Row::to_item).collect();
        items[1].remove("IPAddress");
        seen(&mut seen_rows, Rows::read(items), &mut view);
        let held = |view: &View, n| view.table.as_ref().unwrap().slots.get(&slot(n)).cloned();
        seen(&mut seen_rows, rows(&[row(4, "10.0.0.4", 3)]), &mut view);
        let gone = [1, 2, 3].map(|n| held(&view, n));
        assert_eq!(gone, [Some(Held::Unknown), Some(Held::Unknown), None]);
        seen(&mut seen_rows, rows(&[row(4, "10.0.0.4", 5)]), &mut view);
        assert_eq!(held(&view, 1), Some(Held::Unknown), "a later change forgot it");
        seen(&mut seen_rows, rows(&[Row::free(slot(1)), row(4, "10.0.0.4", 5)]), &mut view);
        assert_eq!([1, 2].map(|n| held(&view, n)), [None, Some(Held::Unknown)]);
    }

    #[test]
    fn a_table_that_was_deleted_and_made_anew_sends_nobody_away() {
        let free: Vec<Row> = [1, 2].map(|n| Row::free(slot(n))).into();
        for (is_missing, left) in [(false, Left::Anyone), (true, Left::Unseen)] {
            let (mut seen_rows, mut view) = (Seen::default(), View::default());
            seen(&mut seen_rows, rows(&[row(1, "10.0.0.1", 3), row(2, "10.0.0.2", 3)]), &mut view);
            seen_rows.was_empty |= is_missing;
            seen(&mut seen_rows, rows(&free), &mut view);
            let removed = view.table.as_ref().unwrap().removed[&slot(1)].clone();
            assert_eq!(removed, left, "{is_missing}");
        }
    }

    /// It has no place in HAProxy that could be left as it is.
    #[test]
    fn a_row_beyond_the_places_that_is_deleted_again_needs_none() {
        let (mut seen_rows, mut view) = (Seen::default(), View::default());
        let places = |view: &View| view.table.as_ref().unwrap().places();
        let usual = [row(1, "10.0.0.1", 3), Row::free(slot(2))];
        seen(&mut seen_rows, rows(&usual), &mut view);
        seen(&mut seen_rows, rows(&[&usual[..], &[row(11, "10.0.0.11", 3)]].concat()), &mut view);
        assert_eq!(places(&view), 11);
        seen(&mut seen_rows, rows(&usual), &mut view);
        assert_eq!(places(&view), 2);
    }

    #[test]
    fn only_a_changed_table_has_another_revision() {
        let (mut seen_rows, mut view) = (Seen::default(), View::default());
        let mut revision = |weight| {
            seen(&mut seen_rows, rows(&[row(1, "10.0.0.1", weight)]), &mut view);
            view.table.as_ref().unwrap().revision.0
        };
        assert_eq!([revision(1), revision(1), revision(2), revision(1)], [1, 1, 2, 3]);
    }

    #[test]
    fn damaged_rows_are_left_as_they_are_and_doubles_are_served_and_told() {
        let mut items: Vec<_> =
            [row(1, "10.0.0.1", 3), row(2, "10.0.0.2", 3)].iter().map(Row::to_item).collect();
        items[1].remove("IPAddress");
        let (mut seen_rows, mut view) = (Seen::default(), View::default());
        seen(&mut seen_rows, Rows::read(items), &mut view);
        let table = view.table.clone().unwrap();
        assert_eq!(table.slots[&slot(2)], Held::Unknown);
        let problem = view.problem.as_ref().unwrap();
        assert!(
            problem.contains("row 2 of HSDO's table") && problem.contains("IPAddress is missing")
        );
        let doubled = [row(1, "10.0.0.1", 3), row(5, "10.0.0.1", 1), row(6, "10.0.0.1", 0)];
        // Another table: one that row 2 is not lost from.
        let (mut seen_rows, mut view) = (Seen::default(), View::default());
        seen(&mut seen_rows, rows(&doubled), &mut view);
        assert_eq!(view.table.as_ref().unwrap().slots.len(), 3);
        assert!(view.problem.as_ref().unwrap().contains("rows 1 and 5"), "{view:?}");
    }
}
