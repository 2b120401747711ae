//! Who may leave: only an order empties a server.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Plan, Planner, Step, Unordered, Urgency, address_of, may_take_traffic, shows, takes_traffic,
};
use crate::commands::sync_haproxy::desired::Desired;
use crate::commands::sync_haproxy::problem::Why;
use crate::commands::sync_haproxy::target::Mode;
use crate::haproxy::{AdminState, ObservedServer};
use crate::model::{SlotNumber, Weight};

/// Of servers that were in no row at the first look at HSDO's table, no more than this share of all
/// that serve go: a table that was lost and begins anew, or another one's, has none of them.
const MAX_UNSEEN_PERCENT: usize = 50;

impl Planner<'_> {
    /// Takes out the steps by which a server would leave whom nobody sends away.
    pub(super) fn keep_unordered(&self, steps: &mut Vec<(SlotNumber, Step)>, plan: &mut Plan) {
        let lacks_place = self.lacks_place(plan);
        let mut kept: BTreeMap<SlotNumber, Why> = BTreeMap::new();
        for (slot, step) in steps.iter() {
            let server = self.places.get(*slot).filter(|_| step.urgency.ends_service());
            let why = server.and_then(|server| self.why_kept(*slot, server, lacks_place));
            kept.extend(why.map(|why| (*slot, why)));
        }
        let first = kept.keys().copied().find(|slot| self.is_in_a_circle(*slot, &kept));
        let first = first.filter(|_| self.may_begin_a_circle(steps, &kept));
        if let Some(first) = first {
            kept.remove(&first);
        }
        steps.retain(|(slot, _)| !kept.contains_key(slot));
        for (slot, why) in kept {
            self.tell_kept(slot, why, plan);
        }
    }

    fn tell_kept(&self, slot: SlotNumber, why: Why, plan: &mut Plan) {
        let Some(server) = self.places.get(slot) else { return };
        if server.admin.state() == AdminState::Maint {
            // It serves nobody: it only is not deleted.
            plan.leftovers.remove(&slot);
            return;
        }
        let address = address_of(server);
        let drains = server.admin.state() == AdminState::Drain;
        let name = server.name.clone();
        plan.unordered.insert(slot, Unordered { why, name, address, drains });
        match self.wanted.of(slot) {
            _ if matches!(why, Why::Moves | Why::NoPlaceForOthers) => {}
            Desired::Free | Desired::Maint | Desired::KeepAsIs => _ = plan.drift.remove(&slot),
            Desired::Ready { address, .. } | Desired::Drain { address } => {
                if !shows(server, address) {
                    plan.unplaced.push(slot);
                }
            }
        }
    }

    /// Whether a server that is to take traffic has no place here.
    fn lacks_place(&self, plan: &Plan) -> bool {
        let waits = |slot: &SlotNumber| matches!(self.wanted.of(*slot), Desired::Ready { .. });
        self.target.mode == Mode::Slots && plan.unplaced.iter().any(waits)
    }

    /// Why a server may not leave its place, where it may not.
    fn why_kept(
        &self,
        slot: SlotNumber,
        server: &ObservedServer,
        lacks_place: bool,
    ) -> Option<Why> {
        let (licence, orders) = (self.target.licence, &self.wanted.orders);
        let desired = self.wanted.of(slot);
        let free = desired == Desired::Free;
        let serves = server.admin.state() != AdminState::Maint;
        if !serves && desired.needs_server() {
            return None;
        }
        let for_others = || {
            let waits = lacks_place && !licence.allow_drop && may_take_traffic(server);
            waits.then_some(Why::NoPlaceForOthers)
        };
        if (free && licence.allow_drop) || (!free && licence.take_over) {
            return for_others();
        }
        if !orders.confirmed {
            return Some(Why::Unconfirmed);
        }
        if self.is_named(slot, server) {
            return for_others();
        }
        // A server that has a slot leaves another place once it serves there.
        let mut others = orders.ready_in(server).filter(|other| *other != slot).peekable();
        if others.peek().is_some() && may_take_traffic(server) {
            let serves = |other| {
                let place = self.places.get(other);
                place.is_some_and(|place| self.is_named(other, place) && takes_traffic(place))
            };
            return if others.any(serves) { for_others() } else { Some(Why::Moves) };
        }
        // It takes no traffic here, and has another place.
        let has_moved = others.peek().is_some();
        // Somebody has drained it, and nobody is in it any more.
        let is_empty = server.admin.state() == AdminState::Drain && server.sessions == Some(0);
        let unseen = orders.never_seen(slot) && self.few_are_unseen();
        let is_undone = self.is_another_hands(slot);
        if has_moved || is_empty || unseen || is_undone || orders.send_away(slot, server) {
            return for_others();
        }
        Some(if free { Why::NoRecord } else { Why::Displaced })
    }

    /// Whether somebody has put a server into a place since the table's own was seen there. It leaves
    /// where another one serves meanwhile.
    fn is_another_hands(&self, slot: SlotNumber) -> bool {
        let address = self.wanted.of(slot).address();
        let mut others = self.places.slots.iter().filter(|(other, _)| *other != slot);
        address.is_some_and(|address| self.was_placed(slot, address))
            && others.any(|(_, server)| takes_traffic(server))
    }

    /// Whether a place shows the server that its slot's record names.
    fn is_named(&self, slot: SlotNumber, place: &ObservedServer) -> bool {
        self.wanted.of(slot).address().is_some_and(|address| shows(place, address))
    }

    /// Whether most of what serves stays when all goes that was in no row at the first look at
    /// HSDO's table.
    fn few_are_unseen(&self) -> bool {
        let ready = |(_, server): &&(_, &ObservedServer)| server.admin.state() == AdminState::Ready;
        let serving: Vec<_> = self.places.slots.iter().filter(ready).collect();
        let unseen = serving.iter().filter(|(slot, server)| {
            self.wanted.orders.never_seen(*slot) && !self.is_named(*slot, server)
        });
        unseen.count() * 100 <= serving.len() * MAX_UNSEEN_PERCENT
    }

    /// Whether a server waits for the place of one that waits, and so on, back to its own. One that
    /// waits for anybody else would leave its place and get no other.
    fn is_in_a_circle(&self, start: SlotNumber, kept: &BTreeMap<SlotNumber, Why>) -> bool {
        let mut at = start;
        for _ in 0..kept.len() {
            let moves = self.places.get(at).filter(|_| kept.get(&at) == Some(&Why::Moves));
            let next = moves.and_then(|s| self.wanted.orders.ready_in(s).find(|slot| *slot != at));
            match next {
                Some(next) if next == start => return true,
                Some(next) => at = next,
                None => return false,
            }
        }
        false
    }

    /// Whether one of the servers that wait for each other's places may leave its own: nothing else
    /// is to be done, and enough others go on serving.
    fn may_begin_a_circle(
        &self,
        steps: &[(SlotNumber, Step)],
        kept: &BTreeMap<SlotNumber, Why>,
    ) -> bool {
        let others = |(slot, step): &(SlotNumber, Step)| {
            step.urgency != Urgency::Delete && !kept.contains_key(slot)
        };
        let serving = self.places.slots.iter().filter(|(_, server)| takes_traffic(server)).count();
        let wanted = self.wanted.held().filter(|(_, d)| matches!(d, Desired::Ready { .. })).count();
        let comes = |(slot, desired)| {
            let place = self.places.get(slot);
            matches!(desired, Desired::Ready { weight, .. } if weight > Weight::ZERO)
                && place.is_some_and(|place| self.is_named(slot, place) && !takes_traffic(place))
        };
        let enough = (serving.saturating_sub(1)) * 2 >= wanted;
        !steps.iter().any(others) && serving > 1 && (enough || !self.wanted.held().any(comes))
    }

    /// Takes out the steps that would leave no server up while one is still to come: one that takes
    /// the place of another has to pass its first checks, and its ramp may begin at weight 0. Where
    /// all that could come are to move, the first of them does. Where they only wait for places that are
    /// kept for others, the last servers stay for as long.
    pub(super) fn hold(
        &self,
        steps: &mut Vec<(SlotNumber, Step)>,
        plan: &mut Plan,
    ) -> BTreeSet<SlotNumber> {
        let urgency: BTreeMap<SlotNumber, Urgency> =
            steps.iter().map(|(slot, step)| (*slot, step.urgency)).collect();
        let serves = |slot: SlotNumber| self.places.get(slot).is_some_and(may_take_traffic);
        let leaving = urgency.iter().filter(|(_, urgency)| urgency.ends_service());
        let mut held: BTreeSet<SlotNumber> =
            leaving.map(|(slot, _)| *slot).filter(|slot| serves(*slot)).collect();
        if held.is_empty() || self.somebody_stays(&urgency) {
            return BTreeSet::new();
        }
        let comes =
            |(slot, desired): &(SlotNumber, Desired)| match (desired, self.places.get(*slot)) {
                (Desired::Ready { target, .. }, Some(server)) => {
                    self.possible(*target, server) > Weight::ZERO
                }
                (Desired::Ready { target, .. }, None) => {
                    *target > Weight::ZERO && urgency.contains_key(slot)
                }
                _ => false,
            };
        // One whose place is kept for another does not come.
        let wanted = self.wanted.held().filter(comes).map(|(slot, _)| slot);
        let (waiting, coming): (BTreeSet<_>, BTreeSet<_>) =
            wanted.partition(|slot| plan.unordered.contains_key(slot));
        if coming.is_empty() {
            if !waiting.is_empty() && !self.target.licence.allow_drop {
                steps.retain(|(slot, _)| !held.contains(slot));
                held.iter().for_each(|slot| self.tell_kept(*slot, Why::NoPlaceForOthers, plan));
            }
            return BTreeSet::new();
        }
        if coming.is_subset(&held)
            && let Some(first) = coming.first()
        {
            held.remove(first);
        }
        steps.retain(|(slot, _)| !held.contains(slot));
        held
    }

    /// Whether a server takes traffic that no step touches, but for its weight.
    fn somebody_stays(&self, urgency: &BTreeMap<SlotNumber, Urgency>) -> bool {
        let untouched =
            |slot: &SlotNumber| urgency.get(slot).is_none_or(|urgency| *urgency == Urgency::Weigh);
        let stays = |slot: SlotNumber| match self.wanted.of(slot) {
            Desired::Ready { weight, .. } => weight > Weight::ZERO,
            Desired::Free | Desired::Maint | Desired::Drain { .. } | Desired::KeepAsIs => true,
        };
        let mut places = self.places.slots.iter();
        self.places.taken.values().any(|server| takes_traffic(server))
            || places.any(|(slot, server)| takes_traffic(server) && untouched(slot) && stays(*slot))
    }
}
