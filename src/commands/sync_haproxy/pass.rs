use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::changed::Changed;
use super::desired::{Desired, Wanted};
use super::dump;
use super::effects::Added;
use super::feed::Views;
use super::metrics;
use super::others::{self, Others};
use super::plan::{self, Action, Learnt, Plan};
use super::problem::Problem;
use super::target::{Mode, Target};
use crate::haproxy::{
    self, AdminState, Client, Command, CommandResult, Glances, Observed, ObservedServer,
    ProcessInfo, Rejection, RejectionKind, Session,
};
use crate::model::{BackendName, ServerAddress, SlotNumber, Timestamp};
use crate::store::Revision;

/// A slot needs at most four: its address, its start, its weight once the algorithm is known to be
/// static, and a second try of a refused command.
const MAX_ROUNDS: usize = 8;

/// One HAProxy and what it is to be kept equal to.
#[derive(Debug)]
pub struct Engine {
    client: Client,
    pub targets: Vec<Target>,
    /// What replies have taught of each target, until the process changes.
    learnt: Vec<Learnt>,
    /// What was sent of each target, until the process changes.
    others: Vec<Others>,
    /// The process of the last pass.
    process: Option<ProcessInfo>,
    /// The servers of each backend as that pass left them.
    left: BTreeMap<String, Vec<ObservedServer>>,
    /// One of each, by its numbers.
    watched: Vec<Watched>,
    /// Servers that have left, or that drain without an order, may still have sessions.
    counts: bool,
}

/// What one pass saw and did.
#[derive(Debug, Clone)]
pub struct Pass {
    pub process: ProcessInfo,
    /// HAProxy is another process than in the pass before.
    pub restarted: bool,
    /// How many commands were accepted.
    pub applied: usize,
    /// What each target is in the end; `None` where its table is not known.
    pub targets: Vec<Option<Look>>,
}

/// A target after a pass.
#[derive(Debug, Clone)]
pub struct Look {
    /// Of the table that it was compared with.
    pub revision: Revision,
    /// What is left to do.
    pub plan: Plan,
    pub refused: BTreeMap<SlotNumber, String>,
    /// Slots that no further try can help.
    pub misconfigured: BTreeSet<SlotNumber>,
}

impl Look {
    /// Whether HAProxy is what the table says.
    pub fn is_converged(&self) -> bool {
        self.plan.drift.is_empty() && self.plan.unordered.is_empty()
    }

    /// Whether all that HAProxy has a place for is what the table says, but for weights that others
    /// set: a slot without a place serves nobody, so that it need not keep others waiting.
    pub fn holds(&self) -> bool {
        let is_harmless =
            |slot| self.plan.unplaced.contains(slot) || self.plan.contested.contains(slot);
        self.plan.drift.iter().all(is_harmless)
    }

    /// Whether all that is left to do waits for another configuration, or for somebody's word on who
    /// may leave.
    pub fn is_misconfigured(&self) -> bool {
        let unordered = &self.plan.unordered;
        let waits = |slot: &SlotNumber| {
            self.plan.unplaced.contains(slot)
                || self.misconfigured.contains(slot)
                || unordered.get(slot).is_some_and(|kept| !kept.why.waits_for_servers())
        };
        self.plan.drift.iter().all(waits)
    }

    /// Why it is not what it should be, in a sentence.
    pub fn error(&self) -> Option<String> {
        if !self.plan.problems.is_empty() {
            return Some(in_a_sentence(&self.plan.problems));
        }
        let (slot, reply) = self.refused.iter().find(|(s, _)| self.plan.drift.contains(s))?;
        Some(format!("HAProxy refuses slot {slot}: {reply}"))
    }
}

/// How many problems of a kind that each server may have are named: the text is in the log, and in a
/// report that a store takes up to some size.
const NAMED: usize = 10;

fn in_a_sentence(problems: &[impl ToString]) -> String {
    let mut named: Vec<String> = problems.iter().take(NAMED).map(ToString::to_string).collect();
    if problems.len() > NAMED {
        named.push(format!("and {} more problems like these", problems.len() - NAMED));
    }
    named.join("; ")
}

impl Pass {
    pub fn is_converged(&self) -> bool {
        self.targets.iter().flatten().all(Look::is_converged)
    }

    /// Whether all that is left to do waits for another configuration of HAProxy or of lbctl.
    pub fn is_misconfigured(&self) -> bool {
        !self.is_converged() && self.targets.iter().flatten().all(Look::is_misconfigured)
    }

