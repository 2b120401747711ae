use std::fmt;
use std::future::Future;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// The tasks of a daemon. Each is critical: one that fails, panics or ends before the shutdown was
/// asked for ends the daemon with its error. On shutdown all are awaited.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: CancellationToken,
    failures: mpsc::UnboundedSender<anyhow::Error>,
}

impl Tasks {
    pub(super) fn new(
        shutdown: CancellationToken,
    ) -> (Self, mpsc::UnboundedReceiver<anyhow::Error>) {
        let (failures, failed) = mpsc::unbounded_channel();
        (Self { tracker: TaskTracker::new(), shutdown, failures }, failed)
    }

    /// Runs a critical task. It must end soon after the shutdown token is cancelled.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (shutdown, failures) = (self.shutdown.clone(), self.failures.clone());
        let inner = spawn_owned(task);
        self.tracker.spawn(async move {
            let failure = match inner.join().await {
                Some(Ok(())) if shutdown.is_cancelled() => None,
                Some(Ok(())) => Some(anyhow::anyhow!("task {name} ended before it was asked to")),
                Some(Err(error)) => Some(error.context(format!("task {name} failed"))),
                None => Some(anyhow::anyhow!("task {name} panicked")),
            };
            if let Some(error) = failure {
                // Nobody listens only when the daemon is ending already.
                _ = failures.send(error).is_ok();
            }
        });
    }

    pub(super) fn shutdown_token(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    pub(super) async fn finished(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// A task that is aborted when this value is dropped: for background work that belongs to a value.
pub struct OwnedTask<T>(AbortOnDropHandle<T>);

impl<T> OwnedTask<T> {
    /// The task's result; `None` if it panicked.
    pub async fn join(self) -> Option<T> {
        self.0.await.ok()
    }

    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> fmt::Debug for OwnedTask<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedTask").field("finished", &self.is_finished()).finish()
    }
}

/// Starts a task owned by the returned value.
pub fn spawn_owned<F>(task: F) -> OwnedTask<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[expect(clippy::disallowed_methods, reason = "owned: aborted with its handle")]
    OwnedTask(AbortOnDropHandle::new(tokio::spawn(task)))
}
