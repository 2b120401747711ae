use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::plan::shows;
use super::target::Target;
use crate::haproxy::ObservedServer;
use crate::model::{ServerAddress, SlotNumber, SlotState, Timestamp, Weight};
use crate::tables::{Held, Left, Table};

/// What one slot's server is to be in one HAProxy backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Desired {
    /// No record: nobody gets new traffic here, and who is served already leaves on an order alone.
    Free,
    Maint,
    Drain {
        address: ServerAddress,
    },
    Ready {
        address: ServerAddress,
        weight: Weight,
        /// What its weight grows to.
        target: Weight,
    },
    /// Nobody knows what it should be.
    KeepAsIs,
}

impl Desired {
    /// Whether a server has to be there for it.
    pub fn needs_server(self) -> bool {
        self.address().is_some()
    }

    /// Where its server is to be.
    pub fn address(self) -> Option<ServerAddress> {
        match self {
            Self::Drain { address } | Self::Ready { address, .. } => Some(address),
            Self::Free | Self::Maint | Self::KeepAsIs => None,
        }
    }
}

/// What every slot of a HAProxy backend is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// In their order.
    slots: Vec<(SlotNumber, Desired)>,
    /// How many places the backend needs.
    pub places: u32,
    pub orders: Orders,
    /// Slots whose servers have had their time to drain.
    pub resting: BTreeSet<SlotNumber>,
}

/// What a table says of servers that are to go. A server leaves because of one of these, never
/// because something is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Orders {
    /// A leader stands behind the table in this life of the store.
    pub confirmed: bool,
    /// The addresses of records that drain or rest, by IP.
    leaving: BTreeMap<IpAddr, Vec<ServerAddress>>,
    /// Those of ready records, with their slots.
    ready: BTreeMap<IpAddr, Vec<(ServerAddress, SlotNumber)>>,
    removed: BTreeMap<SlotNumber, Left>,
}

impl Orders {
    fn compute(table: &Table, target: &Target) -> Self {
        let mut orders = Self { confirmed: table.confirmed, ..Self::default() };
        for (slot, held) in &table.slots {
            let Held::By(record) = held else { continue };
            let Some(address) = address(record.endpoint.address, target) else { continue };
            if record.state == SlotState::Ready && target.takes.takes(&record.endpoint) {
                orders.ready.entry(address.ip()).or_default().push((address, *slot));
            } else {
                orders.leaving.entry(address.ip()).or_default().push(address);
            }
        }
        for (slot, left) in &table.removed {
            let of_target = |addresses: &Vec<ServerAddress>| {
                addresses.iter().filter_map(|removed| address(*removed, target)).collect()
            };
            let left = match left {
                Left::Servers(addresses) => Left::Servers(of_target(addresses)),
                other => other.clone(),
            };
            orders.removed.insert(*slot, left);
        }
        orders
    }

    /// The slots whose ready records name the address that a server shows.
    pub fn ready_in(&self, server: &ObservedServer) -> impl Iterator<Item = SlotNumber> {
        let there = server.address.and_then(|ip| self.ready.get(&ip.to_canonical()));
        let there = there.into_iter().flatten();
        there.filter(|(address, _)| shows(server, *address)).map(|(_, slot)| *slot)
    }

    /// Whether a record, or the memory of a slot, sends away who a server is.
    pub fn send_away(&self, slot: SlotNumber, server: &ObservedServer) -> bool {
        let there = server.address.and_then(|ip| self.leaving.get(&ip.to_canonical()));
        if there.into_iter().flatten().any(|address| shows(server, *address)) {
            return true;
        }
        match self.removed.get(&slot) {
            Some(Left::Servers(left)) => left.iter().any(|address| shows(server, *address)),
            Some(Left::Anyone) => true,
            Some(Left::Unseen) | None => false,
        }
    }

    /// Whether a slot has been free for as long as anybody looks.
    pub fn never_seen(&self, slot: SlotNumber) -> bool {
        matches!(self.removed.get(&slot), Some(Left::Unseen))
    }
}

impl Wanted {
    /// At `now`, which decides the ramps.
    pub fn compute(table: &Table, target: &Target, now: Timestamp) -> Self {
        let slots =
            table.slots.iter().map(|(slot, held)| (*slot, of(held, table, target, now))).collect();
        let rests = |held: &Held| matches!(held, Held::By(r) if r.state == SlotState::Rest);
        let resting = table.slots.iter().filter(|(_, held)| rests(held)).map(|(slot, _)| *slot);
        let orders = Orders::compute(table, target);
        Self { slots, places: table.places(), orders, resting: resting.collect() }
    }

    /// A slot without an entry is free, or the table is shorter than the backend.
    pub fn of(&self, slot: SlotNumber) -> Desired {
        let at = self.slots.binary_search_by_key(&slot, |(slot, _)| *slot);
        let held = at.ok().and_then(|at| self.slots.get(at));
        held.map_or(Desired::Free, |(_, desired)| *desired)
    }

    /// The slots that are not simply free.
    pub fn held(&self) -> impl Iterator<Item = (SlotNumber, Desired)> {
        self.slots.iter().copied()
    }
}

