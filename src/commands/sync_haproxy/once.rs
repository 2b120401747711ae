use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::driver::problems;
use super::dump;
use super::feed::Views;
use super::pass::{Engine, Pass, Preview};
use super::plan::plan;
use super::predict::predict;
use super::settings::Settings;
use crate::error::{CommandError, CommandResult, Kind};
use crate::haproxy::{self, Client, Timeouts};
use crate::model::{SlotNumber, Timestamp};
use crate::output::{self, OutputFormat};
use crate::store::{Revision, SharedStore};

/// How long the store may take to answer.
const STORE_PATIENCE: Duration = Duration::from_secs(10);

/// How long HAProxy may take to become what the tables say.
const PATIENCE: Duration = Duration::from_secs(10);

/// A plan has no more rounds than this, unless something is wrong with the prediction.
const MAX_ROUNDS: usize = 8;

/// Makes HAProxy equal to its tables, once.
pub async fn converge(settings: &Settings, store: &SharedStore) -> CommandResult {
    let views = tables(settings, store).await?;
    let mut engine = engine(settings);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let pass = engine.pass(&views, Timestamp::now()).await.map_err(unavailable)?;
        let errors = problems(&pass, &views);
        // Also where no server needs the place yet: the next one would find it missing.
        if pass.is_misconfigured() || (pass.is_converged() && pass.lacks_places()) {
            return Err(CommandError::msg(Kind::Config, errors.join("; ")));
        }
        if pass.is_converged() {
            for error in errors {
                tracing::warn!("{error}");
            }
            tracing::info!(commands = pass.applied, "HAProxy is what its tables say");
            return dump(settings, &engine).await;
        }
        if Instant::now() >= deadline {
            let error = match errors.is_empty() {
                true => unfinished(&pass),
                false => errors.join("; "),
            };
            return Err(CommandError::msg(Kind::Failed, error));
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Prints what would be done, and does nothing.
pub async fn preview(
    settings: &Settings,
    store: &SharedStore,
    format: OutputFormat,
) -> CommandResult {
    let views = tables(settings, store).await?;
    let mut engine = engine(settings);
    let previews = engine.look(&views, Timestamp::now()).await.map_err(unavailable)?;
    let plans: Vec<Planned> = previews.into_iter().map(Planned::new).collect();
    match format {
        OutputFormat::Json => output::print_json(&plans)?,
        OutputFormat::Table => output::print(&table(&plans))?,
    }
    if let Some(level) = engine.lesser_level().await.map_err(unavailable)? {
        let socket = &settings.socket;
        let message = format!("{socket} is of level {level}, which may change nothing in HAProxy");
        return Err(CommandError::msg(Kind::Config, message)
            .hint("add `level admin` to its `stats socket` line in HAProxy's `global` section"));
    }
    match plans.into_iter().find_map(|plan| plan.failure) {
        Some(failure) => Err(CommandError::msg(Kind::Config, failure)),
        None => Ok(()),
    }
}

fn engine(settings: &Settings) -> Engine {
    let client = Client::new(settings.socket.clone(), Timeouts::default());
    Engine::new(client, settings.targets.clone())
}

/// Every table, or why there is none.
async fn tables(settings: &Settings, store: &SharedStore) -> CommandResult<Views> {
    let mut feeds = settings.feeds(store);
    let loaded = feeds.loaded(STORE_PATIENCE).await;
    let views = feeds.views();
    if !loaded {
        let stale = views.values().find_map(|view| view.stale.clone());
        let reason = stale.unwrap_or_else(|| "the store does not answer".into());
        return Err(CommandError::msg(Kind::Unavailable, reason));
    }
    match views.values().find(|view| view.table.is_none()) {
        Some(view) => {
            let problem = view.problem.clone().unwrap_or_else(|| "a table is missing".into());
            let error = CommandError::msg(Kind::Config, problem);
            Err(if settings.hsdo.is_some() { error } else { error.hint("correct --from") })
        }
        None => Ok(views),
    }
}

async fn dump(settings: &Settings, engine: &Engine) -> CommandResult {
    if let Some(path) = &settings.dump_state {
        let state = engine.state().await.map_err(unavailable)?;
        if let Some((state, problem)) = state {
            dump::write(path, state).await?;
            if let Some(problem) = problem {
                tracing::warn!("{problem}");
            }
        }
    }
    Ok(())
}

/// Why a pass that met no error did not make HAProxy what its tables say.
fn unfinished(pass: &Pass) -> String {
    let held: usize = pass.targets.iter().flatten().map(|look| look.plan.held.len()).sum();
    match held {
        0 => "HAProxy is not what its tables say".to_owned(),
        _ => format!(
            "{held} servers are to drain and go on serving, since no server that stays is up: see \
             whether the new ones pass their health checks, and when their weight leaves 0"
        ),
    }
}

fn unavailable(error: haproxy::Error) -> CommandError {
    let kind = if error.is_unavailable() { Kind::Unavailable } else { Kind::Config };
    let remedy = error.remedy();
    let failure = CommandError::new(kind, error);
    match remedy {
        Some(remedy) => failure.hint(remedy),
        None => failure,
    }
}

/// All that would be sent to one HAProxy backend.
#[derive(Debug, Serialize)]
struct Planned {
    backend: String,
    table: String,
    revision: Revision,
    drift: Vec<SlotNumber>,
    /// They drain once a server that stays is up.
    held: Vec<SlotNumber>,
    problems: Vec<String>,
    /// The problem for which the same without --dry-run would end with an error.
    #[serde(skip)]
    failure: Option<String>,
    actions: Vec<PlannedAction>,
}

#[derive(Debug, Serialize)]
struct PlannedAction {
    /// Counted from 1; between two rounds HAProxy is observed again.
    round: usize,
    slot: SlotNumber,
    command: String,
}

impl Planned {
    fn new(preview: Preview) -> Self {
        let Preview { target, learnt, revision, wanted, mut servers } = preview;
        let first = plan(&target, &wanted, servers.as_deref(), &learnt);
        let mut actions = Vec::new();
        let mut next = first.clone();
        for round in 1..=MAX_ROUNDS {
            let Some(servers) = servers.as_mut().filter(|_| !next.actions.is_empty()) else {
                break;
            };
            for action in next.actions {
                predict(servers, &action.command);
                let command = action.command.to_string();
                actions.push(PlannedAction { round, slot: action.slot, command });
            }
            next = plan(&target, &wanted, Some(servers), &learnt);
        }
        Self {
            backend: target.backend.to_string(),
            table: target.from.to_string(),
            revision,
            drift: first.drift.into_iter().collect(),
            held: next.held.into_iter().collect(),
            problems: first.problems.iter().map(ToString::to_string).collect(),
            failure: next.problems.iter().find(|p| p.fails_a_run()).map(ToString::to_string),
            actions,
        }
    }
}

fn table(plans: &[Planned]) -> String {
    let mut table = output::table(["BACKEND", "SLOT", "ROUND", "COMMAND"]);
    let mut empty = true;
    for plan in plans {
        for action in &plan.actions {
            let (slot, round) = (action.slot.to_string(), action.round.to_string());
            table.add_row([plan.backend.as_str(), &slot, &round, &action.command]);
            empty = false;
        }
    }
    let mut text = if empty { "nothing to do\n".to_owned() } else { output::render(&table) };
    for (plan, slot) in plans.iter().flat_map(|plan| plan.held.iter().map(move |s| (plan, s))) {
        text += &format!("{} slot {slot} drains once a server that stays is up\n", plan.backend);
    }
    let problems = plans.iter().flat_map(|plan| &plan.problems);
    problems.fold(text, |text, problem| text + "problem: " + problem + "\n")
}
