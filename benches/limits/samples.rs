use std::time::{Duration, Instant};

/// How long something took, many times.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// In milliseconds.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// In milliseconds.
    pub fn p99(&self) -> f64 {
        self.quantile(0.99)
    }

    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort();
        let last = sorted.len() - 1;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a place in a short list"
        )]
        let place = (last as f64 * share).round() as usize;
        sorted[place].as_secs_f64() * 1000.0
    }
}

pub fn time<T>(work: impl FnOnce() -> T) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

/// Measures two ways in turn, so that what else goes on hits both; the first round warms up and
/// does not count.
pub fn in_turn(
    rounds: usize,
    mut ours: impl FnMut() -> Duration,
    mut peer: impl FnMut() -> Duration,
) -> (Samples, Samples) {
    let (mut our_samples, mut peer_samples) = (Samples::default(), Samples::default());
    for round in 0..=rounds {
        let (our, other) = (ours(), peer());
        if round > 0 {
            our_samples.push(our);
            peer_samples.push(other);
        }
    }
    (our_samples, peer_samples)
}
