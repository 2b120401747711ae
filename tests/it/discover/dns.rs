//! `dns:` against a DNS server on loopback, which answers, fails, lies and falls silent.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use lbctl::daemon::{OwnedTask, spawn_owned};
use tokio::net::UdpSocket;

use super::World;
use crate::support::{Process, eventually, soak};

/// What the server does with a question.
#[derive(Debug, Clone)]
enum Mode {
    /// The addresses of every name.
    Addresses(Vec<Ipv4Addr>),
    /// Services at ports of one target, and the address of that.
    Services(Vec<u16>),
    Fails(ResponseCode),
    Silent,
    /// Bytes that are no message.
    Garbage,
    /// The first half of a right answer.
    Half(Vec<Ipv4Addr>),
}

struct Dns {
    address: SocketAddr,
    mode: Arc<Mutex<Mode>>,
    _task: OwnedTask<()>,
}

impl Dns {
    async fn start(mode: Mode) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (address, mode) = (socket.local_addr().unwrap(), Arc::new(Mutex::new(mode)));
        Self { address, mode: mode.clone(), _task: spawn_owned(serve(socket, mode)) }
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }
}

async fn serve(socket: UdpSocket, mode: Arc<Mutex<Mode>>) {
    let mut buffer = [0; 4096];
    loop {
        let (len, peer) = socket.recv_from(&mut buffer).await.unwrap();
        let mode = mode.lock().unwrap().clone();
        if let Some(reply) = reply(&buffer[..len], &mode) {
            socket.send_to(&reply, peer).await.unwrap();
        }
    }
}

fn reply(question: &[u8], mode: &Mode) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).unwrap();
    let query = question.queries[0].clone();
    let (name, kind) = (query.name().clone(), query.query_type());
    let mut reply = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.recursion_available = true;
    reply.add_query(query);
    let mut answer = |data: RData| {
        reply.add_answer(Record::from_rdata(name.clone(), 1, data));
    };
    match (mode, kind) {
        (Mode::Addresses(all) | Mode::Half(all), RecordType::A) => {
            all.iter().for_each(|ip| answer(RData::A(A(*ip))));
        }
        (Mode::Services(ports), RecordType::SRV) => {
            let target = Name::from_utf8("target.test.").unwrap();
            ports.iter().for_each(|port| answer(RData::SRV(SRV::new(1, 1, *port, target.clone()))));
        }
        (Mode::Services(_), RecordType::A) => answer(RData::A(A(Ipv4Addr::LOCALHOST))),
        (Mode::Fails(code), _) => reply.metadata.response_code = *code,
        (Mode::Silent, _) => return None,
        (Mode::Garbage, _) => return Some(vec![0xff; 40]),
        _ => {}
    }
    let bytes = reply.to_vec().unwrap();
    match mode {
        Mode::Half(_) => Some(bytes[..bytes.len() / 2].to_vec()),
        _ => Some(bytes),
    }
}

fn ips(last: &[u8]) -> Vec<Ipv4Addr> {
    last.iter().map(|last| Ipv4Addr::new(127, 0, 0, *last)).collect()
}

fn start(world: &World, dns: &Dns, source: &str) -> Process {
    let server = dns.address.to_string();
    let flags = ["--source", source, "--dns-server", &server, "--slots", "4"];
    world.start("discover", &flags)
}

const TWO: [&str; 2] = ["1 ready 127.0.0.1:80", "2 ready 127.0.0.2:80"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_are_followed_and_no_failure_of_the_server_removes_one() {
    let (world, dns) = (World::sqlite().await, Dns::start(Mode::Addresses(ips(&[1, 2]))).await);
    let mut discover = start(&world, &dns, "dns:web.test.:80");
    world.becomes(&discover, &TWO).await;
    for (round, (mode, says)) in [
        (Mode::Fails(ResponseCode::ServFail), "dns:web.test.:80: web.test."),
        (Mode::Fails(ResponseCode::NXDomain), "Non-Existent Domain"),
        (Mode::Addresses(Vec::new()), "has neither A nor AAAA records"),
        (Mode::Half(ips(&[1, 2])), "dns:web.test.:80: "),
        (Mode::Garbage, "dns:web.test.:80: "),
        (Mode::Silent, "dns:web.test.:80: "),
    ]
    .into_iter()
    // Each of the last takes the time that a question may take.
    .take(soak(4, 6))
    .enumerate()
    {
        let start = discover.log().len();
        dns.set(mode.clone());
        eventually(&format!("{mode:?}: {says:?}; {}", discover.tail()), || {
            // A failure may be said in one of two ways, and is said in any case.
            let log = discover.log();
            let said = &log[start..];
            (said.contains(says) || said.contains("is failing error=dns:web.test.")).then_some(())
        });
        assert_eq!(world.table().await.0, TWO, "{mode:?}");
        dns.set(Mode::Addresses(ips(&[2, 1])));
        eventually(&format!("to recover; {}", discover.tail()), || {
            (discover.log().matches("has recovered").count() > round).then_some(())
        });
    }
    assert_eq!(world.table().await.0, TWO);
    // A new address comes, and one that is gone drains.
    dns.set(Mode::Addresses(ips(&[2, 3])));
    let moved = ["1 drain 127.0.0.1:80", TWO[1], "3 ready 127.0.0.3:80"];
    world.becomes(&discover, &moved).await;
    dns.set(Mode::Silent);
    discover.signal("TERM");
    assert!(discover.wait().success(), "{}", discover.tail());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_come_with_their_ports() {
    let (world, dns) = (World::sqlite().await, Dns::start(Mode::Services(vec![8001, 8002])).await);
    let discover = start(&world, &dns, "dns:_http._tcp.test.");
    world.becomes(&discover, &["1 ready 127.0.0.1:8001", "2 ready 127.0.0.1:8002"]).await;
    dns.set(Mode::Services(vec![8002, 8003]));
    let moved = ["1 drain 127.0.0.1:8001", "2 ready 127.0.0.1:8002", "3 ready 127.0.0.1:8003"];
    world.becomes(&discover, &moved).await;
}
