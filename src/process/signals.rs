use std::io;
use std::task::Poll;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

/// A signal that comes again within this time is the same one.
const WITHIN: Duration = Duration::from_millis(500);

/// The signals that this process listens for; `S` names one.
#[derive(Debug)]
pub struct Signals<S> {
    ends: Vec<(Signal, S)>,
    others: Vec<(Signal, S)>,
    echoes: Echoes<S>,
}

impl<S: Copy + PartialEq> Signals<S> {
    /// Listens for those that end the process, whose echoes are passed over, and for others.
    pub fn listen(
        ends: impl IntoIterator<Item = (SignalKind, S)>,
        others: impl IntoIterator<Item = (SignalKind, S)>,
    ) -> io::Result<Self> {
        let listen = |(kind, name)| Ok((signal(kind)?, name));
        Ok(Self {
            ends: ends.into_iter().map(listen).collect::<io::Result<_>>()?,
            others: others.into_iter().map(listen).collect::<io::Result<_>>()?,
            echoes: Echoes::default(),
        })
    }

    /// The next signal that is no echo of the last one to end; cancel-safe.
    pub async fn next(&mut self) -> S {
        loop {
            let (name, ends) = std::future::poll_fn(|cx| {
                let ends = self.ends.iter_mut().map(|signal| (signal, true));
                let mut all = ends.chain(self.others.iter_mut().map(|signal| (signal, false)));
                let received = all.find_map(|((signal, name), ends)| {
                    matches!(signal.poll_recv(cx), Poll::Ready(Some(()))).then_some((*name, ends))
                });
                received.map_or(Poll::Pending, Poll::Ready)
            })
            .await;
            if !(ends && self.echoes.is_echo(name)) {
                return name;
            }
        }
    }
}

/// Tells a signal from its echo: `timeout` and some supervisors send each to the process and to the
/// group that it is in, which is no second thought of anybody.
#[derive(Debug)]
struct Echoes<S> {
    last: Option<(S, Instant)>,
}

impl<S> Default for Echoes<S> {
    fn default() -> Self {
        Self { last: None }
    }
}

impl<S: Copy + PartialEq> Echoes<S> {
    /// Whether this signal is the echo of the last one that was none.
    fn is_echo(&mut self, signal: S) -> bool {
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
