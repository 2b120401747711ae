//! The main path with everything real: servers that register, discover, sync-haproxy and a HAProxy
//! with clients that never stop, on the embedded store, on etcd and on DynamoDB.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::support::etcd::{self, Etcd};
use super::support::haproxy::{Backend, Client, Haproxy, Options};
use super::support::{Process, World, eventually, free_port};

/// How long a lease lives here: the shortest that etcd grants is 2 s.
const TTL: &str = "3s";

/// Longer than every lease.
const OUTAGE: Duration = Duration::from_secs(7);

/// A HAProxy with four places, the two daemons and their store.
struct Fleet {
    world: World,
    haproxy: Haproxy,
    discover: Process,
    sync: Process,
    admins: BTreeMap<&'static str, u16>,
}

impl Fleet {
    fn start(world: World) -> Option<Self> {
        // Without the file a reload would begin with no servers at all.
        let app = Backend::new("app", 4).checked().loaded();
        let haproxy = Haproxy::start(Options::new([app]).master())?;
        let admins = BTreeMap::from(["discover", "sync"].map(|name| (name, free_port())));
        let discover = discover(&world, admins["discover"]);
        let sync = sync(&world, &haproxy, admins["sync"]);
        Some(Self { world, haproxy, discover, sync, admins })
    }

    /// `lbctl serve` on a free port, registered.
    fn serve(&self, id: &str) -> Process {
        let port = free_port().to_string();
        let place = ["serve", "-H", "127.0.0.1", "-p", &port, "--id", id, "--register", "web"];
        let rest = ["--ttl", TTL, "--admin", "off", "--shutdown-grace", "60s"];
        self.world.start(id, &[&place[..], &rest].concat())
    }

    /// Waits until so many places of HAProxy take traffic.
    fn wait_for_serving(&self, count: usize) {
        let said = || format!("{}\n{}", self.sync.tail(), self.discover.tail());
        eventually(&format!("{count} servers to serve\n{}", said()), || {
            let servers = self.haproxy.servers("app");
            let serving = servers.iter().filter(|s| s.state() == "ready" && s.is_up()).count();
            (serving == count).then_some(())
        });
    }

    /// Waits until a slot's state is this one, or until it is free.
    fn wait_for_slot(&self, number: u32, state: Option<&str>) {
        let key = format!("backends/web/slots/{number:05}");
        eventually(&format!("slot {number} to be {state:?}\n{}", self.discover.tail()), || {
            let record = self.world.get(&key);
            let is = match (state, &record) {
                (None, None) => true,
                (Some(state), Some(record)) => record.contains(&format!("\"state\":\"{state}\"")),
                _ => false,
            };
            is.then_some(())
        });
    }

    /// What an admin server says under a path.
    fn ask(&self, daemon: &str, path: &str) -> String {
        http(self.admins[daemon], path)
    }

    /// A session with a certain server.
    fn hold(&self, id: &str) -> Client {
        eventually(&format!("a session with {id}"), || {
            let mut client = Client::connect(self.haproxy.frontend("app")).ok()?;
            (whereabouts(&mut client) == id).then_some(client)
        })
    }

    fn clients(&self) -> Crowd {
        Crowd::start(self.haproxy.frontend("app"))
    }
}

fn discover(world: &World, admin: u16) -> Process {
    let admin = format!("127.0.0.1:{admin}");
    let what = ["discover", "--backend", "web", "--source", "registry", "--slots", "4"];
    let times = ["--rest", "1s", "--min-weight", "100", "--ttl", TTL, "--admin", &admin];
    world.start("discover", &[&what[..], &times].concat())
}

fn sync(world: &World, haproxy: &Haproxy, admin: u16) -> Process {
    let admin = format!("127.0.0.1:{admin}");
    let (socket, dump) = (haproxy.master().to_string(), haproxy.state_file());
    let from = ["sync-haproxy", "--socket", &socket, "--backend", "app", "--from", "web"];
    let rest = ["--name", "lb1", "--admin", &admin, "--dump-state", dump.to_str().unwrap()];
    world.start("sync", &[&from[..], &rest].concat())
}

#[expect(clippy::disallowed_methods, reason = "the pace of clients and the length of an outage")]
fn wait_out(time: Duration) {
    std::thread::sleep(time);
}

fn whereabouts(client: &mut Client) -> String {
    client.ask_for("WHERE").unwrap_or_default()
}

