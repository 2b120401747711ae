mod leave;

use std::collections::{BTreeMap, BTreeSet};

use super::desired::{Desired, Wanted};
use super::lines;
use super::names::{self, Places};
use super::problem::{Problem, Why};
use super::target::{Dynamic, Mode, Target};
use crate::haproxy::{AdminState, Command, CommandResult, ObservedServer, ServerRef};
use crate::model::{ServerAddress, SlotNumber, Weight};

/// What one pass has learnt of a HAProxy backend from the replies to its commands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Learnt {
    /// Its load-balancing algorithm takes no weights but 0 and the configured one.
    pub static_weights: bool,
    /// Slots whose commands were refused, with the reply: not tried again in this pass.
    pub refused: BTreeMap<SlotNumber, String>,
    /// Those of them that no further try can help: a configuration must change.
    pub misconfigured: BTreeSet<SlotNumber>,
    /// Slots whose sessions were told to end in this pass.
    pub ended: BTreeSet<SlotNumber>,
    pub asked_for_resolver: bool,
    /// Its places have a resolver, which takes their addresses away.
    pub resolver: bool,
    /// Its places add their port to the client's.
    pub mapped_ports: bool,
    /// It was seen whether the servers that are there have what was meant.
    pub effects_seen: bool,
    pub effects_told: bool,
    /// What they lack, as it was told.
    pub lacks: Vec<&'static str>,
    /// Slots whose start may have ended half-way: before a server that left maint was set down.
    pub half_started: BTreeSet<SlotNumber>,
    /// Slots that were told to drain by lbctl, not by their agents.
    pub drained: BTreeSet<SlotNumber>,
    /// Slots that were told to be ready. One with an agent that is in maint all the same was put there
    /// by that.
    pub started: BTreeSet<SlotNumber>,
    /// Where the table's servers were seen at the end of the last pass, and may have been moved from
    /// by another hand since.
    pub placed: Vec<(SlotNumber, ServerAddress)>,
    /// The weights that were set last. A server with an agent that has another one got it from that.
    pub weights: BTreeMap<SlotNumber, Weight>,
}

impl Learnt {
    /// Takes in a command and what HAProxy has made of it.
    pub fn answered(&mut self, action: &Action, result: &CommandResult) {
        let slot = action.slot;
        match &action.command {
            // One that is refused has nothing to set down: it follows another server's health.
            Command::SetHealthDown { .. } => {
                self.half_started.remove(&slot);
            }
            _ if result.is_err() => {}
            Command::SetState { state, .. } => {
                mark(&mut self.drained, slot, *state == AdminState::Drain);
                mark(&mut self.started, slot, *state == AdminState::Ready);
            }
            Command::SetWeight { weight, .. } | Command::AddServer { weight, .. } => {
                self.effects_seen &= matches!(action.command, Command::SetWeight { .. });
                self.weights.insert(slot, *weight);
            }
            Command::SetAddress { .. }
            | Command::EnableHealth { .. }
            | Command::EnableAgent { .. }
            | Command::DisableAgent { .. }
            | Command::SetAgentUp { .. }
            | Command::EndSessions { .. }
            | Command::DelServer { .. } => {}
        }
    }
}

fn mark(slots: &mut BTreeSet<SlotNumber>, slot: SlotNumber, is_in: bool) {
    match is_in {
        true => slots.insert(slot),
        false => slots.remove(&slot),
    };
}

/// One command, for one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    pub slot: SlotNumber,
    pub command: Command,
}

