//! `lbctl sync-haproxy` is not HAProxy's only writer, and its configuration may mean other things by
//! what is set: places without a port, resolvers, agents, tracked servers, a person on the socket.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lbctl::model::{HaproxyReport, Ramp, SlotState, Weight, keys};
use lbctl::store::SharedStore;
use tempfile::TempDir;

use super::support::haproxy::{
    Backend, Client, Haproxy, NamedServer, Options, Version, on_every_haproxy,
};
use super::support::{Process, eventually, eventually_async, free_port};
use super::sync_haproxy::{open_store, put_slot, put_spec, sync_command, web};

on_every_haproxy! {
    places_without_a_port_keep_the_clients_port_through_a_reload,
    a_port_that_is_added_to_the_clients_is_given_back_and_told,
    places_with_a_resolver_are_told_before_the_first_command,
    a_small_buffer_gets_shorter_lines,
    a_persons_weight_of_zero_is_undone_without_ending_a_session,
    an_agents_drain_and_weight_stay,
    the_agent_of_an_added_server_is_asked,
    a_place_that_tracks_a_server_in_maint_is_told_and_left,
    added_servers_have_the_dynamic_cookies_of_their_backend,
    sockets_are_named_as_haproxy_names_them,
    a_prefix_may_end_in_a_digit,
    one_backend_has_servers_of_two_prefixes,
    names_of_two_hundred_characters_are_names,
    an_emptied_backend_is_seen_at_the_next_look,
}

pub const CHECK: &str = "check inter 100ms rise 2 fall 2";
const SLOTS: u32 = 2;

/// A HAProxy with a backend `app`, and a table `web`.
pub struct World {
    pub haproxy: Haproxy,
    pub store: SharedStore,
    folder: TempDir,
}

impl World {
    pub async fn start(version: Version, options: Options) -> Option<Self> {
        let haproxy = Haproxy::start(options.on(version))?;
        let folder = tempfile::tempdir().unwrap();
        let store = open_store(&folder).await;
        put_spec(&store, SLOTS, Ramp::flat(Weight::saturating(100))).await;
        Some(Self { haproxy, store, folder })
    }

    pub async fn ready(&self, number: u32, server: &NamedServer) {
        let id = format!("e{number}");
        put_slot(&self.store, number, &id, server.address(), SlotState::Ready).await;
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = sync_command(&self.folder, &self.haproxy.unix());
        command.args(["--name", "lb1", "--admin", "off"]).args(more);
        command
    }

    /// The daemon, which compares everything ten times a second.
    pub fn sync(&self, more: &[&str]) -> Process {
        let backend = ["--backend", "app/srv", "--resync", "100ms"];
        let mut command = self.command(&backend);
        Process::start("sync", self.folder.path(), command.args(more))
    }

    pub fn once(&self, more: &[&str]) -> Output {
        self.command(&["--backend", "app", "--once"]).args(more).output().unwrap()
    }

    pub async fn reported(
        &self,
        sync: &Process,
        what: &str,
        holds: impl Fn(&Told) -> bool,
    ) -> Told {
        let message = format!("{what}\n{}\n{}", sync.tail(), self.haproxy.tail());
        eventually_async(&message, async || {
            let entry = self.store.get(&keys::haproxy(&"lb1".parse().unwrap())).await.unwrap()?;
            let report: HaproxyReport = serde_json::from_slice(&entry.value).unwrap();
            let web = report.backends.get(&web())?;
            let told = Told { converged: web.converged, error: web.error.clone() };
            holds(&told).then_some(told)
        })
        .await
    }

    /// Several passes later: a change of the table has come, and another one.
    async fn passes(&self, sync: &Process) {
        for state in [SlotState::Ready, SlotState::Rest] {
            put_slot(&self.store, SLOTS, "clock", "127.0.0.1:1", state).await;
            let name = format!("srv{SLOTS}");
            eventually(&format!("slot {SLOTS} to be {state:?}\n{}", sync.tail()), || {
                let in_maint = self.haproxy.server("app", &name).state() == "maint";
                (in_maint == (state == SlotState::Rest)).then_some(())
            });
        }
    }

    pub fn served_by(&self, name: &str, sync: &Process) {
        eventually(&format!("{name} to serve\n{}", sync.tail()), || {
            (Client::ask_once(self.haproxy.frontend("app"))? == name).then_some(())
        });
    }
}

#[derive(Debug)]
pub struct Told {
    pub converged: bool,
    pub error: Option<String>,
}

pub fn app(words: &str) -> Backend {
    Backend::new("app", SLOTS).prefix("srv").server(words)
}

/// A backend whose places are written as they are.
fn written(line: &str) -> Backend {
    Backend::new("app", 0).line(line)
}