    /// Whether HAProxy's configuration has too few places for the tables, be they needed or not.
    pub fn lacks_places(&self) -> bool {
        let problems = self.targets.iter().flatten().flat_map(|look| &look.plan.problems);
        problems.into_iter().any(Problem::is_configuration)
    }

    /// Every problem, for people.
    pub fn errors(&self) -> Vec<String> {
        self.targets.iter().flatten().filter_map(Look::error).collect()
    }

    /// Whether something is under way in HAProxy that is worth a look soon.
    pub fn is_unfinished(&self) -> bool {
        self.targets
            .iter()
            .flatten()
            .any(|look| !look.plan.sessions.is_empty() || !look.plan.leftovers.is_empty())
    }
}

impl Engine {
    pub fn new(client: Client, targets: Vec<Target>) -> Self {
        let learnt = vec![Learnt::default(); targets.len()];
        let others = vec![Others::default(); targets.len()];
        Self {
            client,
            targets,
            learnt,
            others,
            left: BTreeMap::new(),
            process: None,
            watched: Vec::new(),
            counts: true,
        }
    }

    /// Looks at HAProxy's process and at a server of each of a few backends, which is cheap. Answers
    /// whether HAProxy may be another than the last pass has left: a new process, or one that has
    /// been changed or has lost what was set.
    pub async fn has_changed(&mut self) -> haproxy::Result<bool> {
        let watched = Watched::take_turns(&mut self.watched);
        let numbers: Vec<(u32, u32)> = watched.iter().map(|watched| watched.at).collect();
        let glances = self.client.session().await?.glance(&numbers).await?;
        self.running(&glances.process)?;
        let same = watched.iter().zip(&glances.servers).all(|(watched, glance)| {
            glance.as_ref().is_some_and(|glance| glance.agrees_with(&watched.server))
        });
        Ok(!same || self.is_new(&glances.process))
    }

    /// Whether this is another process than the one last seen in a pass.
    fn is_new(&self, process: &ProcessInfo) -> bool {
        self.process.as_ref().is_some_and(|known| !process.is_same_as(known))
    }

    /// Observes, plans and applies until there is nothing more to do, on one connection. What was
    /// applied is seen to hold before it counts.
    pub async fn pass(&mut self, views: &Views, now: Timestamp) -> haproxy::Result<Pass> {
        loop {
            match self.try_pass(views, now).await {
                Err(error) if self.client.shortens_lines(&error) => {
                    tracing::info!(%error, "sending shorter ones from now on");
                }
                done => return done,
            }
        }
    }

    async fn try_pass(&mut self, views: &Views, now: Timestamp) -> haproxy::Result<Pass> {
        let wanted = self.wanted(views, now);
        let mut session = self.client.session().await?;
        let scope = Scope {
            backends: self.backends(&wanted),
            drains: wanted.iter().flatten().any(|(_, wanted)| drains(wanted)),
        };
        let rests = wanted.iter().flatten().any(|(_, wanted)| !wanted.resting.is_empty());
        let counts = scope.drains || rests || self.counts;
        let mut observed = session.observe(&scope.backends, counts).await?;
        self.running(&observed.process)?;
        let left = left(&observed);
        let restarted = self.meet(&observed.process);
        self.ask_for_resolvers(&mut session, &observed).await?;
        let mut tried = BTreeSet::new();
        let mut applied = 0;
        let mut plans = self.plans(&wanted, &observed);
        self.log_undone(&observed, &plans);
        for _ in 0..MAX_ROUNDS {
            self.give_way(&wanted, &observed, &mut plans);
            let actions = actions(&mut plans);
            if actions.is_empty() {
                break;
            }
            let round = Round::of(&actions, &scope, &observed);
            self.begin(&actions);
            let (results, seen) = round.apply(&mut session, &scope).await?;
            self.note(&wanted, &actions, &results);
            give_ports_back(&mut session, &results).await?;
            let accepted = results.iter().filter(|result| result.is_ok()).count();
            applied += accepted;
            let all_accepted = accepted == actions.len();
            self.learn(&actions, results, &mut tried);
            observed = round.look(&mut session, &scope, observed, seen, all_accepted).await?;
            remember(&left, &mut observed);
            plans = self.plans(&wanted, &observed);
        }
        self.running(&observed.process)?;
        self.see_effects(&mut session, &observed).await?;
        self.watched = Watched::of(&observed);
        self.left = observed.backends;
        let targets = self.looks(plans);
        self.counts = targets.iter().flatten().any(|look| look.plan.waits_for_sessions());
        self.note_placed(&targets);
        self.forget_tries();
        Ok(Pass { process: observed.process, restarted, applied, targets })
    }