fn http(port: u16, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return String::new() };
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut reply = String::new();
    let asked = write!(stream, "GET {path} HTTP/1.0\r\n\r\n");
    if asked.is_err() || stream.read_to_string(&mut reply).is_err() {
        return String::new();
    }
    reply
}

/// Clients that come one after the other, whatever happens to those before them.
struct Crowd {
    state: Arc<CrowdState>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct CrowdState {
    stop: AtomicBool,
    served: AtomicU64,
    failed: Mutex<Vec<String>>,
    /// Who served the last ones.
    seen: Mutex<BTreeSet<String>>,
}

impl Crowd {
    fn start(address: SocketAddr) -> Self {
        let state = Arc::new(CrowdState::default());
        let shared = state.clone();
        let thread = std::thread::spawn(move || shared.run(address));
        Self { state, thread: Some(thread) }
    }

    /// Who serves from now on, seen over at least `count` clients.
    fn served_by(&self, count: u64) -> BTreeSet<String> {
        self.state.seen.lock().unwrap().clear();
        let before = self.state.served.load(Ordering::SeqCst);
        eventually("clients to be served", || {
            (self.state.served.load(Ordering::SeqCst) >= before + count).then_some(())
        });
        self.state.seen.lock().unwrap().clone()
    }

    /// Ends, and answers how many were served; every one must have been.
    fn end(mut self) -> u64 {
        self.state.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        let failed = self.state.failed.lock().unwrap();
        let served = self.state.served.load(Ordering::SeqCst);
        assert!(failed.is_empty(), "{} of {} failed: {failed:?}", failed.len(), served);
        served
    }
}

impl CrowdState {
    fn run(self: Arc<Self>, address: SocketAddr) {
        let started = Instant::now();
        while !self.stop.load(Ordering::SeqCst) {
            let shared = self.clone();
            // Open loop: a client that hangs keeps no other from coming.
            std::thread::spawn(move || shared.one(address, started));
            wait_out(Duration::from_millis(20));
        }
    }

