use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::try_join_all;
use futures::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use super::backend::{Backend, Pass};
use super::output::{PlannedBackend, PlannedRow};
use super::report::{Board, Reporter, describe};
use super::settings::{BackendSettings, Settings};
use crate::daemon::{Context, OwnedTask, Reload, spawn_owned};
use crate::election::{Candidate, Options, Standing};
use crate::error::{CommandError, CommandResult, Kind};
use crate::model::{BackendName, CandidateId, ElectionName};
use crate::store::SharedStore;

/// How long one pass waits for the store and the sources.
const ONCE: Duration = Duration::from_secs(15);

/// Runs every backend until the shutdown; those of the settings that a SIGHUP brings from then on.
pub async fn run(
    settings: Settings,
    context: Context,
    mut settings_again: Reload<Settings>,
) -> CommandResult {
    describe();
    let store = settings.store.open().await?;
    let mut fleet = Fleet::new(store, &settings, context.clone());
    let mut reload = pin!(context.reload.notified());
    fleet.set(settings.backends).await;
    loop {
        tokio::select! {
            () = context.shutdown.cancelled() => break,
            () = reload.as_mut() => {
                // Before the work, so that a signal during it is not missed.
                reload.set(context.reload.notified());
                if let Some(settings) = settings_again.again() {
                    fleet.set(settings.backends).await;
                }
            }
            Some((name, ended)) = fleet.running.next() => fleet.ended(&name, ended)?,
        }
    }
    fleet.set(Vec::new()).await;
    Ok(())
}

/// The backends of this process. Each is on its own: its watches, its source, its election.
struct Fleet {
    store: SharedStore,
    id: CandidateId,
    ttl: Duration,
    context: Context,
    board: Board,
    members: BTreeMap<BackendName, Member>,
    running: FuturesUnordered<Ending>,
}

struct Member {
    settings: BackendSettings,
    stop: CancellationToken,
}

type Ended = Option<anyhow::Result<()>>;
type Ending = std::pin::Pin<Box<dyn Future<Output = (BackendName, Ended)> + Send>>;

impl Fleet {
    fn new(store: SharedStore, settings: &Settings, context: Context) -> Self {
        Self {
            store,
            id: settings.id.clone(),
            ttl: settings.ttl,
            board: Board::new(context.status.clone()),
            context,
            members: BTreeMap::new(),
            running: FuturesUnordered::new(),
        }
    }

    /// Starts, stops and restarts backends, so that these and no others run.
    async fn set(&mut self, backends: Vec<BackendSettings>) {
        let wanted: BTreeMap<_, _> = backends.into_iter().map(|b| (b.name.clone(), b)).collect();
        let unwanted = |(name, member): (&BackendName, &Member)| {
            (wanted.get(name) != Some(&member.settings)).then(|| name.clone())
        };
        let mut stopping: Vec<BackendName> = self.members.iter().filter_map(unwanted).collect();
        for name in &stopping {
            if let Some(member) = self.members.remove(name) {
                member.stop.cancel();
            }
        }
        while !stopping.is_empty()
            && let Some((name, _)) = self.running.next().await
        {
            stopping.retain(|waited| *waited != name);
        }
        for (name, settings) in wanted {
            if !self.members.contains_key(&name) {
                self.start(settings);
            }
        }
    }

    fn start(&mut self, settings: BackendSettings) {
        let (name, stop) = (settings.name.clone(), CancellationToken::new());
        let options = election(&name, &self.id, self.ttl);
        let reporter = Reporter::new(&settings, &self.context, self.board.clone());
        let task = spawn_owned(lead_or_follow(
            self.store.clone(),
            settings.clone(),
            options,
            reporter,
            stop.clone(),
        ));
        self.running.push(Box::pin(ending(name.clone(), task)));
        self.members.insert(name, Member { settings, stop });
    }

    /// A backend ends by itself only through a bug, which must not go unseen.
    fn ended(&mut self, name: &BackendName, ended: Ended) -> CommandResult {
        match ended {
            Some(Ok(())) if !self.members.contains_key(name) => Ok(()),
            Some(Err(error)) => Err(error.context(format!("backend {name} failed")).into()),
            _ => Err(CommandError::msg(Kind::Failed, format!("backend {name} ended by itself"))),
        }
    }
}

async fn ending(name: BackendName, task: OwnedTask<anyhow::Result<()>>) -> (BackendName, Ended) {
    (name, task.join().await)
}

/// Runs one backend until it is stopped, then hands over at once.
async fn lead_or_follow(
    store: SharedStore,
    settings: BackendSettings,
    options: Options,
    reporter: Reporter,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let candidate = Candidate::start(store.clone(), options);
    let run = async {
        let backend = Backend::open(store, settings).await;
        backend.run(candidate.standing(), reporter, stop.clone()).await
    };
    let result = tokio::select! {
        result = run => result,
        () = stop.cancelled() => Ok(()),
    };
    candidate.resign().await;
    result
}

