//! Services of a Consul, followed by its blocking queries
//! (<https://developer.hashicorp.com/consul/api-docs/features/blocking>).

mod answer;
mod client;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod settings;
mod target;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::{SourceContext, Teller};
use crate::commands::discover::plan::{Answer, Servers};
use crate::daemon::Backoff;
use crate::model::{Label, Weight};
use answer::Found;
use client::{Client, Reply};
use target::Target;

pub use settings::{ConsulFlags, ConsulOptions};

/// Services of one backend, one or more and each once; the text form is `SERVICE[,SERVICE…]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsulServices(Vec<Label>);

impl FromStr for ConsulServices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut services: Vec<Label> = Vec::new();
        for name in text.split(',').map(str::trim) {
            if name.is_empty() {
                return Err("the name of a service is empty: use consul:SERVICE[,SERVICE…]".into());
            }
            let service =
                name.parse().map_err(|error| format!("the name of a service: {error}"))?;
            if services.contains(&service) {
                return Err(format!("service {service} is there twice"));
            }
            services.push(service);
        }
        Ok(Self(services))
    }
}

impl fmt::Display for ConsulServices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(Label::as_str).collect();
        f.write_str(&names.join(","))
    }
}

/// Says what is wrong with the options, the environment's variables among them.
pub(super) fn check(options: &ConsulOptions) -> Result<(), String> {
    resolve(options).map(drop)
}

fn resolve(options: &ConsulOptions) -> Result<Target, String> {
    Target::resolve(options, |name| std::env::var(name).ok())
}

/// Follows each service by questions of its own.
pub(super) async fn run(services: ConsulServices, context: SourceContext, teller: Teller) {
    let target = match resolve(&context.options.consul) {
        Ok(target) => Arc::new(target),
        Err(error) => {
            // The settings were checked, and the environment stays as it is.
            teller.tell(Err(error));
            return std::future::pending().await;
        }
    };
    let mut board: Vec<Option<Seen>> = vec![None; services.0.len()];
    let names = services.0.clone();
    let followers = services.0.into_iter().enumerate();
    let mut looks: FuturesUnordered<_> = followers
        .map(|(place, service)| Follower::new(place, service, &target, context.look_every).look())
        .collect();
    while let Some((follower, seen)) = looks.next().await {
        board[follower.place] = Some(seen);
        if let Some((at, result)) = combine(&names, &board, context.max_weight) {
            teller.tell_at(at, result);
        }
        looks.push(follower.look());
    }
}

/// What the last question for a service came to, and when.
#[derive(Debug, Clone)]
struct Seen {
    at: Instant,
    result: Result<Found, String>,
}

/// One answer of all services, as old as the oldest part of it; none before each has one. The
/// servers of one that fails stay as they are; where all do, there is no answer.
fn combine(
    services: &[Label],
    board: &[Option<Seen>],
    max: Weight,
) -> Option<(Instant, Result<Answer, String>)> {
    let seen =
        || services.iter().zip(board).filter_map(|(name, seen)| Some((name, seen.as_ref()?)));
    let good = || seen().filter_map(|(name, seen)| Some((name, seen.result.as_ref().ok()?)));
    let failed: Vec<(&Label, &String)> =
        seen().filter_map(|(name, seen)| Some((name, seen.result.as_ref().err()?))).collect();
    if good().next().is_none() && !failed.is_empty() {
        let errors: Vec<&str> = failed.iter().map(|(_, error)| error.as_str()).collect();
        return Some((Instant::now(), Err(errors.join("; "))));
    }
    if seen().count() < board.len() {
        return None;
    }
    let at = seen().filter(|(_, seen)| seen.result.is_ok()).map(|(_, seen)| seen.at).min()?;
    let mut answer = Found::merge(good().map(|(_, found)| found), max);
    for (service, error) in failed {
        answer.unread.insert(Servers::of_group(service.clone().into()));
        answer.notes.push(format!("{error}: the servers of {service} stay as they are"));
    }
    // One service that has none at all is as odd as a source that has none.
    if !answer.endpoints.is_empty() {
        let empty = good().filter(|(_, found)| found.has_no_server());
        answer.emptied.extend(empty.map(|(service, _)| Servers::of_group(service.clone().into())));
    }
    Some((at, Ok(answer)))
}

/// Asks for one service again and again.
#[derive(Debug)]
struct Follower {
    /// Its place among the services.
    place: usize,
    service: Label,
    target: Arc<Target>,
    /// Opened anew after an error: certificates may have changed.
    client: Option<Client>,
    index: Index,
    wait: Duration,
    failed: bool,
    backoff: Backoff,
    pace: Pace,
}

impl Follower {
    fn new(place: usize, service: Label, target: &Arc<Target>, look_every: Duration) -> Self {
        Self {
            place,
            service,
            target: target.clone(),
            client: None,
            index: Index::default(),
            // With the sixteenth that Consul adds.
            wait: look_every * 16 / 17,
            failed: false,
            backoff: Backoff::new(Duration::from_millis(250), Duration::from_secs(5)),
            pace: Pace::new(look_every),
        }
    }

    /// Asks once more, when it is time to.
    async fn look(mut self) -> (Self, Seen) {
        match self.failed {
            true => self.backoff.wait().await,
            false => self.pace.wait().await,
        }
        let result = self.ask().await;
        self.failed = result.is_err();
        if self.failed {
            self.client = None;
            self.index = Index::default();
        }
        let result = result.map_err(|error| format!("consul:{}: {error}", self.service));
        (self, Seen { at: Instant::now(), result })
    }

