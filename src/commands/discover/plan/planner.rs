use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::floors::Loss;
use super::{
    Action, ActionKind, Answer, Confirm, Plan, Refusal, RefusalReason, Remember, Report, Waiting,
    World,
};
use crate::model::{
    BackendSpec, Confirmation, EndpointId, HaproxyName, SlotNumber, SlotRecord, SlotState,
    Timestamp,
};
use crate::store::Revision;
use crate::tables::Content;

/// How many unplaced endpoints the spec names: enough for people, and far under the largest value.
const MAX_NAMED: usize = 500;

/// A stored time this far in the future is another host's broken clock, not skew.
const MAX_SKEW: Duration = Duration::from_secs(60);

/// How long a slot rests for those who tell nothing: HSDO's clients look once a second.
const SILENT_REST: Duration = Duration::from_secs(2);

/// Plans one step towards a table that equals the source's answer.
pub fn plan(world: &World<'_>) -> Plan {
    let mut planner = Planner::new(world);
    if let Some(answer) = world.answer {
        if !world.is_confirmed() {
            planner.forget_old_orders(answer);
        }
        planner.drain_doubles(answer);
        planner.drain_leaving(answer);
        planner.remove_vanished(answer);
        planner.place_all(answer);
    }
    // An order of another life of the store is not carried out before it is given again.
    if world.is_confirmed() || world.answer.is_some() {
        planner.step_down();
    }
    planner.finish()
}

pub(super) struct Planner<'a> {
    pub(super) world: &'a World<'a>,
    pub(super) slots: BTreeMap<SlotNumber, Slot>,
    pub(super) plan: Plan,
    /// The slots that each server drained or rested in before this plan.
    left: BTreeMap<&'a EndpointId, Vec<SlotNumber>>,
    /// No slot up to this number is free and empty.
    full_to: u32,
    /// Slots in which somebody is known to be served.
    reserved: BTreeSet<SlotNumber>,
    /// Slots in which HAProxies still have sessions of servers that have gone: a new one there would
    /// begin with them.
    crowded: BTreeSet<SlotNumber>,
}

/// A slot as the plan has it so far.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) seen: Option<Revision>,
    /// `None`: it becomes free.
    pub(super) record: Option<SlotRecord>,
    /// Set by what changed it.
    pub(super) changed: Option<ActionKind>,
}

impl<'a> Planner<'a> {
    fn new(world: &'a World<'a>) -> Self {
        let slots = world.table.slots.iter().filter_map(|(number, stored)| {
            let record = stored.content.repaired(*number, world.now)?;
            let damaged = matches!(stored.content, Content::Damaged(_));
            let changed = damaged.then_some(ActionKind::Repair);
            let seen = Some(stored.modified);
            Some((*number, Slot { seen, record: Some(record), changed }))
        });
        let mut left: BTreeMap<&EndpointId, Vec<SlotNumber>> = BTreeMap::new();
        for (number, record) in world.table.records().filter(|(_, r)| r.state != SlotState::Ready) {
            left.entry(&record.endpoint.id).or_default().push(number);
        }
        let places = world.places;
        let mut reserved: BTreeSet<SlotNumber> = places.held.keys().copied().collect();
        let in_range = |slot: &SlotNumber| slot.get() <= world.policy.slots;
        reserved.extend(places.slots.values().copied().filter(in_range));
        let live = world.reports.iter().filter(|report| !report.gone);
        let crowded = live.flat_map(|report| &report.backend.crowded).copied();
        Self {
            world,
            slots: slots.collect(),
            plan: Plan::default(),
            left,
            full_to: 0,
            reserved,
            crowded: crowded.collect(),
        }
    }

    /// Every slot in a state, with its record.
    pub(super) fn in_state(
        &self,
        state: SlotState,
    ) -> impl Iterator<Item = (SlotNumber, &SlotRecord)> {
        self.slots.iter().filter_map(move |(number, slot)| {
            let record = slot.record.as_ref().filter(|record| record.state == state)?;
            Some((*number, record))
        })
    }

