use std::collections::BTreeMap;

use super::planner::{Planner, Slot};
use super::{ActionKind, Answer, Unplaced, UnplacedReason};
use crate::model::{
    Endpoint, EndpointId, ServerAddress, SlotNumber, SlotRecord, SlotState, Timestamp,
};

impl Planner<'_> {
    /// Gives every endpoint that stays its slot: those that have one first, new ones last.
    pub(super) fn place_all(&mut self, answer: &Answer) {
        let ready: BTreeMap<EndpointId, SlotNumber> = self
            .in_state(SlotState::Ready)
            .map(|(number, record)| (record.endpoint.id.clone(), number))
            .collect();
        let wanted = || answer.endpoints.values().filter(|endpoint| !endpoint.leaving);
        let mut taken = self.addresses(&ready, answer);
        for endpoint in wanted() {
            if let Some(number) = ready.get(&endpoint.id) {
                self.keep(*number, endpoint, &taken);
            }
        }
        for endpoint in wanted().filter(|e| !ready.contains_key(&e.id)) {
            match taken.get(&endpoint.address) {
                Some(other) => {
                    self.unplaced(endpoint, UnplacedReason::AddressOf(other.clone()));
                }
                None => {
                    self.place(endpoint);
                    taken.insert(endpoint.address, endpoint.id.clone());
                }
            }
        }
    }

    /// Who is ready at which address after this plan. Each server gets the address it asks for
    /// unless that is another's; two that swap theirs both get it.
    fn addresses(
        &self,
        ready: &BTreeMap<EndpointId, SlotNumber>,
        answer: &Answer,
    ) -> BTreeMap<ServerAddress, EndpointId> {
        let mut taken: BTreeMap<ServerAddress, EndpointId> = BTreeMap::new();
        let (movers, others): (Vec<_>, Vec<_>) =
            ready.iter().partition(|(id, n)| self.wish(id, **n, answer) != self.at(**n));
        // Those that stay where they are come first, so that a mover never takes theirs.
        for (id, number) in others {
            taken.extend(self.at(*number).map(|address| (address, id.clone())));
        }
        let mut refused: Vec<&EndpointId> = Vec::new();
        for (id, number) in movers {
            match self.wish(id, *number, answer) {
                Some(address) if taken.contains_key(&address) => refused.push(id),
                Some(address) => _ = taken.insert(address, id.clone()),
                None => {}
            }
        }
        // A refused one keeps its own address, and whoever was to have that is refused as well.
        while let Some(id) = refused.pop() {
            if let Some(address) = self.at(ready[id])
                && let Some(other) = taken.insert(address, id.clone())
            {
                refused.extend(ready.get_key_value(&other).map(|(other, _)| other));
            }
        }
        taken
    }

    /// The address a ready server has now.
    fn at(&self, number: SlotNumber) -> Option<ServerAddress> {
        Some(self.slots.get(&number)?.record.as_ref()?.endpoint.address)
    }

    /// The address the source gives it.
    fn wish(&self, id: &EndpointId, number: SlotNumber, answer: &Answer) -> Option<ServerAddress> {
        answer.endpoints.get(id).map(|e| e.address).or_else(|| self.at(number))
    }

    /// A server that is ready already: new metadata, a new address, or a table that has shrunk.
    fn keep(
        &mut self,
        number: SlotNumber,
        endpoint: &Endpoint,
        taken: &BTreeMap<ServerAddress, EndpointId>,
    ) {
        let Some(record) = self.slots.get(&number).and_then(|slot| slot.record.as_ref()) else {
            return;
        };
        let moved = record.endpoint.address != endpoint.address;
        // A process at a new address is a new process; one that only changes slots is not.
        let started = if moved { self.world.now } else { record.started };
        if moved && taken.get(&endpoint.address) != Some(&endpoint.id) {
            let why = match taken.get(&endpoint.address) {
                Some(other) => UnplacedReason::AddressOf(other.clone()),
                None => UnplacedReason::NoFreeSlot,
            };
            self.unplaced(endpoint, why);
            return;
        }
        let leaves =
            moved || !self.in_range(number) || self.is_kept_for_another(number, endpoint, taken);
        match self.served_at(endpoint).or_else(|| self.lowest_free()) {
            Some(free) if leaves => {
                self.occupy(free, endpoint, started);
                self.enter(number, SlotState::Drain, ActionKind::Drain);
            }
            None if !self.in_range(number) => {
                self.enter(number, SlotState::Drain, ActionKind::Drain);
                self.unplaced(endpoint, UnplacedReason::NoFreeSlot);
            }
            _ => self.rewrite(number, endpoint, moved),
        }
    }

    /// Whether a HAProxy keeps a slot's place for a server that the table says nothing of, so that the
    /// slot's own does not get it there.
    fn is_kept_for_another(
        &self,
        number: SlotNumber,
        endpoint: &Endpoint,
        taken: &BTreeMap<ServerAddress, EndpointId>,
    ) -> bool {
        let held = self.world.places.held.get(&number);
        held.is_some_and(|held| *held != endpoint.address && !taken.contains_key(held))
    }

    /// The same slot with what the source says now.
    fn rewrite(&mut self, number: SlotNumber, endpoint: &Endpoint, moved: bool) {
        let now = self.world.now;
        let Some(slot) = self.slots.get_mut(&number) else {
            return;
        };
        let Some(record) = slot.record.as_mut().filter(|record| record.endpoint != *endpoint)
        else {
            return;
        };
        record.endpoint = endpoint.clone();
        if moved {
            (record.since, record.started) = (now, now);
        }
        slot.changed.get_or_insert(match moved {
            true => ActionKind::Readdress,
            false => ActionKind::Update,
        });
    }

    /// A server without a ready slot: back to the one it left, or the lowest free one.
    fn place(&mut self, endpoint: &Endpoint) {
        if let Some((number, state)) = self.left_by(endpoint) {
            self.enter(number, SlotState::Ready, ActionKind::Return);
            let now = self.world.now;
            if let Some(record) = self.record_mut(number) {
                record.endpoint = endpoint.clone();
                // One that only drained is still warm; one that had gone starts anew.
                if state == SlotState::Rest {
                    record.started = now;
                }
            }
            return;
        }
        // It is there already, and as warm as one can be.
        if let Some(number) = self.served_at(endpoint) {
            self.occupy(number, endpoint, Timestamp::UNIX_EPOCH);
            return;
        }
        match self.lowest_free() {
            Some(free) => self.occupy(free, endpoint, self.world.now),
            None => {
                self.unplaced(endpoint, UnplacedReason::NoFreeSlot);
            }
        }
    }

    /// The free slot in which this address is served, though no record says so.
    fn served_at(&self, endpoint: &Endpoint) -> Option<SlotNumber> {
        let number = *self.world.places.slots.get(&endpoint.address)?;
        (self.in_range(number) && self.is_free(number)).then_some(number)
    }

    /// The slot that this very server, at this address, drains in or rests in.
    pub(super) fn left_by(&self, endpoint: &Endpoint) -> Option<(SlotNumber, SlotState)> {
        let same = |record: &SlotRecord, state| {
            record.state == state && record.endpoint.address == endpoint.address
        };
        [SlotState::Drain, SlotState::Rest].into_iter().find_map(|state| {
            let number = self.left_slots(&endpoint.id).iter().find(|number| {
                let slot = &self.slots[number];
                slot.record.as_ref().is_some_and(|record| same(record, state))
                    && self.in_range(**number)
                    && slot.changed.is_none()
            })?;
            Some((*number, state))
        })
    }

    fn unplaced(&mut self, endpoint: &Endpoint, why: UnplacedReason) {
        self.plan.unplaced.push(Unplaced { server: endpoint.id.clone(), why });
    }

    fn occupy(&mut self, number: SlotNumber, endpoint: &Endpoint, started: Timestamp) {
        let record = SlotRecord {
            endpoint: endpoint.clone(),
            state: SlotState::Ready,
            since: self.world.now,
            started,
        };
        let slot = Slot { seen: None, record: Some(record), changed: Some(ActionKind::Place) };
        self.slots.insert(number, slot);
    }
}
