use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

static FIRST: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);

/// The last tick up to an instant, of ticks that all tasks of the process have in common. Of many
/// tasks that each wait for about as long, those with the same tick are woken at once, and the process
/// not for each of them.
pub fn last_tick(at: Instant, step: Duration) -> Instant {
    let since = at.saturating_duration_since(Instant::from_std(*FIRST)).as_nanos();
    let past = since.checked_rem(step.as_nanos()).unwrap_or_default();
    at.checked_sub(Duration::from_nanos(u64::try_from(past).unwrap_or_default())).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_of_one_step_have_one_tick() {
        let step = Duration::from_millis(100);
        let first = last_tick(Instant::now() + step * 7, step);
        for offset in [0, 1, 50, 99] {
            assert_eq!(last_tick(first + Duration::from_millis(offset), step), first);
        }
        assert_eq!(last_tick(first + step, step), first + step);
        assert_eq!(last_tick(first, Duration::ZERO), first);
    }
}