pub fn refused(output: &Output, expected: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains(expected), "{expected:?} is not in {said}");
}

async fn places_without_a_port_keep_the_clients_port_through_a_reload(version: Version) {
    let a = NamedServer::start("a", "127.0.0.2");
    let port = a.address().port();
    let backend = written("server-template srv 2 unused.invalid disabled init-addr last,127.0.0.9")
        .http()
        .line("load-server-state-from-file global")
        .line(&format!("http-request set-dst-port int({port})"));
    let Some(world) = World::start(version, Options::new([backend]).master()).await else { return };
    world.ready(1, &a).await;
    let state = world.haproxy.state_file();
    let sync = world.sync(&["--dump-state", state.to_str().unwrap()]);
    let served = || {
        eventually(&format!("a to serve\n{}", sync.tail()), || {
            (Client::get(world.haproxy.frontend("app"))? == "a").then_some(())
        });
        assert_eq!(world.haproxy.server("app", "srv1").address(), "127.0.0.2:0");
    };
    served();
    eventually("the state file", || {
        std::fs::read_to_string(&state).ok().filter(|text| text.contains("127.0.0.2"))
    });
    world.haproxy.reload();
    served();
    let told = world.reported(&sync, "convergence", |told| told.converged).await;
    assert_eq!(told.error, None);
    drop(sync);
    refused(&world.once(&["--port", "80"]), "127.0.0.2:80 check disabled");
}

async fn a_port_that_is_added_to_the_clients_is_given_back_and_told(version: Version) {
    for (port, shown) in [("+100", "100"), ("-100", "4294967196")] {
        let backend =
            written(&format!("server-template srv 2 127.0.0.9:{port} check port 9 disabled"));
        let Some(world) = World::start(version, Options::new([backend])).await else { return };
        let a = NamedServer::start("a", "127.0.0.2");
        world.ready(1, &a).await;
        refused(&world.once(&[]), "keep-port");
        let server = world.haproxy.server("app", "srv1");
        assert_eq!((server.get("srv_port"), server.state()), (shown, "maint"));
        // It is still added: HAProxy sees nothing to change.
        let reply = world.haproxy.raw(&format!("set server app/srv1 addr 127.0.0.3 port {port}"));
        assert!(!reply.contains("to '100'"), "the port was not given back: {reply}");
        let kept = world.once(&["--keep-port"]);
        assert!(kept.status.success(), "{}", String::from_utf8_lossy(&kept.stderr));
        let server = world.haproxy.server("app", "srv1");
        assert_eq!((server.get("srv_addr"), server.state()), ("127.0.0.2", "ready"));
    }
}

async fn places_with_a_resolver_are_told_before_the_first_command(version: Version) {
    let nobody = free_port();
    let resolvers = format!("nameserver n 127.0.0.1:{nobody}\n  hold timeout 100ms");
    let backend = written(
        "server-template srv 2 unused.invalid:80 check disabled init-addr last,127.0.0.9 resolvers r",
    );
    let options = Options::new([backend]).global(&format!("\nresolvers r\n  {resolvers}"));
    let Some(world) = World::start(version, options).await else { return };
    let a = NamedServer::start("a", "127.0.0.2");
    world.ready(1, &a).await;
    refused(&world.once(&[]), "\"resolvers\"");
    let server = world.haproxy.server("app", "srv1");
    assert_eq!((server.get("srv_addr"), server.state()), ("127.0.0.9", "maint"));
}

