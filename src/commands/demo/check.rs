//! `--check`: the demo without hands, one step after the other, each with its time.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::stage::{BACKEND, SERVERS, Stage};
use crate::error::{CommandError, CommandResult, Kind};
use crate::haproxy::{AdminState, ObservedServer};
use crate::output;

/// How long a step may take: far over what it needs, so that only a fault fails it.
const DEADLINE: Duration = Duration::from_secs(30);

/// The weight a server of the demo starts with, and the one it ends at.
const WEIGHTS: (u16, u16) = (10, 100);

type StepResult = Result<String, String>;

/// Plays every step; the first that fails ends it with the logs' last lines.
pub(super) async fn run(stage: &mut Stage, stop: CancellationToken) -> CommandResult {
    tokio::select! {
        () = stop.cancelled() => Err(CommandError::msg(Kind::Failed, "stopped before the last step")),
        result = steps(stage) => match result {
            Ok(()) => output::print("all of it held\n"),
            Err(problem) => Err(CommandError::msg(Kind::Failed, problem).hint(logs(stage))),
        },
    }
}

async fn steps(stage: &mut Stage) -> Result<(), String> {
    let mut clients = Vec::new();
    say("all three servers serve in HAProxy", all_serve(stage)).await?;
    say("three different WHERE through HAProxy", three_wheres(stage)).await?;
    say("WHO counts a client of each server", who_counts(stage, &mut clients)).await?;
    say("kill -9 of a server: it leaves HAProxy", server_leaves(stage)).await?;
    say("WHO counts right without it", who_counts_without(&mut clients)).await?;
    say("started again: its weight ramps up", server_returns(stage)).await?;
    say("HAProxy killed and started: filled again", haproxy_refilled(stage)).await?;
    say("three different WHERE again", three_wheres(stage)).await
}

/// Runs a step and prints a line of its name, its time and what it saw.
async fn say(name: &str, step: impl Future<Output = StepResult>) -> Result<(), String> {
    let started = Instant::now();
    let seen = step.await.map_err(|problem| format!("{name}: {problem}"))?;
    let seconds = started.elapsed().as_secs_f64();
    output::print(&format!("ok  {name:<42} {seconds:>6.2} s  {seen}\n"))
        .map_err(|error| error.report())
}

async fn all_serve(stage: &Stage) -> StepResult {
    until("three servers that serve", async || {
        let count = serving(stage).await.len();
        if count == SERVERS {
            Ok(format!("{count} servers"))
        } else {
            Err(format!("{count} serve"))
        }
    })
    .await
}

async fn three_wheres(stage: &Stage) -> StepResult {
    let mut seen = BTreeSet::new();
    until("three different answers", async || {
        seen.insert(Talk::start(stage.port).await?.ask("WHERE", 1).await?);
        let names = seen.iter().map(|line| line.trim()).collect::<Vec<_>>().join(", ");
        if seen.len() == SERVERS { Ok(names) } else { Err(format!("only {names} so far")) }
    })
    .await
}

async fn who_counts(stage: &Stage, clients: &mut Vec<Talk>) -> StepResult {
    for _ in 0..SERVERS {
        let mut client = Talk::start(stage.port).await?;
        client.ask("WHY", 1).await?;
        clients.push(client);
    }
    all_say(clients, SERVERS).await
}

/// The clients of a killed server have gone with it; the others see the count fall.
async fn who_counts_without(clients: &mut Vec<Talk>) -> StepResult {
    let mut left = Vec::new();
    for mut client in clients.drain(..) {
        if client.ask("WHY", 1).await.is_ok() {
            left.push(client);
        }
    }
    *clients = left;
    if clients.len() != SERVERS - 1 {
        return Err(format!("{} of {SERVERS} clients are still connected", clients.len()));
    }
    all_say(clients, SERVERS - 1).await
}

async fn all_say(clients: &mut [Talk], count: usize) -> StepResult {
    let wanted = format!("clients connected to all servers: {count}");
    until(&wanted, async || {
        for client in &mut *clients {
            let answer = client.ask("WHO", 3).await?;
            let said = answer.lines().last().unwrap_or_default();
            if said != wanted {
                return Err(format!("it said {said:?}"));
            }
        }
        Ok(format!("{count}, asked on {} connections", clients.len()))
    })
    .await
}

