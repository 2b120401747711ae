use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::SignalKind;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    Options, Readiness, StatusBoard, Tasks, admin, log_writer, notify, raise_open_files,
    spawn_owned,
};
use crate::error::{CommandError, CommandResult, Kind};
use crate::process::{Signals, reap_orphans};

/// What a daemon's body and its tasks share.
#[derive(Debug, Clone)]
pub struct Context {
    pub name: &'static str,
    /// Cancelled by the first SIGTERM or SIGINT, or by a failed task: stop accepting, hand over,
    /// finish.
    pub shutdown: CancellationToken,
    /// Notified by SIGHUP, for the one who re-reads what can be re-read.
    pub reload: Arc<Notify>,
    pub tasks: Tasks,
    pub readiness: Readiness,
    pub status: StatusBoard,
    /// How long the body has from the shutdown on.
    pub grace: Duration,
}

/// Runs a daemon: the body starts its tasks and returns, or runs until the shutdown itself. Answers
/// once body and tasks have ended; a second signal or the end of the grace period cuts that short.
pub async fn run<F, Fut>(name: &'static str, options: Options, body: F) -> CommandResult
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = CommandResult>,
{
    log_writer::show();
    let open_files = raise_open_files();
    let signals = signals()?;
    let (tasks, failed) = Tasks::new(CancellationToken::new());
    let context = Context {
        name,
        shutdown: tasks.shutdown_token(),
        reload: Arc::new(Notify::new()),
        tasks,
        readiness: Readiness::default(),
        status: StatusBoard::default(),
        grace: options.grace,
    };
    // Both outlive the work, so that readiness is answered while the daemon drains.
    let _admin = admin::start(&options, open_files, &context).await?;
    let _orphans = spawn_owned(reap_orphans());
    let _notify = spawn_owned(notify::report(context.readiness.clone()));
    supervise(body(context.clone()), &context, signals, failed).await
}

/// Runs a command that is no daemon but ends cleanly on SIGINT and SIGTERM: the first cancels
/// `stop`, on which the work is to end soon; the second ends it at once.
pub async fn until_signal(
    stop: CancellationToken,
    work: impl Future<Output = CommandResult>,
) -> CommandResult {
    let mut signals = signals()?;
    tokio::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return result,
            got = signals.next() => match got {
                Signal::Reload => {}
                Signal::Stop(kind) if stop.is_cancelled() => {
                    return Err(CommandError::msg(kind, "ended at once by a second signal"));
                }
                Signal::Stop(_) => stop.cancel(),
            },
        }
    }
}

/// Waits for the work to end, in whichever way it does.
async fn supervise(
    body: impl Future<Output = CommandResult>,
    context: &Context,
    mut signals: Signals<Signal>,
    mut failed: mpsc::UnboundedReceiver<anyhow::Error>,
) -> CommandResult {
    let work = work(body, context);
    tokio::pin!(work);
    let cut_short = cut_short(context);
    tokio::pin!(cut_short);
    let mut failure: Option<CommandError> = None;
    loop {
        tokio::select! {
            result = &mut work => return failure.map_or(result, Err),
            error = &mut cut_short => return Err(failure.unwrap_or(error)),
            Some(error) = failed.recv() => {
                tracing::error!("{error:#}");
                failure.get_or_insert(error.into());
                context.shutdown.cancel();
            }
            got = signals.next() => match got {
                Signal::Reload => {
                    tracing::info!("SIGHUP received");
                    // Kept for a body that is still starting, which read the file before.
                    context.reload.notify_one();
                }
                Signal::Stop(kind) if context.shutdown.is_cancelled() => {
                    return Err(CommandError::msg(kind, "ended at once by a second signal"));
                }
                Signal::Stop(_) => {
                    tracing::info!(grace = ?context.grace, "stopping; a second signal ends at once");
                    context.shutdown.cancel();
                }
            },
        }
    }
}

/// The body, then the end of every task after the shutdown.
async fn work(body: impl Future<Output = CommandResult>, context: &Context) -> CommandResult {
    let stopping = context.readiness.gate("running", "starting");
    let body = async {
        let result = body.await;
        if result.is_err() {
            context.shutdown.cancel();
        }
        result
    };
    let end = async {
        // The body has begun by then, and closed the gates of its own.
        tokio::task::yield_now().await;
        stopping.open();
        context.shutdown.cancelled().await;
        stopping.close("shutting down");
        notify::stopping();
    };
    let (result, ()) = tokio::join!(body, end);
    context.tasks.finished().await;
    result
}

async fn cut_short(context: &Context) -> CommandError {
    context.shutdown.cancelled().await;
    tokio::time::sleep(context.grace).await;
    let text = format!("did not finish within the grace period of {:?}", context.grace);
    CommandError::msg(Kind::Failed, text)
        .hint("a longer --shutdown-grace gives sessions more time to end")
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Signal {
    Stop(Kind),
    Reload,
}

fn signals() -> std::io::Result<Signals<Signal>> {
    let ends = [
        (SignalKind::terminate(), Signal::Stop(Kind::Terminated)),
        (SignalKind::interrupt(), Signal::Stop(Kind::Interrupted)),
    ];
    Signals::listen(ends, [(SignalKind::hangup(), Signal::Reload)])
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::super::AdminAddress;
    use super::*;

    fn options() -> Options {
        Options { admin: AdminAddress::Off, admin_hosts: Vec::new(), grace: Duration::from_secs(5) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_task_ends_the_daemon_with_its_error_after_the_others_finished() {
        let (finished, mut saw) = mpsc::unbounded_channel();
        let result = run("test", options(), async |context: Context| {
            let shutdown = context.shutdown.clone();
            context.tasks.spawn("careful", async move {
                shutdown.cancelled().await;
                tokio::time::sleep(Duration::from_secs(1)).await;
                finished.send(())?;
                Ok(())
            });
            context.tasks.spawn("broken", async { anyhow::bail!("no such thing") });
            Ok(())
        });
        let report = result.await.unwrap_err().report();
        assert_eq!(report, "error: task broken failed\ncaused by: no such thing\n");
        saw.try_recv().expect("the other task was not awaited");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_or_an_early_end_of_a_task_is_a_failure() {
        for (panics, expected) in [(true, "panicked"), (false, "ended before it was asked to")] {
            let result = run("test", options(), async |context: Context| {
                context.tasks.spawn("loop", async move {
                    assert!(!panics, "on purpose");
                    Ok(())
                });
                Ok(())
            });
            let report = result.await.unwrap_err().report();
            assert!(report.contains(expected), "{report}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_finishes_is_cut_short_at_the_grace_period() {
        let started = tokio::time::Instant::now();
        let result = run("test", options(), async |context: Context| {
            context.shutdown.cancel();
            pending().await
        });
        assert!(result.await.unwrap_err().report().contains("grace period of 5s"));
        assert_eq!(started.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_says_shutting_down_while_the_daemon_drains() {
        let result = run("test", options(), async |context: Context| {
            context.readiness.until_ready().await;
            context.shutdown.cancel();
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(context.readiness.reasons()["running"], "shutting down");
            Ok(())
        });
        result.await.unwrap();
    }
}
