//! Changes by another hand: an agent, a person on the socket or the stats page, another program. Each
//! is told of and undone, but not for ever: who undoes it again and again is not to be fought.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use tokio::time::Instant;

use super::desired::Desired;
use super::plan::{Action, Plan};
use super::problem::Problem;
use super::target::Target;
use crate::haproxy::{AdminState, Command, ObservedServer};
use crate::model::{ServerAddress, SlotNumber};

/// How often the same commands are sent before they count as without effect.
const TRIES: u32 = 3;

/// Until the next try from then on; each one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// A change that has held for so long is no part of a fight.
const FORGOTTEN: Duration = Duration::from_secs(90);

/// What was sent to each slot of a target, over the passes of one HAProxy process.
#[derive(Debug, Clone, Default)]
pub struct Others {
    slots: BTreeMap<SlotNumber, Sent>,
}

/// What was sent to one slot.
#[derive(Debug, Clone)]
struct Sent {
    /// What the slot was to be: another wish begins anew.
    wish: Wish,
    /// By what [`said`] makes of the commands.
    tries: BTreeMap<u64, Tries>,
}

/// The part of a wish that does not move by itself, as a weight does on its ramp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Out,
    Drain(ServerAddress),
    Ready(ServerAddress),
}

#[derive(Debug, Clone, Copy)]
struct Tries {
    count: u32,
    last: Instant,
}

impl Tries {
    /// How long to wait before the same commands are sent again.
    fn pause(&self) -> Duration {
        match self.count.checked_sub(TRIES) {
            None => Duration::ZERO,
            Some(more) => (FIRST_PAUSE * 2u32.saturating_pow(more.min(10))).min(LONGEST_PAUSE),
        }
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        now.duration_since(self.last) > FORGOTTEN.max(2 * self.pause())
    }
}

impl Others {
    /// Takes out of a plan what was tried too often without effect, and tells of it.
    pub fn give_way(
        &mut self,
        target: &Target,
        servers: &[ObservedServer],
        wish: impl Fn(SlotNumber) -> Desired,
        plan: &mut Plan,
        now: Instant,
    ) {
        if self.slots.is_empty() {
            return;
        }
        let mut contested = Vec::new();
        for (slot, said) in said(plan.actions.iter()) {
            let Some(sent) = self.slots.get_mut(&slot) else { continue };
            if sent.wish != Wish::of(wish(slot)) {
                self.slots.remove(&slot);
                continue;
            }
            sent.tries.retain(|_, tries| !tries.is_forgotten(now));
            let tries = sent.tries.get(&said).filter(|tries| !tries.pause().is_zero());
            if tries.is_some_and(|tries| now < tries.last + tries.pause()) {
                contested.push(slot);
            }
        }
        for slot in contested {
            let of_slot = |action: &&Action| action.slot == slot;
            let only_weight = |action: &Action| matches!(action.command, Command::SetWeight { .. });
            if plan.actions.iter().filter(of_slot).all(only_weight) {
                plan.contested.insert(slot);
            }
            plan.problems.extend(told(target, servers, plan.actions.iter().filter(of_slot)));
            plan.actions.retain(|action| action.slot != slot);
        }
    }

    /// Notes what HAProxy has accepted.
    pub fn sent<'a>(
        &mut self,
        actions: impl Iterator<Item = &'a Action>,
        wish: impl Fn(SlotNumber) -> Desired,
        now: Instant,
    ) {
        for (slot, said) in said(actions) {
            let wish = Wish::of(wish(slot));
            let sent = self.slots.entry(slot).or_insert_with(|| Sent::new(wish));
            if sent.wish != wish {
                *sent = Sent::new(wish);
            }
            let tries = sent.tries.entry(said).or_insert(Tries { count: 0, last: now });
            *tries = Tries { count: tries.count.saturating_add(1), last: now };
        }
    }
}

impl Sent {
    fn new(wish: Wish) -> Self {
        Self { wish, tries: BTreeMap::new() }
    }
}

impl Wish {
    fn of(desired: Desired) -> Self {
        match desired {
            Desired::Ready { address, .. } => Self::Ready(address),
            Desired::Drain { address } => Self::Drain(address),
            Desired::Free | Desired::Maint | Desired::KeepAsIs => Self::Out,
        }
    }
}

/// What tells the commands of each slot from others. A server that cannot be deleted yet
/// is no fight, nor are sessions that do not end.
fn said<'a>(actions: impl Iterator<Item = &'a Action>) -> BTreeMap<SlotNumber, u64> {
    let mut said: BTreeMap<SlotNumber, DefaultHasher> = BTreeMap::new();
    for Action { slot, command } in actions {
        if !matches!(command, Command::DelServer { .. } | Command::EndSessions { .. }) {
            command.hash(said.entry(*slot).or_default());
        }
    }
    said.into_iter().map(|(slot, hasher)| (slot, hasher.finish())).collect()
}

/// The problem of a slot whose commands have no lasting effect, which names who may undo them.
fn told<'a>(
    target: &Target,
    servers: &[ObservedServer],
    mut actions: impl Iterator<Item = &'a Action>,
) -> Option<Problem> {
    let command = &actions.next()?.command;
    let name = &command.server().server;
    let server = servers.iter().find(|server| server.name == name.as_str());
    let by = match server {
        Some(server) if server.has_agent => "its agent check",
        Some(server) if server.admin.is_inherited() => "the server that it tracks",
        Some(_) | None => {
            "another program or person (another sync-haproxy, a script, the stats page)"
        }
    };
    let (backend, server) = (target.backend.clone(), name.clone());
    Some(Problem::OtherWriter { backend, server, command: command.to_string(), by })
}

