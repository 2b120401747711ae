//! How long an election waits for what, all derived from the time to live of a lease.

use std::time::Duration;

/// A shorter time to live would be renewed without a pause.
pub(super) const SHORTEST_TTL: Duration = Duration::from_millis(100);

/// How long a leader may act on a lease, from before the request that granted or renewed it: the
/// rest is the margin for clocks that run at different rates and for work that takes a moment to
/// stop.
pub(super) fn acting_time(ttl: Duration) -> Duration {
    ttl.mul_f64(0.9)
}

/// How long one request may take: short enough that three renewals can fail one after the other
/// before the leader has to stop.
pub(super) fn call_deadline(ttl: Duration) -> Duration {
    (ttl / 4).min(Duration::from_secs(5))
}

/// How long the last request of a candidate may take: what it would free ends by itself later.
pub(super) const LAST_CALL_DEADLINE: Duration = Duration::from_secs(2);

/// How long a candidate that starts waits for the watch to tell who leads, before it asks itself.
pub(super) fn first_news_wait(ttl: Duration) -> Duration {
    ttl / 40
}

/// How long those who want a shared lease renewed are waited for, so that they share the renewal.
pub(super) fn gather_wait(ttl: Duration) -> Duration {
    ttl / 40
}

/// How long a renewal of a shared lease is told to those who ask for another one.
pub(super) fn fresh_time(ttl: Duration) -> Duration {
    ttl / 10
}

/// How long a leader waits for its turn to move to the shared lease: the rest of a call's time is for
/// the renewal of its own lease.
pub(super) fn move_wait(ttl: Duration) -> Duration {
    ttl / 40
}

/// From one renewal to the next.
pub(super) fn renew_wait(ttl: Duration, jitter: f64) -> Duration {
    ttl.mul_f64(0.3 + jitter / 30.0)
}

/// From a failed renewal to the next.
pub(super) fn renew_retry_wait(ttl: Duration, jitter: f64) -> Duration {
    ttl.mul_f64(0.02 + jitter / 50.0)
}

/// How often a follower reads the leader key, should its watch miss something.
pub(super) fn poll_wait(ttl: Duration, jitter: f64) -> Duration {
    ttl.mul_f64(1.0 + jitter / 4.0)
}

/// From a failed try to the next: doubling up to a quarter of the time to live.
pub(super) fn retry_wait(ttl: Duration, tries: u32, jitter: f64) -> Duration {
    let doubled = Duration::from_millis(50) * (1 << tries.saturating_sub(1).min(10));
    doubled.min(ttl / 4).mul_f64(0.5 + jitter / 2.0)
}
