use std::time::Duration;

use tokio::time::Instant;

/// A signal that comes again within this time is the same one.
const WITHIN: Duration = Duration::from_millis(500);

/// Tells a signal from its echo: `timeout` and some supervisors send each to the process and to the
/// group that it is in, which is no second thought of anybody.
#[derive(Debug)]
pub struct Echoes<S> {
    last: Option<(S, Instant)>,
}

impl<S> Default for Echoes<S> {
    fn default() -> Self {
        Self { last: None }
    }
}

impl<S: Copy + PartialEq> Echoes<S> {
    /// Whether this signal is the echo of the last one that was none.
    pub fn is_echo(&mut self, signal: S) -> bool {
        let now = Instant::now();
        let same = |(last, at): (S, Instant)| last == signal && now - at < WITHIN;
        let echo = self.last.is_some_and(same);
        if !echo {
            self.last = Some((signal, now));
        }
        echo
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_signal_at_once_is_an_echo_and_another_or_a_later_one_is_not() {
        let mut echoes = Echoes::default();
        assert!(!echoes.is_echo("TERM"));
        tokio::time::advance(WITHIN / 2).await;
        assert!(echoes.is_echo("TERM"));
        assert!(!echoes.is_echo("INT"));
        assert!(!echoes.is_echo("TERM"));
        tokio::time::advance(WITHIN).await;
        assert!(!echoes.is_echo("TERM"));
    }
}
