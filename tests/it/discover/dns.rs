//! `dns:` against a DNS server on loopback, which answers, fails, lies and falls silent.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use lbctl::daemon::{OwnedTask, spawn_owned};
use tokio::net::UdpSocket;

use super::{World, text};
use crate::support::{Process, eventually, eventually_async, soak};

/// What the server does with a question.
#[derive(Debug, Clone)]
enum Mode {
    /// The addresses of every name.
    Addresses(Vec<Ipv4Addr>),
    /// Services at ports of one target, and the address of that.
    Services(Vec<u16>),
    /// A service at port 389 of each host, and its addresses; none: the name is gone.
    Hosts(Vec<(&'static str, Vec<IpAddr>)>),
    /// As that, and no answer at all to AAAA.
    HostsWithSilence(Vec<(&'static str, Vec<IpAddr>)>),
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
        (Mode::HostsWithSilence(_), RecordType::AAAA) => return None,
        (Mode::Hosts(hosts) | Mode::HostsWithSilence(hosts), RecordType::SRV) => {
            hosts.iter().for_each(|(host, _)| {
                let target = Name::from_utf8(format!("{host}.")).unwrap();
                answer(RData::SRV(SRV::new(0, 100, 389, target)));
            });
        }
        (Mode::Hosts(hosts) | Mode::HostsWithSilence(hosts), _) => {
            let name = name.to_utf8();
            let host = hosts.iter().find(|(host, _)| *host == name.trim_end_matches('.'));
            match host.map_or(&[][..], |(_, ips)| ips) {
                [] => reply.metadata.response_code = ResponseCode::NXDomain,
                ips => ips.iter().filter(|ip| ip.is_ipv6() == (kind == RecordType::AAAA)).for_each(
                    |ip| match ip {
                        IpAddr::V4(ip) => answer(RData::A(A(*ip))),
                        IpAddr::V6(ip) => answer(RData::AAAA(AAAA(*ip))),
                    },
                ),
            }
        }
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

fn host(name: &'static str, ips: &[&str]) -> (&'static str, Vec<IpAddr>) {
    (name, ips.iter().map(|ip| ip.parse().unwrap()).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_whose_name_is_gone_stays_and_stops_no_other() {
    let (dc1, dc2, dc3) = (
        host("dc1.ad", &["127.0.0.21"]),
        host("dc2.ad", &["127.0.0.22"]),
        host("dc3.ad", &["127.0.0.23"]),
    );
    let dns = Dns::start(Mode::Hosts(vec![dc1.clone(), dc2])).await;
    let world = World::sqlite().await;
    let discover = start(&world, &dns, "dns:_ldap._tcp.ad.");
    let two = ["1 ready 127.0.0.21:389", "2 ready 127.0.0.22:389"];
    world.becomes(&discover, &two).await;
    // A domain controller was demoted, and its SRV record forgotten.
    dns.set(Mode::Hosts(vec![dc1.clone(), host("dc2.ad", &[]), dc3.clone()]));
    let three = [two[0], two[1], "3 ready 127.0.0.23:389"];
    world.becomes(&discover, &three).await;
    discover_says(&discover, "the servers of dc2.ad stay as they are");
    world.stays(&three).await;
    // Another process has never seen its address.
    drop(discover);
    let discover = start(&world, &dns, "dns:_ldap._tcp.ad.");
    discover_says(&discover, "the servers of dc2.ad stay as they are");
    world.stays(&three).await;
    // Others come and go meanwhile, and it goes once its record does.
    dns.set(Mode::Hosts(vec![dc1.clone(), host("dc2.ad", &[])]));
    world.becomes(&discover, &[two[0], two[1], "3 drain 127.0.0.23:389"]).await;
    dns.set(Mode::Hosts(vec![dc1, dc3]));
    world.becomes(&discover, &[two[0], "2 drain 127.0.0.22:389", three[2]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_family_that_nobody_answers_for_holds_up_no_other() {
    let (first, both) =
        (host("web.test", &["127.0.0.1"]), host("web.test", &["127.0.0.1", "127.0.0.2"]));
    let dns = Dns::start(Mode::HostsWithSilence(vec![first])).await;
    let world = World::sqlite().await;
    let discover = start(&world, &dns, "dns:web.test.:80");
    world.becomes(&discover, &TWO[..1]).await;
    discover_says(&discover, "the servers of this family stay as they are");
    dns.set(Mode::HostsWithSilence(vec![both]));
    world.becomes(&discover, &TWO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_of_both_families_takes_the_slots_that_are_wanted() {
    let dns = Dns::start(Mode::Hosts(vec![host("dual.test", &["127.0.0.1", "2001:db8::1"])])).await;
    let (server, world) = (dns.address.to_string(), World::sqlite().await);
    let placed = |more: &[&str]| {
        let flags = ["--dns-server", &server, "--slots", "4", "--dry-run", "--source"];
        let output = world.run(&[&flags[..], &["dns:dual.test.:80"], more].concat());
        assert!(output.status.success(), "{output:?}");
        let (plan, log) = (text(&output.stdout), text(&output.stderr));
        let has = |address| plan.contains(address);
        (has("127.0.0.1:80"), has("[2001:db8::1]:80"), log.contains("resolve = \"ipv4\""))
    };
    assert_eq!(placed(&[]), (true, true, true));
    assert_eq!(placed(&["--resolve", "ipv4"]), (true, false, false));
    assert_eq!(placed(&["--resolve", "ipv6"]), (false, true, false));
    assert_eq!(placed(&["--resolve", "both"]), (true, true, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_names_of_a_list_are_followed_and_kept_while_nobody_answers_for_them() {
    let app = |ip| Mode::Hosts(vec![host("app.test", &[ip]), host("gone.test", &[])]);
    let (dns, world) = (Dns::start(app("127.0.0.1")).await, World::sqlite().await);
    let list = "- 127.0.0.9:9\n- app.test:80\n- gone.test:80\n";
    let source = world.file("web.yaml", list);
    let discover = start(&world, &dns, &source);
    let both = ["1 ready 127.0.0.9:9", "2 ready app.test:80"];
    world.becomes(&discover, &both).await;
    discover_says(&discover, "server gone.test:80 is neither placed nor moved");
    dns.set(Mode::Fails(ResponseCode::ServFail));
    discover_says(&discover, "app.test stays at 127.0.0.1");
    world.stays(&both).await;
    // Another address of the same server: it moves to a free slot.
    dns.set(app("127.0.0.2"));
    world.becomes(&discover, &[both[0], "2 drain app.test:80", "3 ready app.test:80"]).await;
    // Another process never saw an address, and leaves what is there.
    drop(discover);
    dns.set(Mode::Fails(ResponseCode::ServFail));
    let discover = start(&world, &dns, &source);
    discover_says(&discover, "server app.test:80 is neither placed nor moved");
    let (table, _) = world.table().await;
    assert!(table.contains(&"3 ready app.test:80".to_owned()), "{table:?}");
    // Literal addresses need nobody, and a change of the list is followed meanwhile.
    dns.set(Mode::Silent);
    std::fs::write(world.dir.path().join("new"), format!("{list}- 127.0.0.8:8\n")).unwrap();
    std::fs::rename(world.dir.path().join("new"), world.dir.path().join("web.yaml")).unwrap();
    eventually_async(&format!("the new one; {}", discover.tail()), async || {
        world.table().await.0.iter().any(|line| line.ends_with("ready 127.0.0.8:8")).then_some(())
    })
    .await;
}

fn discover_says(discover: &Process, text: &str) {
    eventually(&format!("{text:?} to be said; {}", discover.tail()), || {
        discover.log().contains(text).then_some(())
    });
}