async fn server_leaves(stage: &mut Stage) -> StepResult {
    let (server, port) = (&mut stage.servers[1], stage.server_ports[1]);
    server.kill().await.map_err(|error| error.report())?;
    let started = Instant::now();
    until("its slot in maint", async || {
        let servers = observe(stage).await.ok_or("HAProxy does not answer")?;
        match servers.iter().find(|s| s.port == port).map(|s| s.admin.state()) {
            Some(AdminState::Maint) | None => Ok(()),
            Some(state) => Err(format!("it is in {state}")),
        }
    })
    .await?;
    let seconds = started.elapsed().as_secs_f64();
    for _ in 0..10 {
        Talk::start(stage.port).await?.ask("WHY", 1).await?;
    }
    Ok(format!("in maint after {seconds:.1} s (its lease: 2 s); then 10 of 10 new clients served"))
}

async fn server_returns(stage: &mut Stage) -> StepResult {
    stage.servers[1].start().map_err(|error| error.report())?;
    let port = stage.server_ports[1];
    let mut weights: Vec<u16> = Vec::new();
    until("its full weight", async || {
        let weight = serving(stage).await.iter().find(|s| s.port == port).map(|s| s.weight);
        // A weight of 0 is the moment before the first: HAProxy gates a server on its checks.
        if let Some(weight) = weight.filter(|w| *w > 0 && weights.last() != Some(w)) {
            weights.push(weight);
        }
        match weights.last() {
            Some(weight) if *weight == WEIGHTS.1 => Ok(()),
            _ => Err(format!("weights so far: {weights:?}")),
        }
    })
    .await?;
    if weights.first() != Some(&WEIGHTS.0) || !weights.is_sorted() || weights.len() < 3 {
        return Err(format!("the weights did not ramp from {}: {weights:?}", WEIGHTS.0));
    }
    Ok(weights.iter().map(u16::to_string).collect::<Vec<_>>().join(" → "))
}

async fn haproxy_refilled(stage: &mut Stage) -> StepResult {
    stage.haproxy.kill().await.map_err(|error| error.report())?;
    stage.haproxy.start().map_err(|error| error.report())?;
    let started = Instant::now();
    until("three servers of full weight", async || {
        let servers = serving(stage).await;
        let full = servers.iter().filter(|s| s.weight == WEIGHTS.1).count();
        if full == SERVERS { Ok(()) } else { Err(format!("{full} of full weight")) }
    })
    .await?;
    Ok(format!("without a reload, {:.1} s after its start", started.elapsed().as_secs_f64()))
}

/// The servers that HAProxy sends clients to; none while it does not answer.
async fn serving(stage: &Stage) -> Vec<ObservedServer> {
    let mut servers = observe(stage).await.unwrap_or_default();
    servers.retain(|s| s.admin.state() == AdminState::Ready && s.operational == 2);
    servers
}

async fn observe(stage: &Stage) -> Option<Vec<ObservedServer>> {
    let backend = BACKEND.parse().ok()?;
    let mut session = stage.client.session().await.ok()?;
    session.observe(&[backend], false).await.ok()?.backends.into_values().next()
}

/// Tries until it works or the deadline is over; then the last problem is the answer.
async fn until<T>(
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, String> {
    let started = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(problem) if started.elapsed() > DEADLINE => {
                return Err(format!("waited {} s for {what}: {problem}", DEADLINE.as_secs()));
            }
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// A client's connection through HAProxy.
struct Talk(BufReader<TcpStream>);

impl Talk {
    async fn start(port: u16) -> Result<Self, String> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| e.to_string())?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a command and reads so many lines.
    async fn ask(&mut self, command: &str, lines: usize) -> StepResult {
        let talk = async {
            self.0.write_all(format!("{command}\n").as_bytes()).await?;
            let mut answer = String::new();
            for _ in 0..lines {
                if self.0.read_line(&mut answer).await? == 0 {
                    return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
                }
            }
            Ok(answer)
        };
        let answer = timeout(Duration::from_secs(5), talk).await;
        answer
            .map_err(|_| format!("no answer to {command}"))?
            .map_err(|e| format!("{command}: {e}"))
    }
}

fn logs(stage: &mut Stage) -> String {
    let tails = stage.children().map(|child| child.log_tail());
    tails.fold("the processes' logs end with:\n".to_owned(), |mut text, tail| {
        // Writing to a String cannot fail.
        _ = write!(text, "{tail}");
        text
    })
}