    fn one(&self, address: SocketAddr, started: Instant) {
        let answer = Client::connect(address).and_then(|mut client| client.ask_for("WHERE"));
        match answer {
            Ok(id) if !id.is_empty() => {
                self.seen.lock().unwrap().insert(id);
                self.served.fetch_add(1, Ordering::SeqCst);
            }
            other => {
                let at = started.elapsed();
                self.failed.lock().unwrap().push(format!("{other:?} at {at:?}"));
            }
        }
    }
}

fn stores() -> impl Iterator<Item = World> {
    std::iter::once(World::sqlite()).chain(World::etcd()).chain(World::dynamodb())
}

#[test]
fn a_server_leaves_under_live_clients_and_none_of_them_notices() {
    for world in stores() {
        let Some(mut fleet) = Fleet::start(world) else { return };
        let mut a = fleet.serve("a");
        fleet.wait_for_serving(1);
        let _b = fleet.serve("b");
        fleet.wait_for_serving(2);
        let crowd = fleet.clients();
        let mut held = fleet.hold("a");
        a.signal("TERM");
        fleet.wait_for_slot(1, Some("drain"));
        // The leader dies in the middle, and a successor goes on from the store.
        fleet.discover.kill();
        fleet.discover = discover(&fleet.world, fleet.admins["discover"]);
        eventually("a drained in HAProxy", || {
            (fleet.haproxy.server("app", "s1").state() == "drain").then_some(())
        });
        assert_eq!(crowd.served_by(50), BTreeSet::from(["b".to_owned()]));
        assert_eq!(whereabouts(&mut held), "a", "the held session was cut");
        assert!(a.is_running(), "{}", a.tail());
        // Its successor comes before it has gone, and gets another slot.
        let _c = fleet.serve("c");
        fleet.wait_for_serving(2);
        assert_eq!(fleet.haproxy.server("app", "s1").state(), "drain");
        drop(held);
        assert!(a.wait().success(), "{}", a.tail());
        fleet.wait_for_slot(1, None);
        let _d = fleet.serve("d");
        fleet.wait_for_serving(3);
        assert_eq!(fleet.haproxy.server("app", "s1").state(), "ready");
        let all = BTreeSet::from(["b", "c", "d"].map(str::to_owned));
        assert_eq!(crowd.served_by(50), all);
        crowd.end();
    }
}

/// HAProxy's old worker keeps the held session; the new one begins with what the old one had.
#[test]
fn a_reload_in_the_middle_of_a_drain_costs_nothing() {
    let Some(fleet) = Fleet::start(World::sqlite()) else { return };
    let mut a = fleet.serve("a");
    fleet.wait_for_serving(1);
    let _b = fleet.serve("b");
    fleet.wait_for_serving(2);
    let crowd = fleet.clients();
    let mut held = fleet.hold("a");
    a.signal("TERM");
    eventually("a drained in HAProxy", || {
        (fleet.haproxy.server("app", "s1").state() == "drain").then_some(())
    });
    eventually("the state file to have it", || {
        let state = std::fs::read_to_string(fleet.haproxy.state_file()).ok()?;
        let row = state.lines().find(|line| line.contains(" s1 "))?;
        (row.split(' ').nth(6) != Some("0")).then_some(())
    });
    fleet.haproxy.reload();
    assert_eq!(crowd.served_by(50), BTreeSet::from(["b".to_owned()]));
    assert_eq!(whereabouts(&mut held), "a", "the held session was cut");
    assert!(a.is_running(), "{}", a.tail());
    drop(held);
    assert!(a.wait().success(), "{}", a.tail());
    fleet.wait_for_slot(1, None);
    crowd.end();
}

/// Four servers go through an outage of the store that ends every lease: nobody notices, and the
/// table is afterwards what it was before.
fn an_outage_costs_nothing(world: World, outage: impl FnOnce(&dyn Fn())) {
    let Some(fleet) = Fleet::start(world) else { return };
    let ids = ["a", "b", "c", "d"];
    let _servers = ids.map(|id| fleet.serve(id));
    fleet.wait_for_serving(4);
    for daemon in ["discover", "sync"] {
        eventually("a daemon to be ready", || {
            fleet.ask(daemon, "/readyz").contains("200 OK").then_some(())
        });
    }
    let table = fleet.world.list("backends/web/slots");
    let crowd = fleet.clients();
    outage(&|| {
        for daemon in ["discover", "sync"] {
            eventually(&format!("{daemon} to say that the store is away"), || {
                let said = fleet.ask(daemon, "/readyz");
                (said.contains("503") && said.contains("store")).then_some(())
            });
        }
    });
    eventually("every server to be registered again", || {
        let status = fleet.ask("discover", "/status");
        let whole = status.contains("\"endpoints\":4") && status.contains("\"leads\":true");
        (whole && fleet.world.registered("web").len() == 4).then_some(())
    });
    for daemon in ["discover", "sync"] {
        eventually(&format!("{daemon} to be ready again"), || {
            fleet.ask(daemon, "/readyz").contains("200 OK").then_some(())
        });
    }
    assert_eq!(crowd.served_by(50), BTreeSet::from(ids.map(str::to_owned)));
    assert_eq!(fleet.world.list("backends/web/slots"), table, "{}", fleet.discover.tail());
    crowd.end();
    // Turns, not tries.
    let log = fleet.discover.log();
    assert!(log.lines().count() < 60, "{log}");
}

#[test]
fn etcd_killed_for_longer_than_every_lease_costs_nothing() {
    let Some(mut etcd) = Etcd::start() else { return };
    let world = World::at(tempfile::tempdir().unwrap(), etcd.url("outage"), None);
    an_outage_costs_nothing(world, |away| {
        let since = Instant::now();
        etcd.kill(0);
        away();
        wait_out(OUTAGE.saturating_sub(since.elapsed()));
        etcd.restart(0);
    });
}

/// One member of three answers, and can do nothing.
#[test]
fn etcd_without_its_majority_for_longer_than_every_lease_costs_nothing() {
    let Some(mut etcd) = Etcd::start_with(3, etcd::Options::default()) else { return };
    let world = World::at(tempfile::tempdir().unwrap(), etcd.url("outage"), None);
    an_outage_costs_nothing(world, |away| {
        let since = Instant::now();
        etcd.kill(0);
        etcd.kill(1);
        away();
        wait_out(OUTAGE.saturating_sub(since.elapsed()));
        etcd.launch(0);
        etcd.restart(1);
    });
}

/// Unlike a killed one, it ends all leases at once when it goes on.
#[test]
fn etcd_paused_for_longer_than_every_lease_costs_nothing() {
    let Some(mut etcd) = Etcd::start() else { return };
    let world = World::at(tempfile::tempdir().unwrap(), etcd.url("outage"), None);
    an_outage_costs_nothing(world, |_| {
        etcd.pause(0);
        wait_out(OUTAGE);
        etcd.resume(0);
    });
}