    pub(super) fn enter(&mut self, number: SlotNumber, state: SlotState, kind: ActionKind) {
        let now = self.world.now;
        if let Some(slot) = self.slots.get_mut(&number)
            && let Some(record) = &mut slot.record
        {
            record.state = state;
            record.since = now;
            slot.changed = Some(kind);
        }
    }

    pub(super) fn record_mut(&mut self, number: SlotNumber) -> Option<&mut SlotRecord> {
        self.slots.get_mut(&number)?.record.as_mut()
    }

    pub(super) fn in_range(&self, number: SlotNumber) -> bool {
        number.get() <= self.world.policy.slots
    }

    /// Servers that were to leave in another life of the store, and of whom the source says nothing:
    /// they may have come back since, so that HAProxy keeps what it has. Those that the source sees
    /// are placed again.
    fn forget_old_orders(&mut self, answer: &Answer) {
        for slot in self.slots.values_mut() {
            let gone = |record: &SlotRecord| {
                record.state != SlotState::Ready && !answer.knows(&record.endpoint.id)
            };
            if slot.record.as_ref().is_some_and(gone) {
                slot.record = None;
                slot.changed = Some(ActionKind::Forget);
            }
        }
    }

    /// Of several ready slots of one id, or at one address, one stays: a damaged table, or a crash
    /// between two commits.
    fn drain_doubles(&mut self, answer: &Answer) {
        let mut ready: Vec<_> = self
            .in_state(SlotState::Ready)
            .map(|(number, record)| {
                let wanted = answer.endpoints.get(&record.endpoint.id);
                let moved = wanted.is_some_and(|e| e.address != record.endpoint.address);
                let unknown = !answer.knows(&record.endpoint.id);
                // A damaged one may have left already: nobody knows.
                let repaired = self.slots.get(&number).is_some_and(|slot| slot.changed.is_some());
                let place = (!self.in_range(number), record.started, number);
                let rank = (unknown, moved, repaired, place);
                (rank, record.endpoint.id.clone(), record.endpoint.address)
            })
            .collect();
        ready.sort();
        let (mut ids, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for ((.., (.., number)), id, address) in ready {
            // Both are noted even where the first is a double already.
            if !ids.insert(id) | !addresses.insert(address) {
                self.enter(number, SlotState::Drain, ActionKind::Drain);
            }
        }
    }

    fn drain_leaving(&mut self, answer: &Answer) {
        let leaving: Vec<SlotNumber> = self
            .in_state(SlotState::Ready)
            .filter(|(_, record)| answer.leaves(&record.endpoint.id))
            .map(|(number, _)| number)
            .collect();
        for number in leaving {
            self.enter(number, SlotState::Drain, ActionKind::Drain);
            if let Some(record) = self.record_mut(number) {
                record.endpoint.leaving = true;
            }
        }
    }

    /// Servers that the source no longer sees go, as far as the floors allow.
    fn remove_vanished(&mut self, answer: &Answer) {
        let vanished: Vec<(SlotNumber, EndpointId)> = self
            .in_state(SlotState::Ready)
            .filter(|(_, record)| !answer.knows(&record.endpoint.id))
            .map(|(number, record)| (number, record.endpoint.id.clone()))
            .collect();
        let loss = self.loss(answer, vanished.len());
        let why = self.world.policy.floors.check(loss);
        let confirmed = |id: &EndpointId| !loss.empty && self.world.confirmed.contains(id);
        let kept =
            |id: &EndpointId| !self.world.policy.floors.allow_drop && self.world.kept.contains(id);
        let (gone, held): (Vec<_>, Vec<_>) =
            vanished.into_iter().partition(|(_, id)| confirmed(id) || (why.is_none() && !kept(id)));
        let why = why.unwrap_or(RefusalReason::Unconfirmed);
        for (number, _) in gone {
            match self.world.policy.drain_vanished {
                true => self.enter(number, SlotState::Drain, ActionKind::Drain),
                false => self.enter(number, SlotState::Rest, ActionKind::Rest),
            }
        }
        if !held.is_empty() {
            self.plan.refused = Some(Refusal { why, servers: held });
        }
        self.rest_dead(answer);
    }

    /// A draining server that has vanished is dead, where vanishing means that.
    fn rest_dead(&mut self, answer: &Answer) {
        if self.world.policy.drain_vanished {
            return;
        }
        // One that a floor keeps is not known to be dead.
        let kept: BTreeSet<&EndpointId> =
            self.in_state(SlotState::Ready).map(|(_, record)| &record.endpoint.id).collect();
        let gone = |id: &EndpointId| !answer.knows(id) && !kept.contains(id);
        let dead: Vec<SlotNumber> = self
            .in_state(SlotState::Drain)
            .filter(|(number, _)| self.slots[number].changed.is_none())
            .filter(|(_, record)| gone(&record.endpoint.id))
            .map(|(number, _)| number)
            .collect();
        for number in dead {
            self.enter(number, SlotState::Rest, ActionKind::Rest);
        }
    }

    fn loss(&self, answer: &Answer, vanished: usize) -> Loss {
        let ready: BTreeSet<&EndpointId> =
            self.in_state(SlotState::Ready).map(|(_, record)| &record.endpoint.id).collect();
        let staying = ready.iter().filter(|id| answer.knows(id)).count();
        let wanted = || answer.endpoints.values().filter(|e| !e.leaving);
        let returning = wanted().filter(|e| !ready.contains(&e.id) && self.left_by(e).is_some());
        let returning = returning.count();
        let new = wanted().filter(|e| !ready.contains(&e.id)).count() - returning;
        let new = new.min(self.free_slots().count()) + returning;
        let mut recent: BTreeSet<&EndpointId> = self.world.recent.iter().collect();
        recent.extend(self.lately_removed());
        recent.retain(|id| !ready.contains(id) && !answer.knows(id));
        Loss {
            empty: answer.is_empty(),
            ready: ready.len(),
            new,
            vanished,
            recent: recent.len(),
            left: staying + new,
        }
    }

    /// Servers that vanished within the floors' window, as far as their slots still tell.
    fn lately_removed(&self) -> impl Iterator<Item = &EndpointId> {
        self.world
            .table
            .records()
            .filter(|(_, record)| {
                record.state != SlotState::Ready
                    && !record.endpoint.leaving
                    && elapsed(record.since, self.world.now) < self.world.policy.floors.window
            })
            .map(|(_, record)| &record.endpoint.id)
    }

    /// Slots that no key holds: not those that this plan frees.
    fn free_slots(&self) -> impl Iterator<Item = SlotNumber> {
        SlotNumber::first(self.world.policy.slots).filter(|number| self.is_free(*number))
    }

    pub(super) fn is_free(&self, number: SlotNumber) -> bool {
        !self.slots.contains_key(&number) && !self.world.barred.contains(&number)
    }

    /// The lowest free slot that is empty, else the lowest one that has sessions left. Those in which
    /// HAProxies hold a server stay free, and those that are kept for one come last.
    pub(super) fn lowest_free(&mut self) -> Option<SlotNumber> {
        if let Some(empty) = self.lowest_empty() {
            return Some(empty);
        }
        let free = |number: &SlotNumber| self.in_range(*number) && self.is_free(*number);
        let mut crowded = self.crowded.iter().copied();
        let held = &self.world.places.held;
        crowded.find(|number| free(number) && !self.reserved.contains(number)).or_else(|| {
            let mut reserved = self.reserved.iter().copied();
            reserved.find(|number| self.is_free(*number) && !held.contains_key(number))
        })
    }

    /// A plan takes slots and gives none back, so that each search goes on where the last one ended.
    fn lowest_empty(&mut self) -> Option<SlotNumber> {
        while self.full_to < self.world.policy.slots {
            let number = SlotNumber::new(self.full_to + 1).ok()?;
            let taken = self.reserved.contains(&number) || self.crowded.contains(&number);
            if self.is_free(number) && !taken {
                return Some(number);
            }
            self.full_to += 1;
        }
        None
    }

    /// The slots that a server drained or rested in before this plan.
    pub(super) fn left_slots(&self, id: &EndpointId) -> &[SlotNumber] {
        self.left.get(id).map_or(&[], Vec::as_slice)
    }

    /// Drains and rests that are over end, in slots that this plan has not touched.
    fn step_down(&mut self) {
        let untouched: Vec<SlotNumber> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.changed.is_none())
            .map(|(number, _)| *number)
            .collect();
        for number in untouched {
            let Some(record) = self.slots[&number].record.as_ref() else {
                continue;
            };
            let ahead = elapsed(self.world.now, record.since);
            if record.state != SlotState::Ready && ahead > MAX_SKEW {
                let state = record.state;
                self.enter(number, state, ActionKind::Repair);
                continue;
            }
            match record.state {
                SlotState::Ready => {}
                SlotState::Drain => self.end_drain(number),
                SlotState::Rest => self.end_rest(number),
            }
        }
    }