    /// What the socket lets its users do, where that is not all that a pass needs.
    pub async fn lesser_level(&self) -> haproxy::Result<Option<String>> {
        // "show cli level" of the management guide: every level may ask it.
        let level = self.client.session().await?.raw("show cli level").await?;
        let level = level.trim();
        Ok(["operator", "user"].contains(&level).then(|| level.to_owned()))
    }

    /// Observes and answers what a pass would begin with, for each target whose table is known.
    pub async fn look(&mut self, views: &Views, now: Timestamp) -> haproxy::Result<Vec<Preview>> {
        let wanted = self.wanted(views, now);
        let backends = self.backends(&wanted);
        let mut session = self.client.session().await?;
        let observed = session.observe(&backends, true).await?;
        self.ask_for_resolvers(&mut session, &observed).await?;
        let mut previews = Vec::new();
        for ((target, learnt), wanted) in self.targets.iter().zip(&self.learnt).zip(wanted) {
            if let Some((revision, wanted)) = wanted {
                let servers = observed.backends.get(target.backend.as_str()).cloned();
                let (target, learnt) = (target.clone(), learnt.clone());
                previews.push(Preview { target, learnt, revision, wanted, servers });
            }
        }
        Ok(previews)
    }

    /// The file that HAProxy loads its servers' state from, and the problem where it would not load
    /// them all. `None` where it is not the process of the last pass any more, which may know
    /// nothing yet.
    pub async fn state(&self) -> haproxy::Result<Option<(String, Option<Problem>)>> {
        let mut session = self.client.session().await?;
        let process = session.process().await?;
        if self.is_new(&process) || process.stopping {
            return Ok(None);
        }
        let state = session.raw("show servers state").await?;
        let backends = self.targets.iter().map(|target| target.backend.as_str()).collect();
        let (state, left_out) = dump::loadable(&state, &backends);
        // No file brings dynamic servers back: there is nothing to write otherwise.
        let has_places = |target: &&Target| target.mode == Mode::Slots;
        let mut problems = self.targets.iter().filter(has_places);
        let problem = problems.find(|target| left_out.contains(target.backend.as_str()));
        let problem = problem.map(|t| Problem::AddressesNotLoaded { backend: t.backend.clone() });
        Ok(Some((state, problem)))
    }

    fn wanted(&self, views: &Views, now: Timestamp) -> Vec<Option<(Revision, Wanted)>> {
        let wanted = |target: &Target| {
            let table = views.get(&target.from)?.table.as_ref()?;
            Some((table.revision, Wanted::compute(table, target, now)))
        };
        self.targets.iter().map(wanted).collect()
    }

    fn backends(&self, wanted: &[Option<(Revision, Wanted)>]) -> Vec<BackendName> {
        let known = self.targets.iter().zip(wanted).filter(|(_, wanted)| wanted.is_some());
        // One backend may have several targets.
        let mut backends: Vec<BackendName> =
            known.map(|(target, _)| target.backend.clone()).collect();
        backends.sort_unstable();
        backends.dedup();
        backends
    }

    /// A session that reached an old worker in the moment of a reload says nothing of the new one:
    /// neither what it has applied nor what sessions it has.
    fn running(&self, process: &ProcessInfo) -> haproxy::Result<()> {
        if process.stopping {
            let address = self.client.address().clone();
            return Err(haproxy::Error::Stopping { address, pid: process.pid });
        }
        Ok(())
    }

    /// Finds out once for each backend whether its places have a resolver, which would take every
    /// address away that is set: HAProxy shows their names and not whether they are asked for.
    async fn ask_for_resolvers(
        &mut self,
        session: &mut Session,
        observed: &Observed,
    ) -> haproxy::Result<()> {
        for (target, learnt) in self.targets.iter().zip(&mut self.learnt) {
            let servers =
                observed.backends.get(target.backend.as_str()).map_or(&[][..], Vec::as_slice);
            let is_place = |server: &&ObservedServer| {
                server.has_name
                    && target.prefix.as_ref().is_none_or(|p| p.slot(&server.name).is_some())
            };
            let place = servers.iter().find(is_place).filter(|_| target.mode == Mode::Slots);
            if let (Some(place), false) = (place, learnt.asked_for_resolver) {
                learnt.resolver = session.has_resolver(&target.backend, &place.name).await?;
                learnt.asked_for_resolver = true;
            }
        }
        Ok(())
    }

