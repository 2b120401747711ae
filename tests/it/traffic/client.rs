//! An open-loop client: it sends on a schedule, however long the answers take, and counts from the
//! moment that a request was due.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lbctl::daemon::{OwnedTask, spawn_owned};
use lbctl::model::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::support::eventually_async;
use crate::support::http::{connect, get, is_stale};

/// A request without its answer after so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many failures are told in full.
const TOLD: usize = 12;

/// What kind of client there is how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One HTTP request a connection.
    Fresh,
    /// HTTP over connections that stay open.
    Kept,
    /// Sessions of plain TCP, each of several exchanges.
    Session,
}

/// How often a session says something, and how many times.
const EXCHANGES: u32 = 16;
const PAUSE: Duration = Duration::from_millis(250);

/// Clients of one address that never stop; they end when it is dropped.
#[derive(Debug)]
pub struct Clients {
    state: Arc<State>,
    _task: OwnedTask<()>,
}

/// Who has the state when no client does: [`Clients`] and its task.
const WITHOUT_CLIENTS: usize = 2;

#[derive(Debug)]
struct State {
    kind: Kind,
    address: SocketAddr,
    /// Locked while a client comes, so that whoever pauses them knows of all.
    paused: Mutex<bool>,
    tally: Mutex<Tally>,
    /// Open connections that wait for their next request.
    kept: Mutex<Vec<TcpStream>>,
}

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Tally {
    pub answered: u64,
    /// A kept connection had been closed without a byte of the answer: sent again on a new one, as
    /// every HTTP client does (RFC 9112, 9.5).
    pub sent_again: u64,
    pub failed: u64,
    pub slowest: Duration,
    /// By the server that answered.
    pub by: BTreeMap<String, u64>,
    pub first_failure: Option<Timestamp>,
    told: Vec<String>,
}

impl Clients {
    /// So many clients a second, from [`Self::go_on`] on.
    pub fn new(kind: Kind, address: SocketAddr, each_second: u32) -> Self {
        let (paused, tally) = (Mutex::new(true), Mutex::default());
        let state = Arc::new(State { kind, address, paused, tally, kept: Mutex::default() });
        let period = Duration::from_secs(1) / each_second;
        Self { state: state.clone(), _task: spawn_owned(state.run(period)) }
    }

    /// What has happened since it was last asked.
    pub fn take(&self) -> Tally {
        std::mem::take(&mut self.state.tally.lock().unwrap())
    }

    /// None comes until [`Self::go_on`]. Waits for those that are under way; connections that were
    /// kept are closed.
    pub async fn pause(&self) {
        *self.state.paused.lock().unwrap() = true;
        eventually_async("the last client to have its answer", async || {
            (Arc::strong_count(&self.state) == WITHOUT_CLIENTS).then_some(())
        })
        .await;
        self.state.kept.lock().unwrap().clear();
    }

    pub fn go_on(&self) {
        *self.state.paused.lock().unwrap() = false;
    }
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.sent_again += other.sent_again;
        self.failed += other.failed;
        self.slowest = self.slowest.max(other.slowest);
        for (name, count) in other.by {
            *self.by.entry(name).or_default() += count;
        }
        self.first_failure = self.first_failure.or(other.first_failure);
        self.told.extend(other.told);
    }

    /// The numbers, and the first failures.
    pub fn say(&self) -> String {
        let Self { answered, sent_again, failed, slowest, by, told, .. } = self;
        let servers = by.len();
        let mut text = format!(
            "{answered} answered by {servers} servers, {sent_again} sent again, {failed} failed, slowest {slowest:?}"
        );
        for failure in told.iter().take(TOLD) {
            text.push_str(&format!("\n    {failure}"));
        }
        text
    }
}

impl State {
    async fn run(self: Arc<Self>, period: Duration) {
        let mut clients = JoinSet::new();
        let mut due = Instant::now();
        loop {
            sleep_until(due).await;
            while clients.try_join_next().is_some() {}
            let paused = self.paused.lock().unwrap();
            if !*paused {
                clients.spawn(self.clone().client(due));
            }
            drop(paused);
            due += period;
        }
    }

    async fn client(self: Arc<Self>, due: Instant) {
        match self.kind {
            Kind::Fresh => self.note(due, timeout_at(due + PATIENCE, self.fresh()).await),
            Kind::Kept => self.note(due, timeout_at(due + PATIENCE, self.kept()).await),
            Kind::Session => self.session(due).await,
        }
    }

    /// Whether it was answered.
    fn note(&self, due: Instant, answer: Result<io::Result<String>, tokio::time::error::Elapsed>) {
        let mut tally = self.tally.lock().unwrap();
        let failure = match answer {
            Ok(Ok(name)) => {
                tally.answered += 1;
                tally.slowest = tally.slowest.max(due.elapsed());
                *tally.by.entry(name).or_default() += 1;
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => "no answer".to_owned(),
        };
        tally.failed += 1;
        let now = Timestamp::now();
        tally.first_failure.get_or_insert(now);
        if tally.told.len() < TOLD {
            let text = format!(
                "{:?} at {now}, {:?} after it was due: {failure}",
                self.kind,
                due.elapsed()
            );
            tally.told.push(text);
        }
    }

    async fn fresh(&self) -> io::Result<String> {
        let mut stream = connect(self.address).await?;
        let (name, _) = get(&mut stream, "/", "Connection: close\r\n").await?;
        Ok(name)
    }

    async fn kept(&self) -> io::Result<String> {
        let kept = self.kept.lock().unwrap().pop();
        if let Some(mut stream) = kept {
            match get(&mut stream, "/", "").await {
                Ok(answer) => return Ok(self.keep(stream, answer)),
                Err(error) if is_stale(&error) => self.tally.lock().unwrap().sent_again += 1,
                Err(error) => return Err(error),
            }
        }
        let mut stream = connect(self.address).await?;
        let answer = get(&mut stream, "/", "").await?;
        Ok(self.keep(stream, answer))
    }

    fn keep(&self, stream: TcpStream, (name, stays): (String, bool)) -> String {
        if stays {
            self.kept.lock().unwrap().push(stream);
        }
        name
    }

    /// Each exchange counts as a request; the first that fails ends the session.
    async fn session(&self, due: Instant) {
        let mut due = due;
        let mut stream = None;
        let mut server = None;
        for _ in 0..EXCHANGES {
            sleep_until(due).await;
            let answer = timeout_at(due + PATIENCE, self.exchange(&mut stream, &mut server)).await;
            let failed = !matches!(answer, Ok(Ok(_)));
            self.note(due, answer);
            if failed {
                return;
            }
            due += PAUSE;
        }
    }

    async fn exchange(
        &self,
        stream: &mut Option<TcpStream>,
        server: &mut Option<String>,
    ) -> io::Result<String> {
        let stream = match stream {
            Some(stream) => stream,
            None => stream.insert(connect(self.address).await?),
        };
        stream.write_all(b"who\n").await?;
        let name = read_line(stream).await?;
        match server {
            Some(first) if *first != name => {
                Err(io::Error::other(format!("{first} began and {name} went on")))
            }
            _ => Ok(server.insert(name).clone()),
        }
    }
}

async fn read_line(stream: &mut TcpStream) -> io::Result<String> {
    let mut heard = Vec::with_capacity(64);
    while heard.last() != Some(&b'\n') {
        if stream.read_buf(&mut heard).await? == 0 {
            return Err(io::Error::other("the session was closed"));
        }
    }
    Ok(String::from_utf8_lossy(&heard).trim_end().to_owned())
}