    fn end_drain(&mut self, number: SlotNumber) {
        let left = self.time_left(number, self.world.policy.drain_deadline);
        let ended = self.has_ended(number);
        let waits = self.waits(number, |report, modified| {
            let seen = &report.backend;
            let drained =
                seen.drains(number, modified) && seen.sessions.get(&number).is_none_or(|n| *n == 0);
            // Who cannot tell has no session to lose on a machine that has ended.
            drained || (report.silent && ended)
        });
        // With no HAProxy to ask, sessions may still be there.
        let empty = waits.is_empty() && !self.world.reports.is_empty();
        // Clients that stay with their server come back to it between two of their sessions.
        let least = self.time_left(number, self.world.policy.drain_at_least);
        if (empty && least.is_none()) || left.is_none() {
            self.enter(number, SlotState::Rest, ActionKind::Rest);
            return;
        }
        self.wake_in(left);
        self.wake_in(least);
        self.plan
            .waiting
            .extend((!waits.is_empty()).then_some(Waiting { slot: number, haproxies: waits }));
    }

    fn end_rest(&mut self, number: SlotNumber) {
        let left = self.time_left(number, self.rest_of(number));
        let mut waits =
            self.waits(number, |report, modified| report.backend.has_left(number, modified));
        // One that is not empty rests while there is another to give away.
        if waits.is_empty() && self.crowded.contains(&number) && self.lowest_free().is_some() {
            waits = self.waits(number, |report, _| !report.backend.crowded.contains(&number));
        }
        if left.is_some() {
            self.wake_in(left);
        } else if waits.is_empty() {
            if let Some(slot) = self.slots.get_mut(&number) {
                slot.record = None;
                slot.changed = Some(ActionKind::Free);
            }
        } else {
            self.plan.waiting.push(Waiting { slot: number, haproxies: waits });
        }
    }