    /// Notes the process; what an earlier one taught no longer counts.
    fn meet(&mut self, process: &ProcessInfo) -> bool {
        let restarted = self.is_new(process);
        if restarted {
            self.learnt.fill(Learnt::default());
            self.others.fill(Others::default());
            self.left.clear();
        }
        self.process = Some(process.clone());
        restarted
    }

    fn plans(
        &self,
        wanted: &[Option<(Revision, Wanted)>],
        observed: &Observed,
    ) -> Vec<Option<(Revision, Plan)>> {
        let plan =
            |((target, learnt), wanted): ((&Target, &Learnt), &Option<(Revision, Wanted)>)| {
                let (revision, wanted) = wanted.as_ref()?;
                let servers = observed.backends.get(target.backend.as_str()).map(Vec::as_slice);
                Some((*revision, plan::plan(target, wanted, servers, learnt)))
            };
        self.targets.iter().zip(&self.learnt).zip(wanted).map(plan).collect()
    }

    /// Looks whether servers that were added have what was meant, gives them what can be given, and
    /// tells of the rest: once for each backend, and again after others were added.
    async fn see_effects(
        &mut self,
        session: &mut Session,
        observed: &Observed,
    ) -> haproxy::Result<()> {
        for (target, learnt) in self.targets.iter().zip(&mut self.learnt) {
            let backend = target.backend.as_str();
            let (Mode::Dynamic(dynamic), Some(prefix)) = (&target.mode, &target.prefix) else {
                continue;
            };
            let known = observed.backends.get(backend).zip(observed.proxies.get(backend));
            let Some((servers, proxy)) = known.filter(|_| !learnt.effects_seen) else { continue };
            let (ours, others): (Vec<_>, Vec<_>) =
                servers.iter().partition(|server| prefix.slot(&server.name).is_some());
            if ours.is_empty() {
                continue;
            }
            let (ours, others) = (ours.as_slice(), others.as_slice());
            let mut features = session.features(*proxy).await?;
            if (Added { dynamic, ours, others, features: &features }).lacks_cookies() {
                session.enable_dynamic_cookies(&target.backend).await?;
                features = session.features(*proxy).await?;
            }
            let added = Added { dynamic, ours, others, features: &features };
            let lacks = added.lacks();
            if !learnt.effects_told {
                let has = added.summary();
                tracing::info!(
                    "servers that are added to backend {backend} have {has}, as server-options says: \
                     default-server does not hold for them"
                );
            }
            if !lacks.is_empty() && lacks != learnt.lacks {
                tracing::warn!(
                    "servers that were added to backend {backend} lack {}, which was asked for or which its other \
                     servers have: server-options has to say all of it, since default-server does not hold \
                     for servers that are added",
                    lacks.join(", ")
                );
            }
            (learnt.effects_seen, learnt.effects_told, learnt.lacks) = (true, true, lacks);
        }
        Ok(())
    }

    /// Logs what another hand has changed and the plans undo.
    fn log_undone(&self, observed: &Observed, plans: &[Option<(Revision, Plan)>]) {
        for (target, plan) in self.targets.iter().zip(plans) {
            let backend = target.backend.as_str();
            let servers = self.left.get(backend).zip(observed.backends.get(backend));
            if let (Some((before, now)), Some((_, plan))) = (servers, plan) {
                others::log_undone(target, before, now, &plan.actions);
            }
        }
    }

    /// Leaves to others what they undo again and again.
    fn give_way(
        &mut self,
        wanted: &[Option<(Revision, Wanted)>],
        observed: &Observed,
        plans: &mut [Option<(Revision, Plan)>],
    ) {
        let of_targets = self.targets.iter().zip(&mut self.others).zip(wanted).zip(plans);
        for (((target, others), wanted), plan) in of_targets {
            let servers = observed.backends.get(target.backend.as_str());
            if let (Some((_, wanted)), Some((_, plan)), Some(servers)) = (wanted, plan, servers) {
                others.give_way(target, servers, |slot| wanted.of(slot), plan, Instant::now());
            }
        }
    }

