use std::pin::pin;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use super::desired;
use super::dump;
use super::feed::{Feeds, Views};
use super::metrics;
use super::pass::{Engine, Pass};
use super::report::Reporter;
use super::settings::Settings;
use crate::daemon::{Backoff, Context, Gate, Health, Reload};
use crate::error::CommandResult;
use crate::haproxy::{self, Client, Timeouts};
use crate::model::{Timestamp, keys};
use crate::presence::Presence;
use crate::registry::open_ready;
use crate::store::SharedStore;

/// Between two passes for the sake of ramps alone.
const LEAST_STEP: Duration = Duration::from_millis(100);

/// How long a pass may go on after the shutdown: a half-applied one is mended by the next, yet a
/// whole one is better.
const LAST_PASS: Duration = Duration::from_secs(2);

/// Keeps one HAProxy equal to its tables until the shutdown, and reports.
pub async fn run(
    context: Context,
    mut settings: Settings,
    mut reload: Reload<Settings>,
) -> CommandResult {
    let Some((store, opening)) = open_ready(&settings.store, &context).await else {
        return Ok(());
    };
    // Until the driver has gates of its own.
    let mut opening = Some(opening);
    if let Some(path) = &settings.dump_state {
        dump::remove_leftovers(path).await;
    }
    let presence = Presence::start(store.clone(), settings.timing.report_ttl);
    loop {
        let driver = Driver::new(&context, &settings, &store, &presence);
        opening.take();
        match driver.run(&context, &mut reload).await {
            Some(changed) => settings = changed,
            None => break,
        }
    }
    // HAProxy stays as it is; only the report goes.
    presence.close().await;
    Ok(())
}

struct Driver<'a> {
    settings: &'a Settings,
    presence: &'a Presence,
    context: &'a Context,
    engine: Engine,
    feeds: Feeds,
    reporter: Reporter,
    metrics: metrics::Shown,
    gates: Gates,
    connection: Health,
    convergence: Health,
    dumping: Health,
    backoff: Backoff,
    schedule: Schedule,
    dumps: Dumps,
}

struct Gates {
    store: Gate,
    haproxy: Gate,
}

/// What is due when.
struct Schedule {
    /// A comparison of everything.
    full: Instant,
    /// A look at the process id.
    probe: Instant,
    /// HAProxy does not answer: nothing but time brings the next try.
    backing_off: bool,
}

enum Wake {
    Shutdown,
    Reload,
    Tables,
    Time,
}