/// Each backend has an election of its own, so that processes with different backends never wait
/// for each other.
fn election(backend: &BackendName, id: &CandidateId, ttl: Duration) -> Options {
    Options { name: ElectionName::discover(backend), id: id.clone(), ttl }
}

/// Plans every backend once, without writing.
pub async fn dry_run(settings: Settings) -> CommandResult<Vec<PlannedBackend>> {
    let store = settings.store.open().await?;
    let plans = settings.backends.into_iter().map(|backend| once(store.clone(), backend, None));
    try_join_all(plans).await
}

/// Plans every backend once and writes that, as the leader.
pub async fn run_once(settings: Settings) -> CommandResult<Vec<PlannedBackend>> {
    let store = settings.store.open().await?;
    let plans = settings.backends.into_iter().map(|backend| {
        let options = election(&backend.name, &settings.id, settings.ttl);
        lead_once(store.clone(), backend, options)
    });
    try_join_all(plans).await
}

async fn lead_once(
    store: SharedStore,
    settings: BackendSettings,
    options: Options,
) -> CommandResult<PlannedBackend> {
    // A leader that was killed holds the key until its lease ends.
    let patience = options.ttl + Duration::from_secs(5);
    let candidate = Candidate::start(store.clone(), options);
    let mut standing = candidate.standing();
    let won = standing.wait_for(|standing| matches!(standing, Standing::Leader(_)));
    let won = tokio::time::timeout(patience, won).await.is_ok();
    let result = match won {
        true => once(store, settings, Some(&candidate)).await,
        false => Err(not_leading(&settings.name, &candidate.standing().borrow())),
    };
    candidate.resign().await;
    result
}

fn not_leading(backend: &BackendName, standing: &Standing) -> CommandError {
    match standing {
        Standing::Follower { leader: Some(leader) } => {
            let message = format!("another discover, {leader}, leads backend {backend}");
            CommandError::msg(Kind::Race, message)
                .hint("it keeps the table: nothing is to be done here; --dry-run shows the plan")
        }
        _ => CommandError::msg(
            Kind::Unavailable,
            format!("the store gave no leadership of backend {backend}"),
        ),
    }
}

/// Passes until nothing is left to write now. Without a candidate nothing is written.
async fn once(
    store: SharedStore,
    settings: BackendSettings,
    candidate: Option<&Candidate>,
) -> CommandResult<PlannedBackend> {
    let name = settings.name.clone();
    let mut why = "the store has not answered yet".to_owned();
    let mut written = None;
    let passes = async {
        let mut backend = Backend::open(store, settings).await;
        let mut reporter = Reporter::silent(backend.name().clone());
        if candidate.is_none() {
            backend.look_at_hsdo();
        }
        loop {
            let leadership = candidate.and_then(Candidate::leadership);
            if candidate.is_some() {
                backend.lead_hsdo(leadership.as_ref());
            }
            let pass = backend.pass(leadership.as_ref(), &mut reporter).await;
            let wake = backend.next_wake(&pass);
            match pass {
                Pass::Settled(plan) => match backend.source_error() {
                    Some(error) => return Err(CommandError::msg(Kind::Failed, error)),
                    None if candidate.is_some() && !backend.hsdo_shows_it() => {
                        why = "HSDO's table does not show the backend's yet".to_owned();
                    }
                    None if candidate.is_some() && plan.is_empty() => {
                        return Ok((written.take().unwrap_or(plan), Vec::new()));
                    }
                    None if candidate.is_some() => return Ok((plan, Vec::new())),
                    None => match backend.hsdo_writes(&plan) {
                        Some(rows) => return Ok((plan, rows)),
                        None => why = "HSDO's table has not answered yet".to_owned(),
                    },
                },
                Pass::Blind(reason) => why = reason.to_owned(),
                Pass::Busy(plan) => {
                    why = "the table keeps changing".to_owned();
                    written.get_or_insert(plan);
                }
            }
            if let Some(trouble) = backend.hsdo_trouble() {
                why = trouble;
            }
            tokio::select! {
                heard = backend.hear() => heard?,
                () = tokio::time::sleep(wake) => {}
            }
        }
    };
    let passed = tokio::time::timeout(ONCE, passes).await;
    let late = |_| CommandError::msg(Kind::Unavailable, format!("backend {name}: {why}"));
    let (plan, rows) = passed.map_err(late)??;
    let hsdo_rows = rows.iter().map(PlannedRow::of).collect();
    Ok(PlannedBackend { plan, hsdo_rows, backend: name.clone() })
}
