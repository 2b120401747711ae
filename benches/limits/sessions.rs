//! Sessions of `lbctl serve`, against a bare server that only echoes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::idle::memory_kib;
use super::report::{Report, Row, Target, Unit};
use super::samples::{Samples, in_turn, time};
use super::support::{Process, World, eventually, free_port};

/// The word that makes this program the peer.
pub const ECHO: &str = "echo-server";

const CLIENTS: u32 = 8;
const SESSIONS_EACH: u32 = 250;
const ROUNDS: usize = 15;
const IDLE_CLIENTS: u32 = 10_000;

pub fn measure(report: &mut Report) {
    let world = World::sqlite();
    let (serve, port) = start_serve(&world);
    let (_echo, peer_port) = start_echo(&world);
    let (ours, peer) = in_turn(ROUNDS, || crowd(port), || crowd(peer_port));
    let row = |what: &str, figure: f64, peer: f64, target| {
        let what = format!("serve: sessions, {what}");
        Row { what, unit: Unit::PerSecond, figure, peer: Some(peer), target }
    };
    let rate = |ms: f64| f64::from(CLIENTS * SESSIONS_EACH) / ms * 1000.0;
    let target = Target::RatioAtLeast(0.8);
    let what = format!("{CLIENTS} clients at a time");
    report.add(row(&what, rate(ours.median()), rate(peer.median()), target));
    let (ours, peer) = in_turn(2_000, || one(port), || one(peer_port));
    report.add(lone("median", Samples::median, &ours, &peer));
    report.add(lone("p99", Samples::p99, &ours, &peer));
    idle_clients(report, &serve, port);
}

fn lone(which: &str, of: fn(&Samples) -> f64, ours: &Samples, peer: &Samples) -> Row {
    let what = format!("serve: one session, {which}");
    let (figure, peer) = (of(ours), Some(of(peer)));
    Row { what, unit: Unit::Milliseconds, figure, peer, target: Target::None }
}

fn idle_clients(report: &mut Report, serve: &Process, port: u16) {
    // A server that has just had a crowd has its memory already.
    let before = memory_kib(serve);
    let connect = |_| {
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.write_all(b"WHY\n").unwrap();
        client
    };
    let mut clients: Vec<TcpStream> = (0..IDLE_CLIENTS).map(connect).collect();
    for client in &mut clients {
        client.read_exact(&mut [0; 3]).unwrap();
    }
    let each = (memory_kib(serve) - before) * 1024.0 / f64::from(IDLE_CLIENTS);
    let what = format!("serve: memory for each of {IDLE_CLIENTS} idle clients");
    let target = Target::AtMost(4096.0);
    report.add(Row { what, unit: Unit::Bytes, figure: each, peer: None, target });
}

fn start_serve(world: &World) -> (Process, u16) {
    let port = free_port();
    let text = port.to_string();
    let args = ["serve", "-H", "127.0.0.1", "-p", &text, "--admin", "off"];
    let serve = world.start("serve", &args);
    wait_for(port);
    (serve, port)
}

fn start_echo(world: &World) -> (Process, u16) {
    let port = free_port();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([ECHO, &port.to_string()]);
    let echo = Process::start("echo", world.dir.path(), &mut command);
    wait_for(port);
    (echo, port)
}

fn wait_for(port: u16) {
    eventually("a server to listen", || TcpStream::connect(("127.0.0.1", port)).ok().map(drop));
}

fn crowd(port: u16) -> Duration {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| (0..SESSIONS_EACH).for_each(|_| session(port)));
        }
    });
    started.elapsed()
}

fn one(port: u16) -> Duration {
    time(|| session(port))
}

/// Connects, asks, and leaves; the server closes.
fn session(port: u16) {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream);
    reader.get_mut().write_all(b"WHY\n").unwrap();
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "hung up on");
    reader.get_mut().write_all(b"QUIT\n").unwrap();
    reader.read_to_string(&mut line).unwrap();
}

/// Echoes until a client says QUIT, on the port that is the last word of the command line.
pub fn echo_server() {
    let port: u16 = std::env::args().next_back().unwrap().parse().unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(echo(stream));
        }
    });
}

async fn echo(mut stream: tokio::net::TcpStream) {
    let mut buffer = [0; 512];
    while let Ok(len @ 1..) = stream.read(&mut buffer).await {
        if buffer[..len].starts_with(b"QUIT") || stream.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}
