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