    /// How long a slot rests at least. Nobody comes back to a machine that has ended, so that its slot
    /// waits for the HAProxies alone.
    fn rest_of(&self, number: SlotNumber) -> Duration {
        let (rest, reports) = (self.world.policy.rest, self.world.reports);
        match self.has_ended(number) && !reports.is_empty() {
            true if reports.iter().any(|report| report.silent) => rest.min(SILENT_REST),
            true => Duration::ZERO,
            false => rest,
        }
    }

    /// Whether the machine of a slot's server is known to have ended.
    fn has_ended(&self, number: SlotNumber) -> bool {
        let record = self.slots.get(&number).and_then(|slot| slot.record.as_ref());
        let ended = self.world.answer.map(|answer| &answer.ended);
        ended.zip(record).is_some_and(|(ended, record)| ended.contains(&record.endpoint.id))
    }

    /// The HAProxies that are not done with a slot's entry as it was last modified.
    fn waits(
        &self,
        number: SlotNumber,
        done: impl Fn(&Report, Revision) -> bool,
    ) -> Vec<HaproxyName> {
        let modified = self.slots[&number].seen.unwrap_or_default();
        self.world
            .reports
            .iter()
            .filter(|report| !report.gone)
            .filter(|report| !done(report, modified))
            .map(|report| report.haproxy.clone())
            .collect()
    }

