use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tempfile::tempdir;

use super::{Client, Server};
use crate::support::{World, eventually, lbctl};

#[test]
fn a_client_too_many_is_told_so_and_a_place_is_free_again() {
    let dir = tempdir().unwrap();
    let server = Server::alone(dir.path(), &["--max-clients", "2"]);
    let mut clients = [server.connect(), server.connect()];
    clients.iter_mut().for_each(|client| assert_eq!(client.ask("WHY"), "42\n"));
    let mut refused = server.connect();
    refused.send("WHY\n");
    assert_eq!(refused.rest(), "too many clients: at most 2, try again later\n");
    drop(clients);
    eventually("a free place", || {
        let mut client = server.connect();
        client.send("WHY\nQUIT\n");
        (client.rest() == "42\n").then_some(())
    });
}

#[test]
fn an_idle_client_is_closed_and_a_busy_one_is_not() {
    let dir = tempdir().unwrap();
    let server = Server::alone(dir.path(), &["--idle-timeout", "1s"]);
    let (mut busy, mut idle) = (server.connect(), server.connect());
    assert_eq!(idle.ask("WHY"), "42\n");
    idle.stream.set_nonblocking(true).unwrap();
    let mut chunk = [0; 64];
    let len = eventually("the idle client to be closed", || {
        assert_eq!(busy.ask("WHY"), "42\n");
        match std::io::Read::read(&mut idle.stream, &mut chunk) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            read => Some(read.unwrap()),
        }
    });
    assert_eq!(&chunk[..len], b"closed: nothing came for 1s\n");
    assert_eq!(busy.ask("WHY"), "42\n");
}

#[test]
fn a_client_that_does_not_read_is_held_back_and_gets_every_reply_in_the_end() {
    let dir = tempdir().unwrap();
    let server = Server::alone(dir.path(), &[]);
    let mut client = server.connect();
    client.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let chunk = "WHY\n".repeat(1024);
    let mut sent = 0;
    let blocked = loop {
        match client.stream.write(chunk.as_bytes()) {
            Ok(len) => sent += len,
            Err(error) => break error.kind(),
        }
        assert!(sent < 256 << 20, "the server reads on although nobody reads its replies");
    };
    assert_eq!(blocked, ErrorKind::WouldBlock);
    assert_eq!(server.connect().ask("WHY"), "42\n");
    client.half_close();
    let replies = client.rest();
    let unended = usize::from(sent % 4 > 0);
    assert_eq!(replies.matches("42\n").count(), sent / 4 + unended * usize::from(sent % 4 == 3));
}

/// How long the server lets a client leave its replies unread.
const PATIENCE: Duration = Duration::from_secs(20);

/// Resident memory in KiB.
fn memory(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_crowd_that_does_not_read_costs_little_and_slows_nobody() {
    let dir = tempdir().unwrap();
    let server = Server::alone(dir.path(), &[]);
    let mut bystander = server.connect();
    assert_eq!(bystander.ask("WHY"), "42\n");
    let before = memory(&server);
    let slow = crowd(&server, 300);
    let chunk = "WHO\n".repeat(16 * 1024);
    let unread_since = Instant::now();
    for mut stream in &slow {
        stream.set_nonblocking(true).unwrap();
        // Until nothing more goes in.
        while stream.write(chunk.as_bytes()).is_ok() {}
    }
    for _ in 0..100 {
        let here = bystander.who().here;
        // A machine that is this busy has them cut off, as they are to be.
        if unread_since.elapsed() >= PATIENCE {
            break;
        }
        assert_eq!(here, 301);
    }
    let grown = memory(&server).saturating_sub(before);
    assert!(grown < 300 * 128, "{grown} KiB for 300 clients that do not read");
    drop(slow);
    // Each is in the middle of an answer: it ends when that fails.
    eventually("them to be gone", || (bystander.who().here == 1).then_some(()));
}

/// Each answer is long, and they read as fast as they ask.
#[test]
fn a_crowd_that_asks_on_and_on_costs_the_server_no_lease() {
    let world = World::sqlite();
    let server = Server::of_world(&world, "a", &["--register", "web", "--ttl", "2s"]);
    let registered = world.wait_for_registered("web", 1);
    let room = Room::take();
    let _crowd = crowd(&server, room.clients - 600);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let asking = crowd(&server, 75);
            scope.spawn(|| ask_on_and_on(asking, &stop));
        }
        let started = Instant::now();
        eventually("a few times to live to pass", || {
            let held = world.registered("web") == registered;
            stop.store(!held, Ordering::Relaxed);
            assert!(held, "the lease has ended; {}", server.process.tail());
            (started.elapsed() > Duration::from_secs(8)).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
    });
}