impl<'a> Driver<'a> {
    fn new(
        context: &'a Context,
        settings: &'a Settings,
        store: &SharedStore,
        presence: &'a Presence,
    ) -> Self {
        let client = Client::new(settings.socket.clone(), Timeouts::default());
        let now = Instant::now();
        Self {
            settings,
            presence,
            context,
            engine: Engine::new(client, settings.targets.clone()),
            feeds: settings.feeds(store),
            reporter: Reporter::new(settings.name.clone()),
            metrics: metrics::Shown::default(),
            gates: Gates {
                store: context.readiness.gate("store", "the tables are not read yet"),
                haproxy: context.readiness.gate("haproxy", "HAProxy is not compared yet"),
            },
            connection: Health::new(format!("HAProxy at {}", settings.socket)),
            convergence: Health::new("keeping HAProxy equal to its tables"),
            dumping: Health::new("writing the server state file"),
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(1)),
            schedule: Schedule { full: now, probe: now, backing_off: false },
            dumps: Dumps::default(),
        }
    }

    /// Runs until the shutdown, or until the settings have changed: then it answers the new ones.
    async fn run(mut self, context: &Context, settings: &mut Reload<Settings>) -> Option<Settings> {
        let mut reload = pin!(context.reload.notified());
        loop {
            // Before the wait, so that no signal between two waits is missed.
            reload.as_mut().enable();
            let wake = tokio::select! {
                biased;
                () = context.shutdown.cancelled() => Wake::Shutdown,
                () = reload.as_mut() => Wake::Reload,
                () = self.feeds.changed(), if !self.schedule.backing_off => Wake::Tables,
                () = sleep_until(self.schedule.next()) => Wake::Time,
            };
            match wake {
                Wake::Shutdown => return None,
                Wake::Reload => {
                    reload.set(context.reload.notified());
                    if let Some(changed) = settings.again().await {
                        self.take_leave_of(&changed);
                        return Some(changed);
                    }
                }
                Wake::Tables => self.until_shutdown(Self::pass).await,
                Wake::Time if Instant::now() >= self.schedule.full => {
                    self.until_shutdown(Self::pass).await;
                }
                Wake::Time => self.until_shutdown(Self::probe).await,
            }
        }
    }

    async fn until_shutdown(&mut self, work: impl AsyncFnOnce(&mut Self)) {
        let shutdown = self.context.shutdown.clone();
        let too_late = async {
            shutdown.cancelled().await;
            sleep(LAST_PASS).await;
        };
        tokio::select! {
            () = work(self) => {}
            () = too_late => tracing::warn!("HAProxy does not answer: leaving it half-way"),
        }
    }

    /// Another name reports under another key.
    fn take_leave_of(&self, changed: &Settings) {
        if changed.name != self.settings.name {
            self.presence.remove(&keys::haproxy(&self.settings.name));
        }
        tracing::info!(backends = changed.targets.len(), "configuration read again");
    }

    /// A look at the process, which has lost all that was set at runtime where it is another one, and
    /// at a few servers.
    async fn probe(&mut self) {
        self.schedule.probe = Instant::now() + self.settings.timing.poll;
        match self.engine.has_changed().await {
            Ok(true) => self.pass().await,
            Ok(false) => self.keep_dump().await,
            Err(error) => self.failed(&error),
        }
        self.report();
    }

    async fn pass(&mut self) {
        let (started, at) = (Instant::now(), Timestamp::now());
        let views = self.feeds.views();
        self.see(&views);
        match self.engine.pass(&views, at).await {
            Ok(pass) => {
                self.metrics.passed(&pass, &self.engine.targets, started.elapsed(), at);
                self.passed(&pass, &views, started);
                self.dump(&pass, &views).await;
            }
            Err(error) => self.failed(&error),
        }
        self.report();
    }

    fn see(&self, views: &Views) {
        self.metrics.tables(views);
        let reason = views.values().find_map(|view| match &view.stale {
            Some(away) => Some(format!("serving the last known state: {away}")),
            None if view.loaded => view.problem.clone(),
            None => Some("the tables are not read yet".into()),
        });
        match reason {
            Some(reason) => self.gates.store.close(reason),
            None => self.gates.store.open(),
        }
    }

    fn passed(&mut self, pass: &Pass, views: &Views, started: Instant) {
        self.connection.succeeded();
        self.reporter.passed(pass, &self.engine.targets, views);
        if pass.restarted {
            tracing::info!(pid = pass.process.pid, "HAProxy is a new process: filling it again");
        }
        if pass.applied > 0 {
            let took = started.elapsed();
            tracing::info!(
                commands = pass.applied,
                converged = pass.is_converged(),
                ?took,
                "changed HAProxy"
            );
        }
        match pass.errors().join("; ") {
            none if none.is_empty() => self.gates.haproxy.open(),
            errors => self.gates.haproxy.close(errors),
        }
        let errors = problems(pass, views);
        match errors.join("; ") {
            none if none.is_empty() => self.convergence.succeeded(),
            errors => self.convergence.failed(&errors),
        }
        self.schedule.after(pass, views, &self.settings.timing);
        self.context.status.publish("sync", &status(pass, &self.engine, &self.reporter, &errors));
    }

    fn failed(&mut self, error: &haproxy::Error) {
        self.dumps.due = false;
        let text = match error.remedy() {
            Some(remedy) => format!("{error}: {remedy}"),
            None => error.to_string(),
        };
        metrics::failed();
        self.connection.failed(&text);
        self.gates.haproxy.close(text.as_str());
        self.reporter.failed(&text, &self.feeds.views(), Instant::now());
        self.schedule.full = Instant::now() + self.backoff.next_wait();
        self.schedule.backing_off = true;
        self.context
            .status
            .publish("sync", &json!({ "error": text, "tables": self.reporter.backends() }));
    }

    fn report(&mut self) {
        let Some(report) = self.reporter.due(Timestamp::now(), Instant::now()) else {
            return;
        };
        for (table, backend) in &report.backends {
            self.metrics.applied(table, backend);
        }
        match serde_json::to_vec(&report) {
            Ok(value) => self.presence.set(keys::haproxy(&report.name), value),
            Err(error) => tracing::error!(%error, "the report cannot be written"),
        }
    }

    /// Only what was seen to be right is kept: a HAProxy that has just begun and cannot be filled,
    /// the store being away, must not lose what it could load.
    async fn dump(&mut self, pass: &Pass, views: &Views) {
        let known = pass.targets.iter().all(Option::is_some) && !views.is_empty();
        self.dumps.due = known && pass.is_converged();
        self.keep_dump().await;
    }

    /// Writes the state file where it differs from what HAProxy says. Health is part of it: a new
    /// worker takes no server for up that was down in the file until its checks have passed.
    async fn keep_dump(&mut self) {
        let Some(path) = self.settings.dump_state.as_ref().filter(|_| self.dumps.due) else {
            return;
        };
        let (state, problem) = match self.engine.state().await {
            Ok(Some(state)) => state,
            Ok(None) => return,
            Err(error) => return self.dumping.failed(&error),
        };
        let lasting = dump::lasting(&state);
        let age = self.dumps.last.as_ref().filter(|(_, last)| *last == lasting);
        if age.is_some_and(|(at, _)| at.elapsed() < self.settings.timing.resync) {
            return;
        }
        match (dump::write(path, state).await, problem) {
            (Ok(()), None) => self.dumping.succeeded(),
            (Ok(()), Some(problem)) => self.dumping.failed(&problem),
            (Err(error), _) => self.dumping.failed(&format!("{error:#}")),
        }
        self.dumps.last = Some((Instant::now(), lasting));
    }
}