/// What to do now for one HAProxy backend. A slot may need several rounds: after each one observe
/// and plan again, until there are no more actions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Safe to send at once, in this order.
    pub actions: Vec<Action>,
    /// Slots whose server is not what it should be; a refused one stays here.
    pub drift: BTreeSet<SlotNumber>,
    /// Held slots that HAProxy has no place for.
    pub unplaced: Vec<SlotNumber>,
    /// Slots whose servers are to go and go on serving, since no server that stays takes traffic yet.
    pub held: BTreeSet<SlotNumber>,
    /// Servers that stay although the table has no slot for them, and why.
    pub unordered: BTreeMap<SlotNumber, Unordered>,
    /// Servers that have a slot's name and that lbctl did not place, where they serve.
    pub taken: BTreeMap<SlotNumber, ServerAddress>,
    /// Dynamic servers in maint that are still to be deleted.
    pub leftovers: BTreeSet<SlotNumber>,
    /// Live sessions of the slots that are to drain, where they were read.
    pub sessions: BTreeMap<SlotNumber, u64>,
    /// Slots whose weight is another than the table's, since somebody else keeps setting it.
    pub contested: BTreeSet<SlotNumber>,
    /// Slots in maint that still have sessions, where they were read.
    pub crowded: BTreeSet<SlotNumber>,
    /// Where the table's servers are, or were until another hand moved them.
    pub placed: Vec<(SlotNumber, ServerAddress)>,
    pub problems: Vec<Problem>,
}

impl Plan {
    /// Whether something goes on once servers have no session any more that do not drain by a record.
    pub fn waits_for_sessions(&self) -> bool {
        !self.crowded.is_empty() || self.unordered.values().any(|kept| kept.drains)
    }
}

/// A server that stays although the table has no slot for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unordered {
    pub why: Why,
    pub name: String,
    pub address: Option<ServerAddress>,
    /// It drains: it leaves once it has no session.
    pub drains: bool,
}

/// Plans the next round. `servers` is the observed backend, `None` where HAProxy has no such one.
pub fn plan(
    target: &Target,
    wanted: &Wanted,
    servers: Option<&[ObservedServer]>,
    learnt: &Learnt,
) -> Plan {
    let unusable = |problem| {
        let held = wanted.held().filter(|(_, desired)| desired.needs_server());
        let unplaced: Vec<SlotNumber> = held.map(|(slot, _)| slot).collect();
        let drift = unplaced.iter().copied().collect();
        Plan { drift, unplaced, problems: vec![problem], ..Plan::default() }
    };
    let Some(servers) = servers else {
        return unusable(Problem::NoBackend {
            backend: target.backend.clone(),
            named_by: target.named_by(),
        });
    };
    let servers = lines::as_meant(target, servers);
    match names::places(target, &servers, wanted.places) {
        Ok(places) => match lines::problem(target, &places, learnt) {
            Some(problem) => unusable(problem),
            None => Planner { target, wanted, learnt, places }.plan(),
        },
        Err(problem) => unusable(problem),
    }
}

/// What is done first: dead servers leave before anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    Stop,
    Move,
    Start,
    Weigh,
    Delete,
}

impl Urgency {
    /// Whether a step of it may take a server away from those that it serves.
    fn ends_service(self) -> bool {
        matches!(self, Self::Stop | Self::Move | Self::Delete)
    }
}

struct Step {
    urgency: Urgency,
    commands: Vec<Command>,
}

struct Planner<'a> {
    target: &'a Target,
    wanted: &'a Wanted,
    learnt: &'a Learnt,
    places: Places<'a>,
}

