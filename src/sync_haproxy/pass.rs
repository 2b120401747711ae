use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::changed::Changed;
use super::desired::{Desired, Wanted};
use super::dump;
use super::feed::Views;
use super::metrics;
use super::plan::{self, Action, Learnt, Plan};
use super::problem::Problem;
use super::target::{Mode, Target};
use crate::haproxy::{
    self, Client, Command, CommandResult, Glances, Observed, ObservedServer, ProcessInfo,
    Rejection, RejectionKind, Session,
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
    pid: Option<u32>,
    /// Servers that have left may still have sessions.
    crowded: bool,
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

    /// Whether all that HAProxy has a place for is what the table says: a slot without a place
    /// serves nobody, so that it need not keep others waiting.
    pub fn holds(&self) -> bool {
        self.plan.drift.iter().all(|slot| self.plan.unplaced.contains(slot))
    }

    /// Whether all that is left to do waits for another configuration.
    pub fn is_misconfigured(&self) -> bool {
        let waits = |slot| self.plan.unplaced.contains(slot) || self.misconfigured.contains(slot);
        self.plan.drift.iter().all(waits)
    }

    /// Why it is not what it should be, in a sentence.
    pub fn error(&self) -> Option<String> {
        if !self.plan.problems.is_empty() {
            let problems: Vec<String> =
                self.plan.problems.iter().map(ToString::to_string).collect();
            return Some(problems.join("; "));
        }
        let (slot, reply) = self.refused.iter().find(|(s, _)| self.plan.drift.contains(s))?;
        Some(format!("HAProxy refuses slot {slot}: {reply}"))
    }
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
        problems.into_iter().any(|problem| !matches!(problem, Problem::StaticWeights { .. }))
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
        Self { client, targets, learnt, pid: None, crowded: true }
    }

    /// Asks HAProxy for its process: cheap.
    pub async fn process(&self) -> haproxy::Result<ProcessInfo> {
        let process = self.client.session().await?.process().await?;
        self.running(&process)?;
        Ok(process)
    }

    /// Whether this is another process than the one last seen in a pass.
    pub fn is_new(&self, process: &ProcessInfo) -> bool {
        self.pid.is_some_and(|pid| pid != process.pid)
    }

    /// Observes, plans and applies until there is nothing more to do, on one connection. What was
    /// applied is seen to hold before it counts.
    pub async fn pass(&mut self, views: &Views, now: Timestamp) -> haproxy::Result<Pass> {
        let wanted = self.wanted(views, now);
        let mut session = self.client.session().await?;
        let scope = Scope {
            backends: self.backends(&wanted),
            drains: wanted.iter().flatten().any(|(_, wanted)| drains(wanted)),
        };
        let rests = wanted.iter().flatten().any(|(_, wanted)| !wanted.resting.is_empty());
        let counts = scope.drains || rests || self.crowded;
        let mut observed = session.observe(&scope.backends, counts).await?;
        self.running(&observed.process)?;
        let left = left(&observed);
        let restarted = self.meet(&observed.process);
        let mut tried = BTreeSet::new();
        let mut applied = 0;
        let mut plans = self.plans(&wanted, &observed);
        for _ in 0..MAX_ROUNDS {
            let actions = actions(&mut plans);
            if actions.is_empty() {
                break;
            }
            let round = Round::of(&actions, &scope, &observed);
            let (results, seen) = round.apply(&mut session, &scope).await?;
            let accepted = results.iter().filter(|result| result.is_ok()).count();
            applied += accepted;
            let all_accepted = accepted == actions.len();
            self.learn(&actions, results, &mut tried);
            observed = round.look(&mut session, &scope, observed, seen, all_accepted).await?;
            remember(&left, &mut observed);
            plans = self.plans(&wanted, &observed);
        }
        self.running(&observed.process)?;
        let targets = self.looks(plans);
        self.crowded = targets.iter().flatten().any(|look| !look.plan.crowded.is_empty());
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
        let mut observed = session.observe(&backends, true).await?;
        let mut previews = Vec::new();
        for (target, wanted) in self.targets.iter().zip(wanted) {
            if let Some((revision, wanted)) = wanted {
                let servers = observed.backends.remove(target.backend.as_str());
                previews.push(Preview { target: target.clone(), revision, wanted, servers });
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
        known.map(|(target, _)| target.backend.clone()).collect()
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

    /// Notes the process; what an earlier one taught no longer counts.
    fn meet(&mut self, process: &ProcessInfo) -> bool {
        let restarted = self.is_new(process);
        if self.pid.replace(process.pid) != Some(process.pid) {
            self.learnt.fill(Learnt::default());
        }
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
    pub revision: Revision,
    pub wanted: Wanted,
    /// `None` where HAProxy has no such backend.
    pub servers: Option<Vec<ObservedServer>>,
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
        Command::SetAddress { server, address } => {
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
    use crate::haproxy::ServerRef;
    use crate::sync_haproxy::testing::named;

    #[test]
    fn only_addresses_that_show_end_the_wait() {
        let server = |name: &str| ServerRef {
            backend: "app".parse().unwrap(),
            server: name.parse().unwrap(),
        };
        let set = |name: &str, address: &str| Command::SetAddress {
            server: server(name),
            address: address.parse().unwrap(),
        };
        let process = ProcessInfo { pid: 1, version: "3.0".into(), uptime_s: 1, stopping: false };
        let backends = [("app".to_owned(), vec![named("srv1")])].into();
        let observed = Observed { process, backends, proxies: BTreeMap::new() };
        assert!(all_show(&[set("srv1", "127.0.0.2:80")], &observed));
        assert!(!all_show(&[set("srv1", "127.0.0.2:81")], &observed));
        assert!(all_show(&[set("gone", "127.0.0.2:81")], &observed));
    }
}
