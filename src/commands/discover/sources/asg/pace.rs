use std::time::Duration;

use super::Trouble;

/// However often AWS throttles, a look is tried again after so long.
const SLOWEST: Duration = Duration::from_secs(120);

/// How often to look: at the interval, and less often while AWS throttles.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    now: Duration,
}

impl Pace {
    pub fn new(interval: Duration) -> Self {
        Self { interval, now: interval }
    }

    /// Twice as slow for each look that is throttled; back in small steps, so that a limit that
    /// several callers share is not hit again at once.
    pub fn after(&mut self, trouble: Option<&Trouble>) {
        self.now = match trouble.is_some_and(Trouble::is_throttled) {
            true => (self.now * 2).min(SLOWEST.max(self.interval)),
            false => self.now.mul_f64(0.8).max(self.interval),
        };
    }

    /// Until the next look: up to a tenth less, so that several copies do not ask in step.
    pub fn wait(&self) -> Duration {
        self.now.mul_f64(0.9 + fastrand::f64() / 10.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::{Failure, FailureKind};

    fn failure(kind: FailureKind) -> Trouble {
        let (code, reason) = (String::new(), String::new());
        Trouble::Call(Failure { kind, call: "X", code, reason, hint: None })
    }

    #[test]
    fn throttling_slows_down_up_to_a_limit_and_peace_brings_the_interval_back() {
        let interval = Duration::from_secs(5);
        let mut pace = Pace::new(interval);
        let throttled = failure(FailureKind::Throttled);
        pace.after(Some(&throttled));
        assert_eq!(pace.now, interval * 2);
        (0..20).for_each(|_| pace.after(Some(&throttled)));
        assert_eq!(pace.now, SLOWEST);
        pace.after(None);
        assert!(pace.now > interval * 10, "one good look does not end it");
        (0..50).for_each(|_| pace.after(None));
        assert_eq!(pace.now, interval);
        pace.after(Some(&failure(FailureKind::Denied)));
        assert_eq!(pace.now, interval);
    }

    #[test]
    fn waits_are_spread() {
        let pace = Pace::new(Duration::from_secs(10));
        let waits: Vec<Duration> = (0..100).map(|_| pace.wait()).collect();
        let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
        assert!(*least >= Duration::from_secs(9) && *most <= Duration::from_secs(10));
        assert!(*most - *least > Duration::from_millis(500), "{least:?} to {most:?}");
    }
}