    async fn ask(&mut self) -> Result<Found, String> {
        let client = match self.client.take() {
            Some(client) => client,
            None => Client::open(self.target.clone()).await?,
        };
        let since = self.index.0.map(|index| (index, self.wait));
        let reply = client.ask(&self.service, since).await?;
        self.client = Some(client);
        let found = self.read(&reply)?;
        self.index.answered(reply.index);
        Ok(found)
    }

    fn read(&self, reply: &Reply) -> Result<Found, String> {
        let found = Found::read(&self.service, &self.target.wanted, &reply.body)
            .map_err(|error| format!("{}: {error}", self.target.place()))?;
        if !found.is_empty() {
            return Ok(found);
        }
        let mut note = format!(
            "consul:{}: no instance is there that serves, or Consul does not know this service",
            self.service
        );
        if reply.denies_by_default {
            note += &format!(", or lbctl may not read it: {}", client::GRANT);
        }
        note += "; its servers stay unless --allow-drop lets them go";
        Ok(found.with_note(note))
    }
}

/// Where the next question goes on; without one it is answered at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Index(Option<u64>);

impl Index {
    fn answered(&mut self, index: u64) {
        // Consul's own rules: one that goes backwards begins anew, and 0 never waits.
        self.0 = match self.0 {
            Some(last) if index < last => None,
            _ => Some(index.max(1)),
        };
    }
}

/// Keeps a service that changes without end, or a Consul that never waits, from being asked without
/// end: a bucket of a few questions, filled again one by one.
#[derive(Debug)]
struct Pace {
    every: Duration,
    /// When the bucket is full again.
    full_at: Instant,
}

impl Pace {
    const BURST: u32 = 5;

    /// Never slower than questions without news are.
    fn new(look_every: Duration) -> Self {
        Self { every: look_every.min(Duration::from_secs(1)), full_at: Instant::now() }
    }

    async fn wait(&mut self) {
        // Empty until all but one are in it again.
        let room = self.every * (Self::BURST - 1);
        tokio::time::sleep_until(self.full_at.checked_sub(room).unwrap_or(self.full_at)).await;
        self.full_at = self.full_at.max(Instant::now()) + self.every;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_goes_backwards_begins_anew_and_none_is_0() {
        let mut index = Index::default();
        let mut after = |answered| {
            index.answered(answered);
            index.0
        };
        assert_eq!([after(7), after(9), after(9)], [Some(7), Some(9), Some(9)]);
        assert_eq!([after(8), after(8), after(0)], [None, Some(8), None]);
        assert_eq!([after(0), after(0), after(1)], [Some(1), None, Some(1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_free_and_a_flood_is_slowed_down() {
        let started = Instant::now();
        let mut pace = Pace::new(Duration::from_secs(5));
        for _ in 0..Pace::BURST {
            pace.wait().await;
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
        for _ in 0..10 {
            pace.wait().await;
        }
        let slowed = started.elapsed().as_millis();
        assert!((10_000..10_100).contains(&slowed), "{slowed}");
        // A rest fills the bucket, and no more than that.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let rested = Instant::now();
        for _ in 0..=Pace::BURST {
            pace.wait().await;
        }
        let slowed = rested.elapsed().as_millis();
        assert!((1000..1010).contains(&slowed), "{slowed}");
    }

    fn seen(at: Instant, result: Result<&str, &str>) -> Option<Seen> {
        let service = "web".parse().unwrap();
        let read = |body: &str| Found::read(&service, &target::Wanted::default(), body.as_bytes());
        let result = result.map(|body| read(body).unwrap()).map_err(str::to_owned);
        Some(Seen { at, result })
    }

    const ONE: &str = r#"[{"Node": {"Node": "n", "Address": "10.0.0.1"},
        "Service": {"ID": "s", "Port": 80}}]"#;

    fn of(board: &[Option<Seen>]) -> Option<(Instant, Result<Answer, String>)> {
        let names: Vec<Label> =
            (0..board.len()).map(|n| format!("s{n}").parse().unwrap()).collect();
        combine(&names, board, Weight::saturating(100))
    }

    #[test]
    fn an_answer_is_of_all_and_as_old_as_its_oldest_part() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        assert!(of(&[None, seen(now, Ok("[]"))]).is_none());
        assert!(of(&[None, seen(now, Ok("[]")), seen(now, Err("a"))]).is_none());
        let (at, answer) = of(&[seen(later, Ok("[]")), seen(now, Ok("[]"))]).unwrap();
        assert_eq!((at, answer), (now, Ok(Answer::default())));
        let parts = [None, seen(now, Err("a")), seen(now, Err("b"))];
        assert_eq!(of(&parts).unwrap().1, Err("a; b".into()));
    }

    #[test]
    fn a_service_that_fails_or_has_none_keeps_its_servers_and_holds_up_no_other() {
        let (now, servers) =
            (Instant::now(), |n| Servers::of_group(format!("s{n}").parse().unwrap()));
        let parts = [seen(now, Ok(ONE)), seen(now, Err("refused")), seen(now, Ok("[]"))];
        let answer = of(&parts).unwrap().1.unwrap();
        assert_eq!(answer.endpoints.len(), 1);
        assert_eq!((answer.unread, answer.emptied), ([servers(1)].into(), [servers(2)].into()));
        assert_eq!(answer.notes, ["refused: the servers of s1 stay as they are"]);
    }
}