    /// Notes which starts are about to be sent, since nobody knows how far one has come where the
    /// connection breaks.
    fn begin(&mut self, actions: &[(usize, Action)]) {
        for (target, action) in actions {
            if let (Command::SetHealthDown { .. }, Some(learnt)) =
                (&action.command, self.learnt.get_mut(*target))
            {
                learnt.half_started.insert(action.slot);
            }
        }
    }

    /// Notes what was sent: HAProxy has answered all of it.
    fn note(
        &mut self,
        wanted: &[Option<(Revision, Wanted)>],
        actions: &[(usize, Action)],
        results: &[CommandResult],
    ) {
        let mut results = results;
        for actions in actions.chunk_by(|(one, _), (other, _)| one == other) {
            let (of_target, rest) = results.split_at(actions.len().min(results.len()));
            results = rest;
            let Some(target) = actions.first().map(|(target, _)| *target) else { continue };
            let known = (self.learnt.get_mut(target), self.others.get_mut(target));
            let (Some(learnt), Some(others)) = known else { continue };
            let answered = actions.iter().map(|(_, action)| action).zip(of_target);
            answered.clone().for_each(|(action, result)| learnt.answered(action, result));
            let accepted = answered.filter(|(_, result)| result.is_ok()).map(|(action, _)| action);
            if let Some(Some((_, wanted))) = wanted.get(target) {
                others.sent(accepted, |slot| wanted.of(slot), Instant::now());
            }
        }
    }

    /// Takes in what HAProxy said to each command. A refused one is tried once more, after another
    /// look: HAProxy may have changed under the plan.
    fn learn(
        &mut self,
        actions: &[(usize, Action)],
        results: Vec<CommandResult>,
        tried: &mut BTreeSet<String>,
    ) {
        for ((target, action), result) in actions.iter().zip(results) {
            metrics::command(&action.command, &result);
            let Some(learnt) = self.learnt.get_mut(*target) else { continue };
            let Err(rejection) = result else {
                if let Command::EndSessions { server } = &action.command {
                    tracing::info!(%server, "ended the sessions that were left after the drain");
                    learnt.ended.insert(action.slot);
                }
                continue;
            };
            let fresh = tried.insert(action.command.to_string());
            let why = match rejection.remedy() {
                Some(remedy) => format!("{}: {remedy}", rejection.reply),
                None => rejection.reply.clone(),
            };
            let Rejection { command, reply, kind } = *rejection;
            tracing::debug!(%command, %reply, "HAProxy refuses a command");
            match (&command, kind) {
                (Command::SetWeight { .. }, RejectionKind::StaticAlgorithm) => {
                    learnt.static_weights = true;
                }
                // Its health follows the server that it tracks.
                (Command::SetHealthDown { .. }, RejectionKind::NoHealthCheck) => {}
                (_, RejectionKind::MappedPort) => learnt.mapped_ports = true,
                (_, RejectionKind::StillInUse) => {
                    learnt.refused.insert(action.slot, why);
                }
                _ if fresh => {}
                _ => {
                    learnt.refused.insert(action.slot, why);
                    if kind.is_misconfiguration() {
                        learnt.misconfigured.insert(action.slot);
                    }
                }
            }
        }
    }

    fn note_placed(&mut self, looks: &[Option<Look>]) {
        for (learnt, look) in self.learnt.iter_mut().zip(looks) {
            learnt.placed.clear();
            learnt.placed.extend(look.iter().flat_map(|look| &look.plan.placed));
        }
    }

    fn forget_tries(&mut self) {
        for learnt in &mut self.learnt {
            learnt.ended.clear();
            learnt.refused.clear();
            learnt.misconfigured.clear();
        }
    }

    fn looks(&self, plans: Vec<Option<(Revision, Plan)>>) -> Vec<Option<Look>> {
        plans
            .into_iter()
            .zip(&self.learnt)
            .map(|(plan, learnt)| {
                let (revision, plan) = plan?;
                let (refused, misconfigured) =
                    (learnt.refused.clone(), learnt.misconfigured.clone());
                Some(Look { revision, plan, refused, misconfigured })
            })
            .collect()
    }
}

/// A target before a pass.
#[derive(Debug)]
pub struct Preview {
    pub target: Target,
    pub learnt: Learnt,
    pub revision: Revision,
    pub wanted: Wanted,
    /// `None` where HAProxy has no such backend.
    pub servers: Option<Vec<ObservedServer>>,
}

