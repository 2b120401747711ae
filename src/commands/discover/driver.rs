use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::try_join_all;
use futures::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use super::backend::{Backend, Ended, Foreign, Pass};
use super::output::{PlannedBackend, PlannedRow};
use super::report::{Board, Reporter};
use super::settings::{BackendSettings, Settings};
use super::shared::Shared;
use crate::daemon::{Context, OwnedTask, Reload, spawn_owned};
use crate::election::{Candidate, Leadership, Options, Standing};
use crate::error::{CommandError, CommandResult, Kind};
use crate::model::{BackendName, BackendSpec, CandidateId, ElectionName, keys};
use crate::registry::open_ready;
use crate::store::SharedStore;

/// How long a backend that starts holds up others.
const START: Duration = Duration::from_secs(3);

/// How long one pass waits for the store and the sources.
const ONCE: Duration = Duration::from_secs(15);

/// Runs every backend until the shutdown; those of the settings that a SIGHUP brings from then on.
pub async fn run(
    settings: Settings,
    context: Context,
    mut settings_again: Reload<Settings>,
) -> CommandResult {
    let Some((store, opening)) = open_ready(&settings.store, &context).await else {
        return Ok(());
    };
    let mut fleet = Fleet::new(store, &settings, context.clone());
    let mut reload = pin!(context.reload.notified());
    fleet.set(settings.backends).await;
    drop(opening);
    loop {
        tokio::select! {
            () = context.shutdown.cancelled() => break,
            () = reload.as_mut() => {
                // Before the work, so that a signal during it is not missed.
                reload.set(context.reload.notified());
                if let Some(settings) = settings_again.again().await {
                    fleet.set(settings.backends).await;
                }
            }
            Some((name, ended)) = fleet.running.next() => fleet.ended(&name, ended)?,
        }
    }
    fleet.set(Vec::new()).await;
    Ok(())
}

