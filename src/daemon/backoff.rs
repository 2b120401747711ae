use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

/// Waits between tries of something that fails: doubling with jitter up to a limit, back to the
/// first wait once it has worked for a while, so that a flapping peer is not hammered.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    failures: u32,
    last_failure: Option<Instant>,
}

impl Backoff {
    pub fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, failures: 0, last_failure: None }
    }

    /// The next wait, between half and the whole of the doubled one.
    pub fn next_wait(&mut self) -> Duration {
        let now = Instant::now();
        // Twice the limit without a failure counts as healthy.
        if self.last_failure.is_some_and(|last| now - last > self.limit * 2) {
            self.failures = 0;
        }
        self.last_failure = Some(now);
        let doubled = self.first.saturating_mul(1u32 << self.failures.min(16));
        self.failures += 1;
        doubled.min(self.limit).mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Waits for [`Self::next_wait`].
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_wait()).await;
    }
}

/// Logs a loop's turns, not its tries: "failing", "still failing since", "recovered".
#[derive(Debug)]
pub struct Health {
    what: String,
    failing: Option<Failing>,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    tries: u64,
    last_said: Instant,
    last_error: String,
}

/// How often a lasting failure is said again.
const SAY_AGAIN: Duration = Duration::from_secs(30);

impl Health {
    /// `what` fits "… is failing" and "… has recovered".
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), failing: None }
    }

    pub fn failed(&mut self, error: &impl fmt::Display) {
        let (now, what, text) = (Instant::now(), &self.what, error.to_string());
        match &mut self.failing {
            None => {
                tracing::warn!(error = %text, "{what} is failing");
                self.failing =
                    Some(Failing { since: now, tries: 1, last_said: now, last_error: text });
            }
            Some(failing) => {
                failing.tries += 1;
                if now - failing.last_said >= SAY_AGAIN || failing.last_error != text {
                    let seconds = (now - failing.since).as_secs();
                    tracing::warn!(error = %text, tries = failing.tries, "{what} is still failing since {seconds} s");
                    failing.last_said = now;
                    failing.last_error = text;
                }
            }
        }
    }

    pub fn succeeded(&mut self) {
        if let Some(failing) = self.failing.take() {
            let (what, seconds) = (&self.what, failing.since.elapsed().as_secs());
            tracing::info!(tries = failing.tries, "{what} has recovered after {seconds} s");
        }
    }
}