/// Ports that HAProxy added to the client's show only once they are changed: they are given back.
async fn give_ports_back(session: &mut Session, results: &[CommandResult]) -> haproxy::Result<()> {
    let rejections = results.iter().filter_map(|result| result.as_ref().err());
    for undo in rejections.filter_map(|rejection| rejection.undo()) {
        let reply = session.raw(&undo).await?;
        match reply.contains("port changed") {
            true => tracing::debug!(%undo, "gave a mapped port back"),
            // Up to 2.8 a check, even one that is not there, needs a port of its own for that.
            false => {
                tracing::warn!(%undo, %reply, "a mapped port is lost until HAProxy is reloaded");
            }
        }
    }
    Ok(())
}

/// A server that is looked at between two passes.
#[derive(Debug, Clone)]
struct Watched {
    at: (u32, u32),
    server: ObservedServer,
}

impl Watched {
    /// How many are looked at in one turn.
    const AT_ONCE: usize = 8;

    /// One of each backend: a ready one where there is one, since that is what a HAProxy that has
    /// begun anew does not have.
    fn of(observed: &Observed) -> Vec<Self> {
        let of_backend = |(backend, servers): (&String, &Vec<ObservedServer>)| {
            let is_ready = |s: &&ObservedServer| s.admin.state() == AdminState::Ready;
            let server = servers.iter().find(is_ready).or(servers.first())?;
            let at = (*observed.proxies.get(backend)?, server.id);
            Some(Self { at, server: server.clone() })
        };
        observed.backends.iter().filter_map(of_backend).collect()
    }

    /// The next few; of many, others each time.
    fn take_turns(all: &mut [Self]) -> Vec<Self> {
        let turn = all.len().min(Self::AT_ONCE);
        let taken = all.iter().take(turn).cloned().collect();
        all.rotate_left(turn);
        taken
    }
}

/// The sessions of the servers that have some.
fn left(observed: &Observed) -> HashMap<(String, String), u64> {
    let servers =
        observed.backends.iter().flat_map(|(b, servers)| servers.iter().map(move |s| (b, s)));
    let some = servers.filter_map(|(b, s)| Some((b, s, s.sessions.filter(|count| *count > 0)?)));
    some.map(|(b, s, count)| ((b.clone(), s.name.clone()), count)).collect()
}

/// Takes sessions that were read at the beginning of a pass over to a look that did not read any:
/// servers that have left get no new ones.
fn remember(left: &HashMap<(String, String), u64>, observed: &mut Observed) {
    if left.is_empty() {
        return;
    }
    for (backend, servers) in &mut observed.backends {
        for server in servers.iter_mut().filter(|server| server.sessions.is_none()) {
            server.sessions = left.get(&(backend.clone(), server.name.clone())).copied();
        }
    }
}

fn drains(wanted: &Wanted) -> bool {
    wanted.held().any(|(_, desired)| matches!(desired, Desired::Drain { .. }))
}

/// Takes what to do now out of the plans, with the position of each action's target.
fn actions(plans: &mut [Option<(Revision, Plan)>]) -> Vec<(usize, Action)> {
    let plans = plans.iter_mut().enumerate();
    let taken =
        plans.filter_map(|(n, plan)| Some((n, std::mem::take(&mut plan.as_mut()?.1.actions))));
    taken.flat_map(|(n, actions)| actions.into_iter().map(move |action| (n, action))).collect()
}

/// What a pass looks at.
struct Scope {
    backends: Vec<BackendName>,
    /// Whether something drains, so that sessions are counted.
    drains: bool,
}

/// Commands that are sent together, and the look at what has come of them.
struct Round {
    commands: Vec<Command>,
    /// `None` where it takes a look at everything.
    changed: Option<Changed>,
    /// Whether the look may come in the same lines as the commands.
    at_once: bool,
}

/// What was seen in the same lines as the commands: nothing where they could not be the same.
enum Seen {
    Everything(Observed),
    Changed(Glances),
    Nothing,
}

impl Round {
    fn of(actions: &[(usize, Action)], scope: &Scope, observed: &Observed) -> Self {
        let commands: Vec<Command> = actions.iter().map(|(_, a)| a.command.clone()).collect();
        // What is asked for sessions depends on what was observed.
        let changed = if scope.drains { None } else { Changed::by(&commands, observed) };
        // An address may take its time to show.
        let moves = commands.iter().any(|c| matches!(c, Command::SetAddress { .. }));
        Self { commands, changed, at_once: !scope.drains && !moves }
    }

