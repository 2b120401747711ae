use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Readiness, StatusBoard, Tasks, admin, telemetry};
use crate::error::{CommandError, CommandResult, Kind};

/// What every daemon takes.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the admin HTTP server listens; `None` for none.
    pub admin: Option<SocketAddr>,
    /// How long a clean stop may take before it is cut short.
    pub grace: Duration,
}

/// What a daemon's body and its tasks share.
#[derive(Debug, Clone)]
pub struct Context {
    pub name: &'static str,
    /// Cancelled by the first SIGTERM or SIGINT, or by a failed task: stop accepting, hand over,
    /// finish.
    pub shutdown: CancellationToken,
    /// Notified by SIGHUP: re-read what can be re-read.
    pub reload: Arc<Notify>,
    pub tasks: Tasks,
    pub readiness: Readiness,
    pub status: StatusBoard,
    /// How long the body has from the shutdown on.
    pub grace: Duration,
}

/// Runs a daemon: the body starts its tasks and returns, or runs until the shutdown itself. Answers
/// once all tasks have ended; a second signal or the end of the grace period cuts that short.
pub async fn run<F, Fut>(name: &'static str, options: Options, body: F) -> CommandResult
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = CommandResult>,
{
    telemetry::metrics_handle()?;
    let mut signals = Signals::listen()?;
    let shutdown = CancellationToken::new();
    let (tasks, mut failed) = Tasks::new(shutdown.clone());
    let context = Context {
        name,
        shutdown: shutdown.clone(),
        reload: Arc::new(Notify::new()),
        tasks: tasks.clone(),
        readiness: Readiness::default(),
        status: StatusBoard::default(),
        grace: options.grace,
    };
    if let Some(address) = options.admin {
        let listener = admin::listen(address).await?;
        tracing::info!(address = %listener.local_addr()?, "admin HTTP server listening");
        tasks.spawn("admin-http", admin::serve(listener, context.clone()));
    }
    let stopping = context.readiness.gate("running", "starting");
    stopping.open();
    let body = async {
        let result = body(context.clone()).await;
        if result.is_err() {
            shutdown.cancel();
        }
        result
    };
    let work = async {
        let (result, ()) = tokio::join!(body, async {
            shutdown.cancelled().await;
            stopping.close("shutting down");
            tasks.finished().await;
        });
        result
    };
    tokio::pin!(work);
    let mut failure: Option<CommandError> = None;
    let mut deadline: Option<tokio::time::Instant> = None;
    loop {
        tokio::select! {
            result = &mut work => return failure.map_or(result, Err),
            Some(error) = failed.recv() => {
                tracing::error!("{error:#}");
                failure.get_or_insert(error.into());
                shutdown.cancel();
                deadline.get_or_insert(tokio::time::Instant::now() + options.grace);
            }
            got = signals.next() => match got {
                Signal::Reload => {
                    tracing::info!("SIGHUP: reading the configuration again");
                    context.reload.notify_waiters();
                }
                Signal::Stop(kind) if shutdown.is_cancelled() => {
                    return Err(CommandError::msg(kind, "ended at once by a second signal"));
                }
                Signal::Stop(_) => {
                    tracing::info!(grace = ?options.grace, "stopping; a second signal ends at once");
                    shutdown.cancel();
                    deadline = Some(tokio::time::Instant::now() + options.grace);
                }
            },
            () = sleep_until(deadline), if deadline.is_some() => {
                let text = format!("did not finish within the grace period of {:?}", options.grace);
                return Err(failure.unwrap_or_else(|| CommandError::msg(Kind::Failed, text)));
            }
        }
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

enum Signal {
    Stop(Kind),
    Reload,
}

/// Signals reach the loop through one channel, so that none is missed between two polls.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Stop(Kind::Terminated),
            _ = self.interrupt.recv() => Signal::Stop(Kind::Interrupted),
            _ = self.hangup.recv() => Signal::Reload,
        }
    }
}