/// What is known of the state file.
#[derive(Debug, Default)]
struct Dumps {
    /// HAProxy was what the tables say in the last pass.
    due: bool,
    /// When it was written, with what.
    last: Option<(Instant, String)>,
}

impl Schedule {
    fn next(&self) -> Instant {
        if self.backing_off { self.full } else { self.full.min(self.probe) }
    }

    fn after(&mut self, pass: &Pass, views: &Views, timing: &super::settings::Timing) {
        let now = Instant::now();
        let step = views
            .values()
            .filter_map(|view| desired::next_step(view.table.as_ref()?, Timestamp::now()))
            .min()
            .map(|step| step.max(LEAST_STEP));
        let soon = (pass.is_unfinished() || !pass.is_converged()).then_some(timing.poll);
        let wait = step.into_iter().chain(soon).chain([timing.resync]).min();
        self.full = now + wait.unwrap_or(timing.resync);
        self.probe = now + timing.poll;
        self.backing_off = false;
    }
}

/// What keeps HAProxy from being what the tables say, for people.
pub fn problems(pass: &Pass, views: &Views) -> Vec<String> {
    let tables = views.values().filter_map(|view| view.problem.clone());
    tables.chain(pass.errors()).collect()
}

fn status(
    pass: &Pass,
    engine: &Engine,
    reporter: &Reporter,
    errors: &[String],
) -> serde_json::Value {
    json!({
        "haproxy": { "pid": pass.process.pid, "version": pass.process.version },
        "converged": pass.is_converged(),
        "backends": engine.targets.iter().map(|t| t.backend.as_str()).collect::<Vec<_>>(),
        "tables": reporter.backends(),
        "waiting_to_drain": pass.targets.iter().flatten().map(|l| l.plan.held.len()).sum::<usize>(),
        "problems": errors,
    })
}