/// The backends of this process. Each is on its own: its table, its source, its election.
struct Fleet {
    shared: Shared,
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

type Outcome = Option<anyhow::Result<()>>;
type Ending = std::pin::Pin<Box<dyn Future<Output = (BackendName, Outcome)> + Send>>;

impl Fleet {
    fn new(store: SharedStore, settings: &Settings, context: Context) -> Self {
        Self {
            shared: Shared::new(store, settings.backends.len(), settings.ttl),
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
        self.shared = self.shared.of(backends.len());
        let wanted: BTreeMap<_, _> = backends.into_iter().map(|b| (b.name.clone(), b)).collect();
        let unwanted = |(name, member): (&BackendName, &Member)| {
            (wanted.get(name) != Some(&member.settings)).then(|| name.clone())
        };
        let mut stopping: BTreeSet<BackendName> =
            self.members.iter().filter_map(unwanted).collect();
        for name in &stopping {
            if let Some(member) = self.members.remove(name) {
                member.stop.cancel();
            }
        }
        while !stopping.is_empty()
            && let Some((name, _)) = self.running.next().await
        {
            stopping.remove(&name);
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
        let reporter = Reporter::new(&settings, self.ttl, &self.context, self.board.clone());
        let task = spawn_owned(lead_or_follow(
            self.shared.clone(),
            settings.clone(),
            options,
            reporter,
            stop.clone(),
        ));
        self.running.push(Box::pin(ending(name.clone(), task)));
        self.members.insert(name, Member { settings, stop });
    }

    /// A backend ends by itself only through a bug, which must not go unseen.
    fn ended(&mut self, name: &BackendName, ended: Outcome) -> CommandResult {
        match ended {
            Some(Ok(())) if !self.members.contains_key(name) => Ok(()),
            Some(Err(error)) => Err(error.context(format!("backend {name} failed")).into()),
            _ => Err(CommandError::msg(Kind::Failed, format!("backend {name} ended by itself"))),
        }
    }
}

async fn ending(name: BackendName, task: OwnedTask<anyhow::Result<()>>) -> (BackendName, Outcome) {
    (name, task.join().await)
}

/// Between two looks whether a table still is another's.
const FOREIGN: Duration = Duration::from_secs(2);

/// Runs one backend until it is stopped, then hands over at once. While the table is another's it
/// does nothing, and stands for no election, so that whose table it is may lead.
async fn lead_or_follow(
    shared: Shared,
    settings: BackendSettings,
    options: Options,
    mut reporter: Reporter,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let turn = tokio::select! {
            turn = shared.starts.acquire() => turn?,
            () = stop.cancelled() => return Ok(()),
        };
        let candidate = shared.elections.stand(options.clone());
        let started = async {
            knows_the_leader(&candidate).await;
            drop(turn);
        };
        let run = async {
            let backend = Backend::open(shared.clone(), settings.clone()).await;
            backend.run(candidate.standing(), &mut reporter, stop.clone()).await
        };
        let result = tokio::select! {
            (result, ()) = async { tokio::join!(run, started) } => result,
            () = stop.cancelled() => Ok(Ended::Stopped),
        };
        candidate.resign().await;
        match result? {
            Ended::Stopped => return Ok(()),
            Ended::Foreign(foreign) => {
                reporter.foreign(&foreign);
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = while_foreign(&shared.store, &settings) => {}
                }
            }
        }
    }
}

/// Waits as long as the store says that the table is another's.
async fn while_foreign(store: &SharedStore, settings: &BackendSettings) {
    loop {
        tokio::time::sleep(FOREIGN).await;
        let Ok(entry) = store.get(&keys::spec(&settings.name)).await else { continue };
        let spec = entry.and_then(|entry| entry.json::<BackendSpec>().ok());
        if spec.is_none_or(|spec| Foreign::of(settings, &spec).is_none()) {
            return;
        }
    }
}

/// Waits until it is known who leads, or for a while: others want to start.
async fn knows_the_leader(candidate: &Candidate) {
    let mut standing = candidate.standing();
    let known = standing.wait_for(|now| !matches!(now, Standing::Follower { leader: None }));
    // Late or not, the next one starts.
    _ = tokio::time::timeout(START, known).await.is_ok();
}

/// Each backend has an election of its own, so that processes with different backends never wait
/// for each other.
fn election(backend: &BackendName, id: &CandidateId, ttl: Duration) -> Options {
    Options { name: ElectionName::discover(backend), id: id.clone(), ttl }
}

/// Plans every backend once, without writing.
pub async fn dry_run(settings: Settings) -> CommandResult<Vec<PlannedBackend>> {
    let store = settings.store.open_to_read().await?;
    let shared = Shared::new(store, settings.backends.len(), settings.ttl);
    let plans = settings.backends.into_iter().map(|backend| once(shared.clone(), backend, None));
    try_join_all(plans).await
}

/// Plans every backend once and writes that, as the leader.
pub async fn run_once(settings: Settings) -> CommandResult<Vec<PlannedBackend>> {
    let store = settings.store.open().await?;
    let shared = Shared::new(store, settings.backends.len(), settings.ttl);
    let plans = settings.backends.into_iter().map(|backend| {
        let options = election(&backend.name, &settings.id, settings.ttl);
        lead_once(shared.clone(), backend, options)
    });
    try_join_all(plans).await
}

async fn lead_once(
    shared: Shared,
    settings: BackendSettings,
    options: Options,
) -> CommandResult<PlannedBackend> {
    // A leader that was killed holds the key until its lease ends.
    let patience = options.ttl + Duration::from_secs(5);
    let candidate = shared.elections.stand(options);
    let won = tokio::time::timeout(patience, leads(&candidate)).await;
    let result = match won {
        Ok(Some(leadership)) => once(shared, settings, Some(&leadership)).await,
        _ => Err(not_leading(&settings.name, &candidate.standing().borrow())),
    };
    candidate.resign().await;
    result
}

/// Waits until the candidate leads.
async fn leads(candidate: &Candidate) -> Option<Leadership> {
    let mut standing = candidate.standing();
    let won = standing.wait_for(|standing| matches!(standing, Standing::Leader(_))).await;
    match won.as_deref() {
        Ok(Standing::Leader(leadership)) => Some(leadership.clone()),
        _ => None,
    }
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

fn replaced(backend: &BackendName) -> CommandError {
    let message = format!(
        "lost the leadership of backend {backend} before all of its plan was known to be written"
    );
    CommandError::msg(Kind::Race, message)
        .hint("what is written stays; run it again, and it plans anew from there")
}

/// Passes until nothing is left to write now. Without a leadership nothing is written.
async fn once(
    shared: Shared,
    settings: BackendSettings,
    leadership: Option<&Leadership>,
) -> CommandResult<PlannedBackend> {
    let name = settings.name.clone();
    let mut why = "the store has not answered yet".to_owned();
    let mut planned = None;
    // Whether the leadership has no work left, as far as is known.
    let mut done = false;
    let passes = async {
        let mut backend = Backend::open(shared, settings).await;
        let mut reporter = Reporter::silent(backend.name().clone());
        match leadership {
            Some(_) => backend.lead_hsdo(leadership),
            None => backend.look_at_hsdo(),
        }
        loop {
            if let Some(foreign) = backend.foreign() {
                return Err(CommandError::new(Kind::Config, foreign));
            }
            let pass = backend.pass(leadership, &mut reporter).await;
            let wake = backend.next_wake(&pass);
            match pass {
                Pass::Settled(plan) => match backend.source_error() {
                    Some(error) => return Err(CommandError::msg(Kind::Failed, error)),
                    None if leadership.is_some() && !backend.hsdo_shows_it() => {
                        why = "HSDO's table does not show the backend's yet".to_owned();
                        done = false;
                    }
                    None if leadership.is_some() => {
                        return Ok((planned.take().unwrap_or(plan), Vec::new()));
                    }
                    None => match backend.hsdo_writes(&plan) {
                        Some(rows) => return Ok((plan, rows)),
                        None => why = "HSDO's table has not answered yet".to_owned(),
                    },
                },
                Pass::Blind(reason) => why = reason.to_owned(),
                Pass::Written(plan) => {
                    why = "the table keeps changing".to_owned();
                    planned.get_or_insert(plan);
                    done = true;
                }
                Pass::Waiting(plan) => {
                    why = "the table keeps changing".to_owned();
                    planned.get_or_insert(plan);
                    done = false;
                }
            }
            if let Some(trouble) = backend.hsdo_trouble() {
                why = trouble;
            }
            tokio::select! {
                biased;
                () = lost(leadership), if !done => return Err(replaced(&name)),
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

/// Waits until a leadership, if there is one, is lost.
async fn lost(leadership: Option<&Leadership>) {
    match leadership {
        Some(leadership) => leadership.lost.cancelled().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::config::{Flags, Reader};
    use crate::election::LeaderRecord;
    use crate::store::{
        Commit, Entry, Key, Lease, LeaseId, Listing, MemoryStore, Prefix, Result, Store, Txn,
        Watch, WatchEvent,
    };

    /// The store of a leader that another copy replaces once a part of its plan is written. What is
    /// written shows up when the leader has heard of that.
    #[derive(Debug)]
    struct TakenOver {
        inner: MemoryStore,
        leadership: Leadership,
        taken: AtomicBool,
    }

    impl TakenOver {
        async fn take_over(&self) -> Result<()> {
            let leader = || self.leadership.key.clone();
            let other = LeaderRecord { id: "other".to_owned(), since: None }.to_value();
            let _deleted = self.inner.commit(Txn::new().delete(leader())).await?;
            let lease = self.inner.grant(Duration::from_secs(60)).await?.id;
            self.inner.commit(Txn::new().put_leased(leader(), other, lease)).await.map(|_| ())
        }
    }

    #[async_trait]
    impl Store for TakenOver {
        fn name(&self) -> &'static str {
            "taken over"
        }

        async fn get(&self, key: &Key) -> Result<Option<Entry>> {
            self.inner.get(key).await
        }

        async fn list(&self, prefix: &Prefix) -> Result<Listing> {
            self.inner.list(prefix).await
        }

        async fn commit(&self, txn: Txn) -> Result<Commit> {
            let commit = self.inner.commit(txn).await?;
            if !self.taken.swap(true, Ordering::Relaxed) {
                self.take_over().await?;
            }
            Ok(commit)
        }

        async fn watch(&self, prefix: &Prefix) -> Result<Watch> {
            let (events, lost) = (self.inner.watch(prefix).await?, self.leadership.lost.clone());
            Ok(Watch::new(events.then(move |event| {
                let lost = lost.clone();
                async move {
                    if matches!(event, WatchEvent::Changed(_)) {
                        lost.cancelled().await;
                    }
                    event
                }
            })))
        }

        async fn grant(&self, ttl: Duration) -> Result<Lease> {
            self.inner.grant(ttl).await
        }

        async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
            self.inner.keep_alive(lease).await
        }

        async fn revoke(&self, lease: LeaseId) -> Result<()> {
            self.inner.revoke(lease).await
        }
    }

    /// A backend with so many servers in a file.
    fn web(folder: &Path, servers: u16) -> BackendSettings {
        let (list, file) = (folder.join("web.json"), folder.join("lbctl.toml"));
        let addresses: Vec<_> = (1..=servers).map(|port| format!("127.0.0.1:{port}")).collect();
        std::fs::write(&list, serde_json::to_vec(&addresses).unwrap()).unwrap();
        std::fs::write(&file, "").unwrap();
        let flags = Flags::new()
            .set("store.url", "--store", Some("memory:"))
            .set("discover.backend", "--backend", Some("web"))
            .set("discover.source", "--source", Some(format!("file:{}", list.display())))
            .set("discover.slots", "--slots", Some(servers));
        let mut reader = Reader::load(Some(&file), [], flags).unwrap();
        let mut settings = Settings::read(&mut reader);
        reader.finish().unwrap();
        settings.backends.remove(0)
    }

    /// What a single pass that is replaced in between comes to, and how many servers are in the
    /// table then.
    async fn replaced_pass(servers: u16) -> (CommandResult<usize>, usize) {
        let (folder, inner) = (tempfile::tempdir().unwrap(), MemoryStore::new());
        let settings = web(folder.path(), servers);
        let slots = keys::slots(&settings.name);
        let options = election(&settings.name, &"a".parse().unwrap(), Duration::from_secs(10));
        let candidate = Candidate::start(Arc::new(inner.clone()), options);
        let leadership = leads(&candidate).await.unwrap();
        let taken = AtomicBool::new(false);
        let store = TakenOver { inner: inner.clone(), leadership: leadership.clone(), taken };
        let planned = once(
            Shared::new(Arc::new(store), 1, Duration::from_secs(10)),
            settings,
            Some(&leadership),
        )
        .await;
        let written = inner.list(&slots).await.unwrap().entries.len();
        (planned.map(|planned| planned.plan.actions.len()), written)
    }

    #[tokio::test]
    async fn a_single_pass_that_is_replaced_in_the_middle_of_its_plan_has_lost_a_race() {
        let servers = 40;
        let (planned, written) = replaced_pass(servers).await;
        let error = planned.unwrap_err();
        assert_eq!(error.kind(), Kind::Race, "{error:?}");
        let message = format!("{error:?}");
        assert!(message.contains("lost the leadership of backend web before"), "{message}");
        assert!((1..usize::from(servers)).contains(&written), "{written} are written");
    }

    #[tokio::test]
    async fn a_single_pass_that_is_replaced_once_its_plan_is_written_has_done_its_work() {
        let (planned, written) = replaced_pass(3).await;
        assert_eq!((planned.unwrap(), written), (3, 3));
    }
}
