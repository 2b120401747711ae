//! Clients that go without a word: the network between them and their server is cut, so that
//! neither a FIN nor a reset ever comes.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::bounds::{ESTABLISHED, Room};
use super::{Client, Server};
use crate::support::network::{Link, Network, address};
use crate::support::{DEADLINE, World, eventually};

const SERVERS: [usize; 2] = [0, 1];

/// The hosts of the clients that stay, and of those that are cut off.
const STAYING: usize = 2;
const CUT: usize = 3;

/// Long enough for the probes of thousands to get through on a busy machine.
const KEEPALIVE: Duration = Duration::from_secs(18);

/// For the kernel to see that an answer is not acknowledged, and for a busy machine to end
/// thousands of connections.
const SLACK: Duration = Duration::from_secs(5);

/// Longer than it takes to cut the network after an answer was sent. What is on the way arrives, and
/// nobody hears that it did.
const ON_THE_WAY: Duration = Duration::from_secs(8);

/// The clients that one host has on each server.
type Crowd = [Vec<TcpStream>; 2];

#[test]
fn half_of_ten_thousand_that_are_cut_off_without_a_word_count_no_more_and_the_others_do() {
    let Some(net) = Network::start(4) else { return };
    let room = Room::take();
    let world = World::sqlite();
    let servers = SERVERS.map(|host| start(&net, host, &world));
    let mut witnesses =
        SERVERS.map(|host| net.host(host).run(|| Client::connect(servers[host].address)));
    let [staying, cut] = [STAYING, CUT].map(|host| -> Crowd {
        net.host(host).run(|| SERVERS.map(|server| come(&servers[server], room.clients / 4)))
    });
    wait_for_listed(&mut witnesses, &[&staying, &cut]);

    // Some are in the middle of an answer, and the rest say nothing.
    SERVERS.iter().for_each(|server| net.set_link(*server, CUT, Link::slow(ON_THE_WAY)));
    let asking: Vec<&TcpStream> = cut.iter().flatten().step_by(10).collect();
    asking.iter().for_each(|client| ask(client));
    eventually("their answers to be on the way", || {
        let unacknowledged = SERVERS.map(|host| net.host(host).run(unacknowledged));
        (unacknowledged.iter().sum::<usize>() == asking.len()).then_some(())
    });
    net.isolate(CUT);
    let silent_since = Instant::now();
    wait_for_listed(&mut witnesses, &[&staying]);
    let noticed = silent_since.elapsed();
    assert!(noticed < KEEPALIVE + SLACK, "it took {noticed:?}");

    net.heal();
    for client in cut.iter().flatten() {
        ask(client);
        assert_eq!(end(client), ErrorKind::ConnectionReset);
    }
    for mut client in staying.iter().flatten() {
        ask(client);
        let mut answer = [0; 3];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"42\n");
    }
    let anew: Crowd = net.host(CUT).run(|| SERVERS.map(|server| come(&servers[server], 100)));
    wait_for_listed(&mut witnesses, &[&staying, &anew]);
    let clients = room.clients;
    eprintln!("of {clients} clients half were cut off, and counted for {noticed:.1?} more");
}

fn start(net: &Network, host: usize, world: &World) -> Server {
    let (ip, keepalive) = (address(host).to_string(), format!("{}s", KEEPALIVE.as_secs()));
    let args = ["-H", &ip, "--keepalive", &keepalive, "--idle-timeout", "0s"];
    let (dir, mut command) = (world.dir.path(), world.command(&["serve"]));
    net.host(host).run(|| Server::of(dir, &format!("serve-{host}"), &mut command, &args))
}

/// Clients that come one after the other. The kernel would probe those that came at once in one
/// burst, of which its queues lose what is beyond a thousand frames (`net.core.netdev_max_backlog`).
fn come(server: &Server, count: usize) -> Vec<TcpStream> {
    let come = |_| {
        #[expect(clippy::disallowed_methods, reason = "the pace of clients")]
        std::thread::sleep(Duration::from_millis(1));
        TcpStream::connect(server.address).unwrap()
    };
    (0..count).map(come).collect()
}

/// Waits until each server lists exactly the clients that it has of these crowds, and the one that
/// asks it; and counts those of both servers.
fn wait_for_listed(witnesses: &mut [Client; 2], crowds: &[&Crowd]) {
    let all: usize = crowds.iter().flat_map(|crowd| *crowd).map(Vec::len).sum();
    let all = (all + witnesses.len()).to_string();
    for (server, witness) in witnesses.iter_mut().enumerate() {
        let clients = crowds.iter().flat_map(|crowd| &crowd[server]);
        let mut wanted: Vec<String> =
            clients.map(|client| client.local_addr().unwrap().to_string()).collect();
        wanted.push(witness.address());
        wanted.sort();
        eventually(&format!("{} clients of {all} on server {server}", wanted.len()), || {
            let who = witness.who();
            (who.clients == wanted && who.all == all).then_some(())
        });
    }
}

fn ask(mut client: &TcpStream) {
    client.write_all(b"WHY\n").unwrap();
}

/// The error that a connection ends with, after what still came.
fn end(mut client: &TcpStream) -> ErrorKind {
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.read_to_end(&mut Vec::new()).expect_err("the server ended it in peace").kind()
}

/// How many connections of this namespace have sent what was not acknowledged (proc(5)).
fn unacknowledged() -> usize {
    // Not the namespace of the process, which is that of its first thread.
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let is_waiting = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[3] == ESTABLISHED && !fields[4].starts_with("00000000:")
    };
    table.lines().skip(1).filter(is_waiting).count()
}