    /// What is left of a time that began when the slot entered its state; `None` once it is over.
    fn time_left(&self, number: SlotNumber, whole: Duration) -> Option<Duration> {
        let since = self.slots[&number].record.as_ref()?.since;
        whole.checked_sub(elapsed(since, self.world.now)).filter(|left| !left.is_zero())
    }

    fn wake_in(&mut self, left: Option<Duration>) {
        self.plan.next_wake = match (self.plan.next_wake, left) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    fn finish(mut self) -> Plan {
        self.plan.unplaced.sort();
        self.plan.spec = self.spec();
        self.plan.forgotten = self.forgotten();
        self.plan.confirm = self.confirm();
        for (number, slot) in self.slots {
            let Some(kind) = slot.changed else {
                continue;
            };
            let stored = self.world.table.slots.get(&number);
            let before = match stored.map(|stored| &stored.content) {
                Some(Content::Sound(record)) => Some(record),
                _ => None,
            };
            if before.is_some() && before == slot.record.as_ref() {
                continue;
            }
            let removed = self.world.table.removed.get(&number);
            let known = removed.filter(|_| self.world.is_confirmed());
            let before_it = before.filter(|_| kind != ActionKind::Forget);
            let remember =
                Remember::change(removed, known, before_it, slot.record.as_ref(), self.world.now);
            if remember.is_some() {
                self.plan.forgotten.remove(&number);
            }
            let server = slot.record.as_ref().or(before).map(|r| r.endpoint.id.clone());
            self.plan.actions.extend(server.map(|server| Action {
                slot: number,
                kind,
                server,
                record: slot.record,
                seen: slot.seen,
                remember,
            }));
        }
        // What takes traffic comes first, so that capacity never dips between two commits.
        self.plan
            .actions
            .sort_by_key(|a| a.record.as_ref().map(|r| r.state) != Some(SlotState::Ready));
        self.plan
    }

    /// What was remembered in another life of the store.
    fn forgotten(&self) -> BTreeMap<SlotNumber, Revision> {
        let world = self.world;
        if world.is_confirmed() || world.answer.is_none() {
            return BTreeMap::new();
        }
        world.table.removed.iter().map(|(number, stored)| (*number, stored.modified)).collect()
    }

    /// This leadership's word on the table, where it has not said it yet. It has compared the table
    /// with an answer of the source then.
    fn confirm(&self) -> Option<Confirm> {
        let world = self.world;
        let token = world.token.filter(|_| world.answer.is_some())?;
        let confirmation = Confirmation { life: world.life.clone(), token };
        let seen = world.table.confirmed.as_ref().map(|stored| stored.modified);
        let said = world.standing_confirmation() == Some(&confirmation);
        (!said).then_some(Confirm { confirmation, seen })
    }

    /// The spec, where the stored one differs. Without an answer there is nothing that a table which
    /// is not there could be made of.
    fn spec(&self) -> Option<BackendSpec> {
        if self.world.answer.is_none() && self.world.table.spec.is_none() {
            return None;
        }
        let policy = self.world.policy;
        let stored = self.world.table.spec();
        let unplaced = match (self.world.answer, stored) {
            (Some(_), _) | (None, None) => {
                self.plan.unplaced.iter().take(MAX_NAMED).map(|u| u.server.clone()).collect()
            }
            (None, Some(stored)) => stored.unplaced.clone(),
        };
        let spec = BackendSpec {
            slots: policy.slots,
            ramp: policy.ramp,
            drain_deadline: policy.drain_deadline,
            drain_at_least: policy.drain_at_least,
            rest: policy.rest,
            unplaced,
            origin: policy.origin.clone(),
        };
        (stored != Some(&spec)).then_some(spec)
    }
}

/// The time from one instant to a later one; nothing where it is earlier.
fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}
