//! The clock that a candidate counts its deadlines on.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// The time since a start, the time that the host was asleep included.
///
/// Timers count on the monotonic clock, which stands still while a host is suspended; the store's
/// leases go on. A leader that woke up would believe for up to a whole TTL that it still leads.
/// Timers that are due in that time fire late by it, so whoever acts asks the clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    started: Instant,
    /// How long the host was asleep since it booted, at the start.
    asleep: Duration,
}

impl Clock {
    pub fn start() -> Self {
        Self { started: Instant::now(), asleep: asleep() }
    }

    pub fn now(&self) -> Duration {
        // Read first: what passes between the two counts at most once.
        let awake = self.started.elapsed();
        awake + asleep().saturating_sub(self.asleep)
    }

    /// When a timer has to be due, should the host stay awake.
    pub fn instant(&self, at: Duration) -> Instant {
        self.started + at.saturating_sub(asleep().saturating_sub(self.asleep))
    }
}

/// The host's time asleep since it booted. The later reading is of the clock that counts more, so
/// that a pause between the two makes it longer and never shorter.
#[cfg(not(test))]
fn asleep() -> Duration {
    let monotonic = read(ClockId::Monotonic);
    read(ClockId::Boottime).saturating_sub(monotonic)
}

#[cfg(test)]
use tests::asleep;

fn read(clock: ClockId) -> Duration {
    // Neither clock is ever negative.
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static SLEPT: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    /// Suspends the host of this thread's test: no timer notices.
    pub fn suspend(time: Duration) {
        SLEPT.set(SLEPT.get() + time);
    }

    pub fn asleep() -> Duration {
        SLEPT.get()
    }

    #[tokio::test(start_paused = true)]
    async fn time_asleep_counts() {
        let second = Duration::from_secs(1);
        suspend(second * 5);
        let clock = Clock::start();
        assert_eq!(clock.now(), Duration::ZERO, "what was before the start does not count");
        tokio::time::sleep(second).await;
        suspend(second * 2);
        assert_eq!(clock.now(), second * 3);
        assert_eq!(clock.instant(second * 4), Instant::now() + second);
    }

    #[test]
    fn the_boot_clock_is_never_behind_the_other() {
        let monotonic = read(ClockId::Monotonic);
        assert!(read(ClockId::Boottime) >= monotonic && monotonic > Duration::ZERO);
    }
}
