use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Logs a loop's turns, not its tries: "failing", "still failing since", "recovered".
#[derive(Debug)]
pub struct Health {
    what: String,
    failing: Option<Failing>,
    /// Of which it is one.
    kind: Option<Healths>,
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
        Self { what: what.into(), failing: None, kind: None }
    }

    pub fn failed(&mut self, error: &impl fmt::Display) {
        let (now, text) = (Instant::now(), error.to_string());
        let news = self.kind.as_ref().map_or(News::Own, |k| k.failed(now, self.failing.is_none()));
        match news {
            News::Own => self.say_failed(now, &text),
            News::Nothing => {}
            News::Many { count, seconds: 0 } => {
                let (what, all) = (&self.what, self.kind_name());
                tracing::warn!(error = %text, last = what, "{count} {all} are failing");
            }
            News::Many { count, seconds } => {
                let (what, all) = (&self.what, self.kind_name());
                tracing::warn!(error = %text, last = what, "{count} {all} are still failing since {seconds} s");
            }
        }
        let failing = self.failing.get_or_insert(Failing {
            since: now,
            tries: 0,
            last_said: now,
            last_error: text,
        });
        failing.tries += 1;
    }

    fn say_failed(&mut self, now: Instant, text: &str) {
        let what = &self.what;
        match &mut self.failing {
            None => tracing::warn!(error = %text, "{what} is failing"),
            Some(failing) if now - failing.last_said >= SAY_AGAIN || failing.last_error != text => {
                let (tries, seconds) = (failing.tries + 1, (now - failing.since).as_secs());
                tracing::warn!(error = %text, tries, "{what} is still failing since {seconds} s");
                failing.last_said = now;
                text.clone_into(&mut failing.last_error);
            }
            Some(_) => {}
        }
    }

    pub fn succeeded(&mut self) {
        let Some(failing) = self.failing.take() else { return };
        let (what, seconds) = (&self.what, failing.since.elapsed().as_secs());
        match self.kind.as_ref().map_or(News::Own, Healths::recovered) {
            News::Own => {
                tracing::info!(tries = failing.tries, "{what} has recovered after {seconds} s");
            }
            News::Nothing => {}
            News::Many { count, seconds } => {
                let all = self.kind_name();
                tracing::info!("all of {count} {all} have recovered after {seconds} s");
            }
        }
    }

    fn kind_name(&self) -> &str {
        self.kind.as_ref().map_or("", |kind| &kind.what)
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        // One that is no more does not keep the others from being well again.
        if let Some(kind) = self.kind.as_ref().filter(|_| self.failing.is_some()) {
            kind.recovered();
        }
    }
}

/// What the healths of one kind in a process have in common. Many may fail for one reason, such as an
/// outage of the store: then their number is logged, and not a line for each.
#[derive(Debug, Clone)]
pub struct Healths {
    what: String,
    state: Arc<Mutex<Together>>,
}

#[derive(Debug, Default)]
struct Together {
    failing: usize,
    /// The most that have failed at one time since all were well.
    most: usize,
    since: Option<Instant>,
    said: Option<Instant>,
}

/// From so many on their number is said.
const MANY: usize = 10;

/// What is to be logged.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// What the one who asks has to say of itself.
    Own,
    Nothing,
    Many {
        count: usize,
        seconds: u64,
    },
}

impl Healths {
    /// `what` fits "20 … are failing".
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), state: Arc::default() }
    }

    /// One of them.
    pub fn one(&self, what: impl Into<String>) -> Health {
        Health { what: what.into(), failing: None, kind: Some(self.clone()) }
    }

    fn failed(&self, now: Instant, is_new: bool) -> News {
        let mut state = self.lock();
        let since = *state.since.get_or_insert(now);
        if is_new {
            state.failing += 1;
            state.most = state.most.max(state.failing);
        }
        let count = state.failing;
        let seconds = now.saturating_duration_since(since).as_secs();
        let is_due =
            state.said.is_some_and(|said| now.saturating_duration_since(said) >= SAY_AGAIN);
        if state.most < MANY {
            return News::Own;
        }
        // Each tenfold number is said as it is reached.
        let is_tenfold = count == 10_usize.pow(count.max(1).ilog10());
        if is_new && count == state.most && is_tenfold {
            state.said = Some(now);
            return News::Many { count, seconds: 0 };
        }
        if is_due {
            state.said = Some(now);
            return News::Many { count, seconds };
        }
        News::Nothing
    }

    fn recovered(&self) -> News {
        let mut state = self.lock();
        state.failing = state.failing.saturating_sub(1);
        let (is_last, count) = (state.failing == 0, state.most);
        let seconds = state.since.map_or(0, |since| since.elapsed().as_secs());
        if is_last {
            *state = Together::default();
        }
        match (count < MANY, is_last) {
            (true, _) => News::Own,
            (false, true) => News::Many { count, seconds },
            (false, false) => News::Nothing,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Together> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_of_many_is_said_by_their_number() {
        let all = Healths::new("elections");
        let mut lines: Vec<News> = (0..1000).map(|_| all.failed(Instant::now(), true)).collect();
        lines.extend((0..1000).map(|_| all.failed(Instant::now(), false)));
        tokio::time::sleep(SAY_AGAIN).await;
        lines.extend((0..1000).map(|_| all.failed(Instant::now(), false)));
        lines.extend((0..1000).map(|_| all.recovered()));
        lines.retain(|line| *line != News::Nothing);
        let many = |count, seconds| News::Many { count, seconds };
        assert!(lines[..9].iter().all(|line| *line == News::Own));
        let said = [many(10, 0), many(100, 0), many(1000, 0), many(1000, 30), many(1000, 30)];
        assert_eq!(lines[9..], said);
        assert_eq!(all.failed(Instant::now(), true), News::Own, "it begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_ends_while_it_fails_is_not_waited_for() {
        let all = Healths::new("elections");
        let mut healths: Vec<Health> = (0..20).map(|n| all.one(n.to_string())).collect();
        healths.iter_mut().for_each(|health| health.failed(&"away"));
        let mut last = healths.remove(0);
        drop(healths);
        assert_eq!(all.lock().failing, 1);
        last.succeeded();
        assert_eq!(all.lock().most, 0);
    }
}