/// Asks on all of the connections, and reads whatever comes.
fn ask_on_and_on(mut asking: Vec<TcpStream>, stop: &AtomicBool) {
    let questions = "WHO\n".repeat(256);
    let mut chunk = vec![0; 1 << 20];
    asking.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    while !stop.load(Ordering::Relaxed) {
        for stream in &mut asking {
            // One that is full or empty waits for the next round.
            _ = stream.write(questions.as_bytes()).is_ok();
            _ = std::io::Read::read(stream, &mut chunk).is_ok();
        }
    }
}

#[test]
fn a_line_of_a_million_bytes_is_refused_and_kept_nowhere() {
    let dir = tempdir().unwrap();
    let server = Server::alone(dir.path(), &[]);
    let mut bystander = server.connect();
    assert_eq!(bystander.ask("WHY"), "42\n");
    let before = memory(&server);
    let line = "x".repeat(1_000_000);
    for _ in 0..50 {
        let mut client = server.connect();
        // The server may close before it has come to the end.
        _ = client.stream.write_all(line.as_bytes()).is_ok();
        let said = client.rest();
        assert!(said.is_empty() || said == "line too long: at most 512 bytes\n", "{said:?}");
        assert_eq!(bystander.ask("WHY"), "42\n");
    }
    eventually("them to be gone", || (bystander.who().here == 1).then_some(()));
    let grown = memory(&server).saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB after fifty such lines");
}

#[test]
fn a_crowd_that_says_nothing_ends_with_the_idle_time() {
    let dir = tempdir().unwrap();
    let server = Server::alone(dir.path(), &["--idle-timeout", "2s"]);
    let silent = crowd(&server, 1000);
    let mut asking = server.connect();
    assert_eq!(asking.who().here, silent.len() + 1);
    eventually("the silent ones to be gone", || (asking.who().here == 1).then_some(()));
}

/// Whoever is cut off without a word is asked for by the kernel: `cut.rs` waits for the answer.
#[test]
fn connections_are_kept_alive() {
    let dir = tempdir().unwrap();
    let server = Server::alone(dir.path(), &[]);
    let mut client = server.connect();
    assert_eq!(client.ask("WHY"), "42\n");
    let port = format!("sport = :{}", server.address.port());
    let shown = Command::new("ss").args(["-tnoH", "state", "established", &port]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("timer:(keepalive,"), "{shown:?}");
}

/// A server with a hard limit of open files.
fn with_open_files(dir: &Path, limit: u32, args: &[&str]) -> Server {
    let mut command = Command::new("sh");
    let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
    command.args(["-c", &script]).arg(lbctl()).args(["serve", "--store", "memory:"]);
    Server::of(dir, "few-files", &mut command, args)
}

#[test]
fn the_default_of_clients_is_what_the_open_files_allow_and_a_wish_is_warned_of() {
    let dir = tempdir().unwrap();
    let fitting = with_open_files(dir.path(), 400, &[]);
    let log = fitting.process.log();
    assert!(log.contains("max_clients=208") && !log.contains("WARN"), "{log}");
    let wished = with_open_files(dir.path(), 400, &["--max-clients", "209"]);
    assert!(wished.process.log().contains("raise it (ulimit -n"), "{}", wished.process.log());
    let modest = with_open_files(dir.path(), 400, &["--max-clients", "208"]);
    assert!(!modest.process.log().contains("open_files"), "{}", modest.process.log());
    let tiny = with_open_files(dir.path(), 40, &[]);
    assert!(tiny.process.log().contains("max_clients=20"), "{}", tiny.process.log());
}