async fn a_small_buffer_gets_shorter_lines(version: Version) {
    const MANY: u32 = 150;
    let backend = Backend::new("app", MANY).prefix("srv");
    let options = Options::new([backend]).global("tune.bufsize 8192");
    let Some(world) = World::start(version, options).await else { return };
    put_spec(&world.store, MANY, Ramp::flat(Weight::saturating(100))).await;
    for number in 1..=MANY {
        let address = format!("127.0.1.{number}:80");
        put_slot(&world.store, number, &format!("e{number}"), address, SlotState::Ready).await;
    }
    let output = world.once(&[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let servers = world.haproxy.servers("app");
    assert!(servers.iter().all(|server| server.state() == "ready" && server.weight() == 100));
}

async fn a_persons_weight_of_zero_is_undone_without_ending_a_session(version: Version) {
    let backend = app(&format!("{CHECK} on-marked-down shutdown-sessions"));
    let Some(world) = World::start(version, Options::new([backend])).await else { return };
    let a = NamedServer::start("a", "127.0.0.2");
    world.ready(1, &a).await;
    let sync = world.sync(&[]);
    world.served_by("a", &sync);
    let mut session = Client::connect(world.haproxy.frontend("app")).unwrap();
    assert_eq!(session.ask().unwrap(), "a");
    world.haproxy.raw("set server app/srv1 weight 0");
    eventually(&format!("the weight to be given back\n{}", sync.tail()), || {
        (world.haproxy.server("app", "srv1").weight() == 100).then_some(())
    });
    assert_eq!(session.ask().unwrap(), "a", "the session was ended");
    eventually(&format!("a word of what was undone\n{}", sync.tail()), || {
        sync.tail().contains("app/srv1 was given weight 0 by another hand").then_some(())
    });
}

/// An agent beside the server on 127.0.0.2 that always answers the same, and how often it did.
fn agent(says: &'static str) -> (u16, Arc<AtomicU64>) {
    agent_at("127.0.0.2", says)
}

/// An agent, and how often it was asked.
pub fn agent_at(ip: &str, says: &'static str) -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicU64::new(0));
    let counted = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // HAProxy may have gone away.
            _ = stream.is_ok_and(|mut stream| stream.write_all(says.as_bytes()).is_ok());
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (port, asked)
}

async fn an_agents_drain_and_weight_stay(version: Version) {
    // In percent of the configured weight, which is 1.
    for (says, state, weight) in [("drain\n", "drain", 100), ("up 700%\n", "ready", 7)] {
        let (port, _) = agent(says);
        let words = format!("{CHECK} agent-check agent-inter 200ms agent-port {port}");
        let backend = app(&words).line("balance roundrobin");
        let Some(world) = World::start(version, Options::new([backend])).await else { return };
        let a = NamedServer::start("a", "127.0.0.2");
        world.ready(1, &a).await;
        let sync = world.sync(&[]);
        let is_the_agents = || {
            let server = world.haproxy.server("app", "srv1");
            (server.state() == state && server.weight() == weight).then_some(())
        };
        eventually(&format!("the agent's {says:?}\n{}", sync.tail()), is_the_agents);
        for _ in 0..3 {
            world.passes(&sync).await;
            assert_eq!(is_the_agents(), Some(()), "{says:?} was undone\n{}", sync.tail());
        }
        let told = world.reported(&sync, "convergence", |told| told.converged).await;
        assert_eq!(told.error, None);
    }
}

async fn the_agent_of_an_added_server_is_asked(version: Version) {
    let (port, asked) = agent("up\n");
    let Some(world) = World::start(version, Options::new([Backend::new("app", 0)])).await else {
        return;
    };
    let a = NamedServer::start("a", "127.0.0.2");
    world.ready(1, &a).await;
    let options = format!("{CHECK} agent-check agent-inter 200ms agent-port {port}");
    let sync = world.sync(&["--mode", "dynamic", "--server-options", &options]);
    world.served_by("a", &sync);
    eventually(&format!("the agent to be asked\n{}", sync.tail()), || {
        (asked.load(Ordering::SeqCst) > 0).then_some(())
    });
}

async fn a_place_that_tracks_a_server_in_maint_is_told_and_left(version: Version) {
    let leader = NamedServer::start("leader", "127.0.0.4");
    let other = Backend::new("other", 0).line(&format!("server s1 {} {CHECK}", leader.address()));
    let backends = [other, app("track other/s1")];
    let Some(world) = World::start(version, Options::new(backends)).await else { return };
    let a = NamedServer::start("a", "127.0.0.2");
    world.ready(1, &a).await;
    let sync = world.sync(&[]);
    world.served_by("a", &sync);
    world.haproxy.raw("set server other/s1 state maint");
    let tells = |told: &Told| told.error.as_ref().is_some_and(|e| e.contains("app/srv1 follows"));
    world.reported(&sync, "the server that it tracks", tells).await;
    world.haproxy.raw("set server other/s1 state ready");
    world.served_by("a", &sync);
    world.reported(&sync, "no error", |told| told.error.is_none()).await;
}

async fn added_servers_have_the_dynamic_cookies_of_their_backend(version: Version) {
    let backend = Backend::new("app", 0)
        .http()
        .line("cookie SRV insert indirect nocache dynamic")
        .line("dynamic-cookie-key secret");
    let Some(world) = World::start(version, Options::new([backend])).await else { return };
    let a = NamedServer::start("a", "127.0.0.2");
    world.ready(1, &a).await;
    let output = world.once(&["--mode", "dynamic"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stat = world.haproxy.raw("show stat app 4 -1");
    let mut lines = stat.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let at = |name: &str| header.iter().position(|column| *column == name).unwrap();
    let server = lines.find(|row| row.get(at("svname")) == Some(&"srv1")).unwrap();
    assert!(!server[at("cookie")].is_empty(), "{stat}");
}

async fn sockets_are_named_as_haproxy_names_them(version: Version) {
    let name = format!("lbctl-test-{}-{}", std::process::id(), version.name());
    let options = Options::new([app("")]).global(&format!("stats socket abns@{name} level admin"));
    let Some(world) = World::start(version, options).await else { return };
    let tcp = world.haproxy.tcp();
    let unix = world.haproxy.unix();
    for socket in [format!("abns@{name}"), format!("ipv4@{tcp}"), format!("unix@{unix}")] {
        let mut command = sync_command(&world.folder, &socket.parse().unwrap());
        let output = command.args(["--backend", "app", "--dry-run"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{socket}: {said}");
    }
}

async fn a_prefix_may_end_in_a_digit(version: Version) {
    let backend = Backend::new("app", 12).prefix("pg15");
    for named in ["app", "app/pg15"] {
        let options = Options::new([backend.clone()]);
        let Some(world) = World::start(version, options).await else { return };
        let a = NamedServer::start("a", "127.0.0.2");
        world.ready(1, &a).await;
        let mut command = world.command(&["--backend", named, "--once"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(world.haproxy.server("app", "pg151").address(), a.address().to_string());
    }
}

async fn one_backend_has_servers_of_two_prefixes(version: Version) {
    let backend = Backend::new("app", SLOTS)
        .prefix("srv")
        .line("server-template spare 2 127.0.0.1:9 backup disabled");
    let Some(world) = World::start(version, Options::new([backend])).await else { return };
    let (a, b) = (NamedServer::start("a", "127.0.0.2"), NamedServer::start("b", "127.0.0.3"));
    world.ready(1, &a).await;
    world.ready(2, &b).await;
    let file = world.folder.path().join("two.toml");
    let text = "[[sync-haproxy.backends]]\nbackend = \"app/srv\"\nfrom = \"web\"\ngroups = [\"none\"]\n\
                [[sync-haproxy.backends]]\nbackend = \"app/spare\"\nfrom = \"web\"\n";
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(super::support::lbctl());
    let store = format!("sqlite:{}", world.folder.path().join("store.db").display());
    command.args(["sync-haproxy", "--once", "--store", &store, "--socket"]);
    command.arg(world.haproxy.socket_path()).arg("--config").arg(&file);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let state = |name: &str| world.haproxy.server("app", name).state();
    assert_eq!(["srv1", "srv2"].map(state), ["maint", "maint"], "no server is of that group");
    assert_eq!(["spare1", "spare2"].map(state), ["ready", "ready"]);
}

async fn an_emptied_backend_is_seen_at_the_next_look(version: Version) {
    let Some(world) = World::start(version, Options::new([app(CHECK)])).await else { return };
    let a = NamedServer::start("a", "127.0.0.2");
    world.ready(1, &a).await;
    let mut command = world.command(&["--backend", "app/srv", "--resync", "1h"]);
    let sync = Process::start("sync", world.folder.path(), &mut command);
    world.served_by("a", &sync);
    world.reported(&sync, "convergence", |told| told.converged).await;
    world.haproxy.raw("set server app/srv1 state maint");
    let started = std::time::Instant::now();
    world.served_by("a", &sync);
    assert!(started.elapsed() < Duration::from_secs(8), "{}", sync.tail());
}

async fn names_of_two_hundred_characters_are_names(version: Version) {
    let long = |letter: &str| letter.repeat(200);
    let (places, added, prefix) = (long("p"), long("d"), long("s"));
    let backends = [
        Backend::new(&places, SLOTS).http().prefix(&prefix).server(CHECK),
        Backend::new(&added, 0).http(),
    ];
    let Some(world) = World::start(version, Options::new(backends)).await else { return };
    let servers = [NamedServer::start("a", "127.0.0.2"), NamedServer::start("b", "127.0.0.3")];
    for (number, server) in (1..).zip(&servers) {
        world.ready(number, server).await;
    }
    let (places_ref, added_ref) = (format!("{places}/{prefix}"), format!("{added}/{prefix}"));
    for (backend, target, more) in [
        (&places, &places_ref, &[][..]),
        (&added, &added_ref, &["--mode", "dynamic", "--server-options", CHECK]),
    ] {
        for _ in 0..2 {
            let mut command = world.command(&["--once", "--backend", target]);
            let output = command.args(more).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        for (number, server) in (1..).zip(&servers) {
            let there = world.haproxy.server(backend, &format!("{prefix}{number}"));
            assert_eq!((there.state(), there.address()), ("ready", server.address().to_string()));
        }
        eventually("a server to answer", || Client::ask_once(world.haproxy.frontend(backend)));
    }
    let too_long = "x".repeat(256);
    let output = world.command(&["--once", "--backend", &too_long]).output().unwrap();
    refused(&output, "is longer than 255 bytes");
}