/// Logs what another hand has changed since the last pass and what is about to be undone.
pub fn log_undone(
    target: &Target,
    before: &[ObservedServer],
    now: &[ObservedServer],
    actions: &[Action],
) {
    if actions.is_empty() {
        return;
    }
    let named: HashSet<&str> = actions.iter().map(|a| a.command.server().server.as_str()).collect();
    let of_actions = |server: &&ObservedServer| named.contains(server.name.as_str());
    let before: HashMap<&str, &ObservedServer> =
        before.iter().filter(of_actions).map(|server| (server.name.as_str(), server)).collect();
    for now in now.iter().filter(of_actions) {
        let before = before.get(now.name.as_str());
        if let Some(change) = before.and_then(|before| change(before, now)) {
            tracing::info!("{}/{} was {change} by another hand: undone", target.backend, now.name);
        }
    }
}

/// How a server differs from what it was.
fn change(before: &ObservedServer, now: &ObservedServer) -> Option<String> {
    let (was, is) = (before.admin.state(), now.admin.state());
    if was != is {
        return Some(format!("set to {is}"));
    }
    if is == AdminState::Maint {
        return None;
    }
    if (before.address, before.port) != (now.address, now.port) {
        let address = now.address.map_or("none".to_owned(), |address| address.to_string());
        return Some(format!("given address {address} port {}", now.port));
    }
    (before.weight != now.weight).then(|| format!("given weight {}", now.weight))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::sync_haproxy::testing::{named, target};
    use crate::haproxy::{AdminFlags, ServerRef};
    use crate::model::Weight;

    fn slot() -> SlotNumber {
        SlotNumber::new(1).unwrap()
    }

    fn ready(_: SlotNumber) -> Desired {
        let address = "10.0.0.1:80".parse().unwrap();
        Desired::Ready { address, weight: Weight::MAX, target: Weight::MAX }
    }

    fn plan(weight: u64) -> Plan {
        let server = ServerRef { backend: "app".parse().unwrap(), server: "srv1".parse().unwrap() };
        let command = Command::SetWeight { server, weight: Weight::saturating(weight) };
        Plan { actions: vec![Action { slot: slot(), command }], ..Plan::default() }
    }

    fn passes(
        others: &mut Others,
        wish: impl Fn(SlotNumber) -> Desired,
        plan: &Plan,
        now: Instant,
    ) -> bool {
        let mut plan = plan.clone();
        others.give_way(&target(), &[named("srv1")], &wish, &mut plan, now);
        others.sent(plan.actions.iter(), &wish, now);
        assert_eq!(plan.actions.is_empty(), !plan.problems.is_empty());
        !plan.actions.is_empty()
    }

    #[tokio::test]
    async fn what_is_undone_again_and_again_is_sent_ever_more_seldom() {
        let (start, mut others) = (Instant::now(), Others::default());
        let sent_at: Vec<u64> = (0..4000)
            .filter(|s| passes(&mut others, ready, &plan(5), start + Duration::from_secs(*s)))
            .collect();
        assert_eq!(sent_at[..6], [0, 1, 2, 32, 92, 212]);
        assert!(sent_at.len() < 16, "{sent_at:?}");
    }

    #[tokio::test]
    async fn another_wish_and_another_weight_are_no_fight() {
        let (now, mut others) = (Instant::now(), Others::default());
        let drain = |_| Desired::Drain { address: "10.0.0.1:80".parse().unwrap() };
        for weight in 0..20 {
            assert!(passes(&mut others, ready, &plan(weight), now), "a ramp was stopped");
        }
        for _ in 0..20 {
            assert!(passes(&mut others, ready, &plan(5), now), "a flapping server was left");
            assert!(passes(&mut others, drain, &plan(5), now), "a flapping server was left");
        }
        for port in 1..20 {
            let address = format!("10.0.0.1:{port}").parse().unwrap();
            let other = |_| Desired::Ready { address, weight: Weight::MAX, target: Weight::MAX };
            assert!(passes(&mut others, other, &plan(5), now), "another server was left");
        }
        for minutes in 0..20 {
            let now = now + Duration::from_secs(120 * minutes);
            assert!(passes(&mut others, ready, &plan(7), now), "what has held was held against it");
        }
    }

    #[test]
    fn a_change_says_what_it_was() {
        let ready = ObservedServer { admin: AdminFlags(4), ..named("srv1") };
        let says = |now: ObservedServer| change(&ready, &now);
        assert_eq!(says(ready.clone()), None);
        let drained = ObservedServer { admin: AdminFlags(12), ..ready.clone() };
        assert_eq!(says(drained).as_deref(), Some("set to drain"));
        let lighter = ObservedServer { weight: 0, ..ready.clone() };
        assert_eq!(says(lighter).as_deref(), Some("given weight 0"));
        let moved = ObservedServer { port: 81, ..ready.clone() };
        assert_eq!(says(moved).as_deref(), Some("given address 127.0.0.2 port 81"));
    }
}