/// How long from `now` until a ramp takes its next step.
pub fn next_step(table: &Table, now: Timestamp) -> Option<Duration> {
    let ready = table.slots.values().filter_map(|held| match held {
        Held::By(record) if record.state == SlotState::Ready => Some(record),
        Held::By(_) | Held::Unknown => None,
    });
    let ramp = &table.spec.ramp;
    ready.filter_map(|r| ramp.next_change(r.started, now, r.endpoint.weight)).min()
}

fn of(held: &Held, table: &Table, target: &Target, now: Timestamp) -> Desired {
    let Held::By(record) = held else {
        return Desired::KeepAsIs;
    };
    if record.state == SlotState::Rest || !target.takes.takes(&record.endpoint) {
        return Desired::Maint;
    }
    match (record.state, address(record.endpoint.address, target)) {
        (_, None) => Desired::KeepAsIs,
        (SlotState::Drain, Some(address)) => Desired::Drain { address },
        (SlotState::Ready | SlotState::Rest, Some(address)) => {
            let (ramp, own) = (&table.spec.ramp, record.endpoint.weight);
            let target = ramp.target(own);
            Desired::Ready { address, weight: ramp.weight_at(record.started, now, own), target }
        }
    }
}

fn address(address: ServerAddress, target: &Target) -> Option<ServerAddress> {
    target.port.map_or(Some(address), |port| address.with_port(port).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::sync_haproxy::target::{Filter, Selector};
    use crate::commands::sync_haproxy::testing::{at, endpoint, held, table, target};
    use crate::model::Endpoint;

    fn slot(number: u32) -> SlotNumber {
        SlotNumber::new(number).unwrap()
    }

    fn in_zone(id: &str, zone: &str) -> Endpoint {
        Endpoint { zone: Some(zone.parse().unwrap()), ..endpoint(id) }
    }

    fn zones(names: &[&str]) -> Filter {
        Filter { zones: names.iter().map(|n| n.parse().unwrap()).collect(), ..Filter::default() }
    }

    fn with(takes: Selector) -> Target {
        Target { takes, ..target() }
    }

    #[test]
    fn every_slot_has_a_decision_in_every_backend() {
        let table = table(&[
            (1, held(in_zone("a", "z1"), SlotState::Ready)),
            (2, held(in_zone("b", "z2"), SlotState::Ready)),
            (3, held(endpoint("c"), SlotState::Ready)),
        ]);
        let served = |takes| {
            let wanted = Wanted::compute(&table, &with(takes), at(0));
            [1, 2, 3, 4].map(|n| wanted.of(slot(n)).needs_server())
        };
        assert_eq!(served(Selector::Matching(zones(&["z1"]))), [true, false, false, false]);
        assert_eq!(served(Selector::NoneOf(vec![zones(&["z1"])])), [false, true, true, false]);
        assert_eq!(served(Selector::NoneOf(vec![])), [true, true, true, false]);
        let both = vec![zones(&["z1"]), zones(&["z2"])];
        assert_eq!(served(Selector::NoneOf(both)), [false, false, true, false]);
    }

    #[test]
    fn a_freed_slot_is_in_maint_also_where_its_endpoint_was_not_taken() {
        let rest = table(&[(1, held(in_zone("a", "z2"), SlotState::Rest))]);
        for takes in [Selector::Matching(zones(&["z1"])), Selector::NoneOf(vec![])] {
            assert_eq!(Wanted::compute(&rest, &with(takes), at(0)).of(slot(1)), Desired::Maint);
        }
    }

    #[test]
    fn the_weight_follows_the_ramp_and_the_next_step_is_known() {
        let table = table(&[(1, held(endpoint("a"), SlotState::Ready))]);
        let weight = |now| match Wanted::compute(&table, &target(), at(now)).of(slot(1)) {
            Desired::Ready { weight, .. } => weight.get(),
            other => panic!("{other:?}"),
        };
        assert_eq!([weight(0), weight(9_999), weight(10_000)], [10, 10, 20]);
        assert_eq!(next_step(&table, at(4_000)), Some(Duration::from_secs(6)));
        assert_eq!(next_step(&table, at(1_000_000)), None);
    }

    #[test]
    fn a_weight_of_zero_that_grows_is_another_than_one_that_is_wanted() {
        let unwanted = Endpoint { weight: Some(Weight::ZERO), ..endpoint("b") };
        let mut table = table(&[
            (1, held(endpoint("a"), SlotState::Ready)),
            (2, held(unwanted, SlotState::Ready)),
        ]);
        table.spec.ramp.min = Weight::ZERO;
        let wanted = Wanted::compute(&table, &target(), at(0));
        let weights = |n| match wanted.of(slot(n)) {
            Desired::Ready { weight, target, .. } => (weight.get(), target.get()),
            other => panic!("{other:?}"),
        };
        assert_eq!([1, 2].map(weights), [(0, 100), (0, 0)]);
    }

    #[test]
    fn a_port_of_the_target_replaces_the_endpoints_own() {
        let table = table(&[(1, held(endpoint("a"), SlotState::Drain))]);
        let target = Target { port: Some(8080), ..target() };
        let wanted = Wanted::compute(&table, &target, at(0)).of(slot(1));
        let address = endpoint("a").address.with_port(8080).unwrap();
        assert_eq!(wanted, Desired::Drain { address });
    }
}