impl Planner<'_> {
    fn plan(&self) -> Plan {
        let mut plan = Plan { problems: self.problems(), ..Plan::default() };
        let mut steps: Vec<(SlotNumber, Step)> = Vec::new();
        for (slot, desired, server) in self.slots() {
            let (step, drifts) = self.slot(slot, desired, server, &mut plan);
            if drifts {
                plan.drift.insert(slot);
            }
            if let Some(step) = step.filter(|_| !self.learnt.refused.contains_key(&slot)) {
                steps.push((slot, step));
            }
        }
        self.keep_unordered(&mut steps, &mut plan);
        plan.held = self.hold(&mut steps, &mut plan);
        plan.problems.extend(self.kept(&plan));
        plan.taken = self.taken();
        steps.sort_by_key(|(_, step)| step.urgency);
        let actions = |(slot, step): (SlotNumber, Step)| {
            step.commands.into_iter().map(move |command| Action { slot, command })
        };
        plan.actions = steps.into_iter().flat_map(actions).collect();
        plan.sessions = self.sessions();
        plan.crowded = self.crowded();
        plan.placed = self.placed();
        plan
    }

    /// Every slot that the table or HAProxy has: what it is to be, and the server in its place.
    fn slots(&self) -> impl Iterator<Item = (SlotNumber, Desired, Option<&ObservedServer>)> {
        let mut wanted = self.wanted.held().peekable();
        let mut places = self.places.slots.iter().copied().peekable();
        std::iter::from_fn(move || {
            let next = [wanted.peek().map(|(slot, _)| *slot), places.peek().map(|(slot, _)| *slot)];
            let slot = next.into_iter().flatten().min()?;
            let desired = wanted.next_if(|(at, _)| *at == slot);
            let server = places.next_if(|(at, _)| *at == slot);
            let desired = desired.map_or(Desired::Free, |(_, desired)| desired);
            Some((slot, desired, server.map(|(_, server)| server)))
        })
    }

    /// A slot's next step, and whether it differs from what is wanted.
    fn slot(
        &self,
        slot: SlotNumber,
        desired: Desired,
        server: Option<&ObservedServer>,
        plan: &mut Plan,
    ) -> (Option<Step>, bool) {
        match (server, &self.target.mode) {
            (Some(server), Mode::Dynamic(_))
                if matches!(desired, Desired::Maint | Desired::Free) =>
            {
                let step = self.delete(slot, server);
                let in_maint = step.urgency == Urgency::Delete;
                if in_maint {
                    plan.leftovers.insert(slot);
                }
                (Some(step), !in_maint)
            }
            (Some(server), _) if desired.needs_server() && server.admin.is_inherited() => {
                let (backend, server) = (self.target.backend.clone(), self.places.name(slot));
                plan.problems.push(Problem::Tracks { backend, server });
                (None, false)
            }
            (Some(server), _) => {
                let step = self.change(slot, desired, server);
                let drifts = step.is_some();
                (step.or_else(|| self.end_sessions(slot, server)), drifts)
            }
            (None, _) if !desired.needs_server() => (None, false),
            // Somebody else put it there.
            (None, _) if self.is_served_by_others(slot, desired) => (None, false),
            (None, Mode::Slots) => {
                plan.unplaced.push(slot);
                (None, true)
            }
            (None, Mode::Dynamic(dynamic)) => match self.add(slot, desired, dynamic) {
                Ok(step) => (Some(step), true),
                Err(problem) => {
                    plan.problems.push(problem);
                    plan.unplaced.push(slot);
                    (None, true)
                }
            },
        }
    }

    fn change(&self, slot: SlotNumber, desired: Desired, server: &ObservedServer) -> Option<Step> {
        let admin = server.admin.state();
        // Most servers need nothing, and no name either.
        let name = || self.server(slot);
        let stop = |state| {
            let state = Command::SetState { server: name(), state };
            let commands = self.silence(slot, server).into_iter().chain([state]).collect();
            Some(Step { urgency: Urgency::Stop, commands })
        };
        // An agent that says "ready" would bring it back.
        let silence = || {
            let commands: Vec<Command> = self.silence(slot, server).into_iter().collect();
            (!commands.is_empty()).then_some(Step { urgency: Urgency::Weigh, commands })
        };
        let address = match desired {
            Desired::KeepAsIs => return None,
            Desired::Maint | Desired::Free if admin == AdminState::Maint => return silence(),
            Desired::Maint | Desired::Free => return stop(AdminState::Maint),
            Desired::Drain { address } | Desired::Ready { address, .. } => address,
        };
        if !shows(server, address) {
            return Some(self.relocate(slot, server, address));
        }
        match (desired, admin) {
            (Desired::Ready { weight, .. }, AdminState::Ready) => {
                let weight = self.possible(weight, server);
                let differs = server.weight != weight.get() && !self.is_the_agents(slot, server);
                differs.then(|| self.reweigh(slot, name(), weight))
            }
            (Desired::Ready { .. }, AdminState::Drain)
                if server.agent_enabled && !self.learnt.drained.contains(&slot) =>
            {
                None
            }
            (Desired::Ready { weight, .. }, AdminState::Drain) => {
                Some(self.resume(slot, &name(), server, weight))
            }
            (Desired::Ready { .. }, AdminState::Maint)
                if server.agent_enabled && self.learnt.started.contains(&slot) =>
            {
                None
            }
            (Desired::Ready { weight, .. }, AdminState::Maint) => {
                Some(self.start(&name(), server, AdminState::Ready, weight))
            }
            (_, AdminState::Maint) => {
                Some(self.start(&name(), server, AdminState::Drain, Weight::ZERO))
            }
            (_, AdminState::Drain) => silence(),
            (_, AdminState::Ready) => stop(AdminState::Drain),
        }
    }

    /// Another address, never under a server that is not in maint: it would keep its health, and
    /// since HAProxy 2.9 the address changes some time after the reply. What follows has to wait
    /// for the round in which the address shows.
    fn relocate(&self, slot: SlotNumber, server: &ObservedServer, address: ServerAddress) -> Step {
        let (name, silence) = (self.server(slot), self.silence(slot, server));
        let maint = (server.admin.state() != AdminState::Maint)
            .then(|| Command::SetState { server: name.clone(), state: AdminState::Maint });
        let keep_port = server.port_is_own;
        let address = Command::SetAddress { server: name.clone(), address, keep_port };
        let commands = silence.into_iter().chain(maint).chain([address]).collect();
        Step { urgency: Urgency::Move, commands }
    }

    /// Ends the say of the agent of a server that is to leave: what it said next would undo that.
    fn silence(&self, slot: SlotNumber, server: &ObservedServer) -> Option<Command> {
        server.agent_enabled.then(|| Command::DisableAgent { server: self.server(slot) })
    }

    /// Leaving maint makes a server UP at once, before any health check (management guide, "set
    /// server <b>/<s> state"), so a checked one leaves it with weight 0, is set down and gets its
    /// weight back: no request meets it until its checks have passed.
    fn start(
        &self,
        name: &ServerRef,
        server: &ObservedServer,
        state: AdminState,
        weight: Weight,
    ) -> Step {
        let weight = self.possible(weight, server);
        let enable = match &self.target.mode {
            // An operator may have switched checks off on a server of the configuration; a dynamic
            // one merely begins without.
            Mode::Dynamic(_) if server.checked && !server.check_enabled => {
                Some(Command::EnableHealth { server: name.clone() })
            }
            Mode::Dynamic(_) | Mode::Slots => None,
        };
        // The agent of a server that has left is switched off, and so is that of one that was just
        // added, which begins as one that has said no.
        let begins = state == AdminState::Ready && server.has_agent && !server.agent_enabled;
        let agent = if begins {
            let server = || name.clone();
            vec![
                Command::EnableAgent { server: server() },
                Command::SetAgentUp { server: server() },
            ]
        } else {
            Vec::new()
        };
        let leave = Command::SetState { server: name.clone(), state };
        let mut commands = Vec::new();
        if enable.is_some() || server.check_enabled {
            // A static algorithm would not take the weight back that it had to give away.
            let gate = if self.learnt.static_weights { weight } else { Weight::ZERO };
            commands.extend(self.weigh(name, server.weight, gate));
            commands.extend(enable);
            commands.extend(agent);
            commands.extend([leave, Command::SetHealthDown { server: name.clone() }]);
            commands.extend(self.weigh(name, gate.get(), weight));
        } else {
            commands.extend(self.weigh(name, server.weight, weight));
            commands.extend(agent);
            commands.push(leave);
        }
        Step { urgency: Urgency::Start, commands }
    }

    /// Another weight of a ready server.
    fn reweigh(&self, slot: SlotNumber, name: ServerRef, weight: Weight) -> Step {
        let down = self.gate(slot, &name);
        let weigh = Command::SetWeight { server: name, weight };
        Step { urgency: Urgency::Weigh, commands: down.into_iter().chain([weigh]).collect() }
    }

    /// Back from drain, where it kept its health.
    fn resume(
        &self,
        slot: SlotNumber,
        name: &ServerRef,
        server: &ObservedServer,
        weight: Weight,
    ) -> Step {
        let down = self.gate(slot, name);
        let weigh = self.weigh(name, server.weight, self.possible(weight, server));
        let agent = (server.has_agent && !server.agent_enabled)
            .then(|| Command::EnableAgent { server: name.clone() });
        let ready = Command::SetState { server: name.clone(), state: AdminState::Ready };
        let commands = down.into_iter().chain(weigh).chain(agent).chain([ready]).collect();
        Step { urgency: Urgency::Start, commands }
    }

    /// Sets a server down whose start ended half-way, so that it serves once its checks have passed. A
    /// weight of 0 alone says nothing of that: a person may have given it to one with sessions.
    fn gate(&self, slot: SlotNumber, name: &ServerRef) -> Option<Command> {
        let half_started = self.learnt.half_started.contains(&slot);
        half_started.then(|| Command::SetHealthDown { server: name.clone() })
    }

    /// Whether a server's weight was set by its agent: it is not the one that lbctl set last.
    fn is_the_agents(&self, slot: SlotNumber, server: &ObservedServer) -> bool {
        let set = self.learnt.weights.get(&slot);
        server.agent_enabled && set.is_some_and(|weight| weight.get() != server.weight)
    }

    fn weigh(&self, name: &ServerRef, now: u16, weight: Weight) -> Option<Command> {
        (now != weight.get()).then(|| Command::SetWeight { server: name.clone(), weight })
    }

    /// The nearest weight that the backend's algorithm takes.
    fn possible(&self, weight: Weight, server: &ObservedServer) -> Weight {
        if self.learnt.static_weights && weight != Weight::ZERO {
            Weight::saturating(server.initial_weight.into())
        } else {
            weight
        }
    }

    /// A new server begins in maint and without checks: the next rounds start it.
    fn add(&self, slot: SlotNumber, desired: Desired, dynamic: &Dynamic) -> Result<Step, Problem> {
        let server = self.server(slot);
        if let Some(owner) = self.places.taken.get(&slot) {
            let (backend, name) = (self.target.backend.clone(), owner.name.clone());
            return Err(Problem::NameTaken { backend, name });
        }
        let id = dynamic.id_of(slot);
        if let Some(owner) = self.places.foreign.get(&id) {
            let (backend, owner) = (self.target.backend.clone(), owner.clone());
            return Err(Problem::IdTaken { backend, id, owner });
        }
        let (address, weight) = match desired {
            Desired::Ready { address, weight, .. } => (address, weight),
            Desired::Drain { address } => (address, Weight::ZERO),
            Desired::Free | Desired::Maint | Desired::KeepAsIs => {
                return Ok(Step { urgency: Urgency::Start, commands: Vec::new() });
            }
        };
        let options = dynamic.options.clone();
        let command = Command::AddServer { server, address, id, weight, options };
        Ok(Step { urgency: Urgency::Move, commands: vec![command] })
    }

    /// Whether a server that lbctl did not place has the slot's name and serves what it is to serve.
    fn is_served_by_others(&self, slot: SlotNumber, desired: Desired) -> bool {
        let taken = self.places.taken.get(&slot);
        let ready = taken.filter(|server| server.admin.state() == AdminState::Ready);
        match desired {
            // With a weight of 0 it serves nobody.
            Desired::Ready { address, target, .. } => ready.is_some_and(|server| {
                shows(server, address) && (server.weight > 0 || target == Weight::ZERO)
            }),
            _ => false,
        }
    }

    fn taken(&self) -> BTreeMap<SlotNumber, ServerAddress> {
        let serving =
            self.places.taken.iter().filter(|(_, s)| s.admin.state() != AdminState::Maint);
        serving.filter_map(|(slot, server)| Some((*slot, address_of(server)?))).collect()
    }

    /// What is told of the servers that stay though they have no slot.
    fn kept(&self, plan: &Plan) -> Vec<Problem> {
        let mut names: BTreeMap<Why, Vec<String>> = BTreeMap::new();
        for Unordered { why, name, address, .. } in plan.unordered.values() {
            let at = address.map(|address| format!(" at {address}")).unwrap_or_default();
            names.entry(*why).or_default().push(format!("{name}{at}"));
        }
        let (backend, table) = (&self.target.backend, &self.target.from);
        let problem = |(why, servers)| {
            let (backend, table) = (backend.clone(), table.clone());
            match why {
                Why::Unconfirmed => Problem::Unconfirmed { backend, table },
                why => Problem::Unordered { backend, table, servers, why },
            }
        };
        names.into_iter().map(problem).collect()
    }

    fn delete(&self, slot: SlotNumber, server: &ObservedServer) -> Step {
        let name = self.server(slot);
        if server.admin.state() == AdminState::Maint {
            let end = self.end_sessions(slot, server).into_iter().flat_map(|step| step.commands);
            // One with sessions cannot be deleted.
            let commands = end.chain([Command::DelServer { server: name }]).collect();
            Step { urgency: Urgency::Delete, commands }
        } else {
            let maint = Command::SetState { server: name, state: AdminState::Maint };
            let commands = self.silence(slot, server).into_iter().chain([maint]).collect();
            Step { urgency: Urgency::Stop, commands }
        }
    }

    /// Cuts what a drain has left, where that is wanted.
    fn end_sessions(&self, slot: SlotNumber, server: &ObservedServer) -> Option<Step> {
        let due = self.target.licence.end_sessions
            && self.wanted.resting.contains(&slot)
            && is_crowded(server)
            && !self.learnt.ended.contains(&slot);
        due.then(|| Step {
            urgency: Urgency::Delete,
            commands: vec![Command::EndSessions { server: self.server(slot) }],
        })
    }

    fn placed(&self) -> Vec<(SlotNumber, ServerAddress)> {
        let is_there = |slot, address| {
            self.places.get(slot).is_some_and(|server| shows(server, address))
                || self.was_placed(slot, address)
        };
        let held =
            self.wanted.held().filter_map(|(slot, desired)| Some((slot, desired.address()?)));
        held.filter(|(slot, address)| is_there(*slot, *address)).collect()
    }

    /// Whether a server was in its place at the end of the last pass.
    fn was_placed(&self, slot: SlotNumber, address: ServerAddress) -> bool {
        let at = self.learnt.placed.binary_search_by_key(&slot, |(slot, _)| *slot).ok();
        at.and_then(|at| self.learnt.placed.get(at)).is_some_and(|(_, placed)| *placed == address)
    }

    /// Whose places have sessions of servers that have left.
    fn crowded(&self) -> BTreeSet<SlotNumber> {
        let left = |slot| matches!(self.wanted.of(slot), Desired::Maint | Desired::Free);
        let places = self.places.slots.iter();
        places.filter(|(slot, server)| left(*slot) && is_crowded(server)).map(|(s, _)| *s).collect()
    }

    fn sessions(&self) -> BTreeMap<SlotNumber, u64> {
        let drains = |slot| matches!(self.wanted.of(slot), Desired::Drain { .. });
        let known = self.places.slots.iter().filter_map(|(s, server)| Some((*s, server.sessions?)));
        known.filter(|(slot, _)| drains(*slot)).collect()
    }

    fn problems(&self) -> Vec<Problem> {
        let missing = self.places.missing(self.target, self.wanted.places);
        let weights = self
            .learnt
            .static_weights
            .then(|| Problem::StaticWeights { backend: self.target.backend.clone() });
        missing.into_iter().chain(weights).collect()
    }

    fn server(&self, slot: SlotNumber) -> ServerRef {
        ServerRef { backend: self.target.backend.clone(), server: self.places.name(slot) }
    }
}

/// Whether a server takes its full share of new sessions, so that others need not stay for it.
fn takes_traffic(server: &ObservedServer) -> bool {
    server.is_running() && may_take_traffic(server)
}

/// Whether new sessions may come to a server now, also while it warms up.
fn may_take_traffic(server: &ObservedServer) -> bool {
    server.admin.state() == AdminState::Ready && server.is_usable() && server.weight > 0
}

/// Whether a server has sessions though it is in maint.
fn is_crowded(server: &ObservedServer) -> bool {
    server.admin.state() == AdminState::Maint && server.sessions.is_some_and(|count| count > 0)
}

/// The address that a server shows.
fn address_of(server: &ObservedServer) -> Option<ServerAddress> {
    ServerAddress::new(server.address?, server.port).ok()
}

/// Whether a server has this address now. A port that is the place's own is none of the address'.
pub fn shows(server: &ObservedServer, address: ServerAddress) -> bool {
    (server.port_is_own || server.port == address.port())
        && server.address.is_some_and(|ip| ip.to_canonical() == address.ip())
}

#[cfg(test)]
mod hands;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