    async fn apply(
        &self,
        session: &mut Session,
        scope: &Scope,
    ) -> haproxy::Result<(Vec<CommandResult>, haproxy::Result<Seen>)> {
        Ok(match &self.changed {
            _ if !self.at_once => (session.apply(&self.commands).await?, Ok(Seen::Nothing)),
            Some(changed) => {
                let (results, glances) =
                    session.apply_and_glance(&self.commands, &changed.numbers()).await?;
                (results, glances.map(Seen::Changed))
            }
            None => {
                let (results, observed) =
                    session.apply_and_observe(&self.commands, &scope.backends).await?;
                (results, observed.map(Seen::Everything))
            }
        })
    }

    /// What is there after the commands; refusals take a look at everything.
    async fn look(
        &self,
        session: &mut Session,
        scope: &Scope,
        mut before: Observed,
        seen: haproxy::Result<Seen>,
        all_accepted: bool,
    ) -> haproxy::Result<Observed> {
        let changed = self.changed.as_ref().filter(|_| all_accepted);
        let shows = match (seen, changed) {
            (Ok(Seen::Everything(observed)), _) => return Ok(observed),
            (Ok(Seen::Changed(glances)), Some(changed)) => changed.note(glances, &mut before),
            (Ok(Seen::Nothing), Some(changed)) => changed.show(session, &mut before).await?,
            (Ok(_), None) => false,
            (Err(error), _) => {
                tracing::debug!(%error, "looking at everything");
                false
            }
        };
        if shows { Ok(before) } else { self.settle(session, scope).await }
    }

    /// Observes until every new address shows, or it takes too long.
    async fn settle(&self, session: &mut Session, scope: &Scope) -> haproxy::Result<Observed> {
        let deadline = Instant::now() + haproxy::ADDRESS_SETTLES;
        let mut wait = Duration::from_millis(2);
        loop {
            let observed = session.observe(&scope.backends, scope.drains).await?;
            if all_show(&self.commands, &observed) || Instant::now() >= deadline {
                return Ok(observed);
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_millis(50));
        }
    }
}

/// Whether every address that was set shows; a server that is not there has none to wait for.
fn all_show(commands: &[Command], observed: &Observed) -> bool {
    let set = commands.iter().filter_map(|command| match command {
        Command::SetAddress { server, address, .. } => {
            Some(((server.backend.as_str(), server.server.as_str()), *address))
        }
        _ => None,
    });
    let set: HashMap<(&str, &str), ServerAddress> = set.collect();
    let shows = |backend: &str, server: &ObservedServer| {
        let address = set.get(&(backend, server.name.as_str()));
        address.is_none_or(|address| plan::shows(server, *address))
    };
    let mut backends = observed.backends.iter();
    set.is_empty()
        || backends.all(|(backend, servers)| servers.iter().all(|server| shows(backend, server)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::sync_haproxy::testing::named;
    use crate::haproxy::ServerRef;

    #[test]
    fn a_thousand_problems_are_a_short_text() {
        let all: Vec<String> = (0..1000).map(|number| format!("p{number}")).collect();
        assert_eq!(in_a_sentence(&all[..2]), "p0; p1");
        let text = in_a_sentence(&all);
        assert!(text.ends_with("p9; and 990 more problems like these"), "{text}");
    }

    #[test]
    fn only_addresses_that_show_end_the_wait() {
        let server = |name: &str| ServerRef {
            backend: "app".parse().unwrap(),
            server: name.parse().unwrap(),
        };
        let set = |name: &str, address: &str| Command::SetAddress {
            server: server(name),
            address: address.parse().unwrap(),
            keep_port: false,
        };
        let process = ProcessInfo {
            pid: 1,
            started_s: None,
            version: "3.0".into(),
            uptime_s: 1,
            stopping: false,
        };
        let backends = [("app".to_owned(), vec![named("srv1")])].into();
        let observed = Observed { process, backends, proxies: BTreeMap::new() };
        assert!(all_show(&[set("srv1", "127.0.0.2:80")], &observed));
        assert!(!all_show(&[set("srv1", "127.0.0.2:81")], &observed));
        assert!(all_show(&[set("gone", "127.0.0.2:81")], &observed));
    }
}