/// Waits until the kernel knows of so many connections with the server: on a busy machine a reset
/// may arrive after a question that was sent later.
fn wait_for_connected(server: &Server, count: usize) {
    let here = format!(":{:04X}", server.address.port());
    let is_connected = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().is_some_and(|local| local.ends_with(&here));
        local && fields.nth(1) == Some(ESTABLISHED)
    };
    eventually(&format!("{count} connections"), || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        (table.lines().filter(|line| is_connected(line)).count() == count).then_some(())
    });
}

/// A state of /proc/net/tcp (proc(5)).
pub const ESTABLISHED: &str = "01";

/// Connections that say nothing.
pub fn crowd(server: &Server, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(server.address).unwrap()).collect()
}

/// The room for a crowd: ten thousand, or what this process may open. One test at a time has it.
pub struct Room {
    pub clients: usize,
    _alone: MutexGuard<'static, ()>,
}

impl Room {
    pub fn take() -> Self {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        static ONE: Mutex<()> = Mutex::new(());
        let _alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
        let half = maximum.map(|files| usize::try_from(files / 2).unwrap());
        Self { clients: half.unwrap_or(usize::MAX).min(10_000), _alone }
    }
}

#[test]
fn the_numbers_are_exact_right_after_ten_thousand_come_and_break_off() {
    let dir = tempdir().unwrap();
    let server = Server::alone(dir.path(), &[]);
    let mut asking = server.connect();
    let room = Room::take();
    let mut crowd = crowd(&server, room.clients);
    let who = asking.who();
    assert_eq!((who.here, who.clients.len()), (crowd.len() + 1, crowd.len() + 1));
    // Half of them without a FIN: closed by a reset, as by a host that goes down hard.
    let broken = crowd.split_off(crowd.len() / 2);
    for stream in &broken {
        rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
    }
    drop(broken);
    wait_for_connected(&server, crowd.len() + 1);
    let who = asking.who();
    assert_eq!((who.here, who.all), (crowd.len() + 1, (crowd.len() + 1).to_string()));
    drop(crowd);
    wait_for_connected(&server, 1);
    let who = asking.who();
    assert_eq!((who.here, &*who.all), (1, "1"));
}

#[test]
fn running_out_of_file_descriptors_is_survived() {
    let dir = tempdir().unwrap();
    let mut server = with_open_files(dir.path(), 40, &["--max-clients", "100"]);
    let mut first = server.connect();
    let others: Vec<Client> = (0..60).map(|_| server.connect()).collect();
    server.process.wait_for_log("accepting connections is failing");
    assert_eq!(first.ask("WHY"), "42\n");
    drop(others);
    assert_eq!(server.connect().ask("WHY"), "42\n");
    server.process.wait_for_log("accepting connections has recovered");
}

#[test]
fn the_numbers_are_exact_right_after_a_thousand_come_and_go() {
    let dir = tempdir().unwrap();
    let server = Server::alone(dir.path(), &[]);
    let mut asking = server.connect();
    assert_eq!(asking.who().here, 1);
    for _ in 0..3 {
        let crowd: Vec<Client> = (0..1000).map(|_| server.connect()).collect();
        let who = asking.who();
        assert_eq!((who.here, who.clients.len(), &*who.all), (1001, 1001, "1001"));
        drop(crowd);
        let who = asking.who();
        assert_eq!((who.here, &*who.all), (1, "1"));
    }
}

#[test]
fn health_probes_are_not_clients() {
    let dir = tempdir().unwrap();
    let server = Server::alone(dir.path(), &[]);
    let mut asking = server.connect();
    assert_eq!(asking.who().here, 1);
    for _ in 0..100 {
        drop(server.connect());
        assert_eq!(asking.who().here, 1);
    }
    // A client that only watches is one, once it has stayed.
    let watching = server.connect();
    eventually("a silent client to count", || {
        asking.who().clients.contains(&watching.address()).then_some(())
    });
}
