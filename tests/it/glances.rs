//! After a few changes among many servers sync-haproxy looks at those alone, and believes nothing
//! that it has not seen.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lbctl::commands::sync_haproxy::{
    Engine, Filter, Held, Licence, Mode, Pass, Selector, Table, Target, View, Views,
};
use lbctl::haproxy::{Client, SocketAddress, Timeouts};
use lbctl::hsdo::TableLayout;
use lbctl::model::{
    BackendSpec, Ramp, ServerAddress, SlotNumber, SlotRecord, SlotState, Timestamp, Weight,
};
use lbctl::store::{Revision, StoreLife};
use tokio::task::block_in_place;

use super::support::endpoint;
use super::support::haproxy::{Backend, Haproxy, Options, Version, on_every_haproxy};

on_every_haproxy! {
    one_change_is_seen_in_the_changed_server_alone,
    a_weight_takes_two_exchanges,
    a_change_that_did_not_happen_is_made_again,
    a_refused_command_is_looked_at_anew,
    a_look_that_cannot_be_read_is_taken_anew,
}

/// Enough that a glance is worth it.
const SLOTS: u32 = 100;
const STATE: &str = "show servers state app";

/// A way to HAProxy's socket that notes each line of commands, and may alter one.
struct Way {
    path: PathBuf,
    said: Arc<Mutex<Said>>,
}

#[derive(Default)]
struct Said {
    lines: Vec<String>,
    /// Takes the place of another text in the next line that has it.
    instead: Option<(String, String)>,
}

impl Way {
    fn to(socket: PathBuf, dir: &Path) -> Self {
        let path = dir.join("way.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let said = Arc::new(Mutex::new(Said::default()));
        let shared = said.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                // HAProxy ends with the test.
                let (Ok(client), Ok(server)) = (client, UnixStream::connect(&socket)) else {
                    return;
                };
                carry(client, server, shared.clone());
            }
        });
        Self { path, said }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.said.lock().unwrap().lines)
    }

    fn alter(&self, from: &str, to: &str) {
        self.said.lock().unwrap().instead = Some((from.to_owned(), to.to_owned()));
    }
}

fn carry(client: UnixStream, server: UnixStream, said: Arc<Mutex<Said>>) {
    let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    std::thread::spawn(move || {
        // Either side may go at any time.
        _ = std::io::copy(&mut from, &mut to).is_ok();
        _ = to.shutdown(Shutdown::Both).is_ok();
    });
    std::thread::spawn(move || {
        for line in BufReader::new(client).lines() {
            let Ok(line) = line else { break };
            if (&server).write_all(format!("{}\n", note(&said, line)).as_bytes()).is_err() {
                break;
            }
        }
        _ = server.shutdown(Shutdown::Both).is_ok();
    });
}

fn note(said: &Mutex<Said>, line: String) -> String {
    let mut said = said.lock().unwrap();
    said.lines.push(line.clone());
    match said.instead.take() {
        Some((from, to)) if line.contains(&from) => line.replace(&from, &to),
        instead => {
            said.instead = instead;
            line
        }
    }
}

struct World {
    haproxy: Haproxy,
    way: Way,
    engine: Engine,
    table: Table,
}

impl World {
    async fn start(version: Version) -> Option<Self> {
        let options = Options::new([Backend::new("app", SLOTS).prefix("srv")]).on(version);
        let haproxy = block_in_place(|| Haproxy::start(options))?;
        let way = Way::to(haproxy.socket_path(), haproxy.dir());
        let target = Target {
            backend: "app".parse().unwrap(),
            prefix: Some("srv".parse().unwrap()),
            from: "web".parse().unwrap(),
            port: None,
            keep_port: false,
            takes: Selector::Matching(Filter::default()),
            mode: Mode::Slots,
            licence: Licence { take_over: true, allow_drop: true, end_sessions: false },
        };
        let client = Client::new(SocketAddress::Unix(way.path.clone()), Timeouts::default());
        let spec = BackendSpec {
            slots: SLOTS,
            ramp: Ramp::flat(Weight::saturating(100)),
            drain_deadline: Duration::from_secs(30),
            drain_at_least: Duration::ZERO,
            rest: Duration::from_secs(10),
            unplaced: Vec::new(),
            origin: None,
        };
        let table = Table {
            layout: TableLayout::Lbctl,
            name: "web".parse().unwrap(),
            revision: Revision(1),
            spec,
            slots: (1..=SLOTS).map(|n| (slot(n), Held::By(record(n, 0)))).collect(),
            removed: BTreeMap::new(),
            confirmed: true,
            life: StoreLife::default(),
            problems: Vec::new(),
        };
        let engine = Engine::new(client, vec![target]);
        let mut world = Self { haproxy, way, engine, table };
        world.pass().await;
        world.way.take();
        Some(world)
    }

    async fn pass(&mut self) -> Pass {
        let view =
            View { table: Some(Arc::new(self.table.clone())), loaded: true, ..View::default() };
        let views: Views = BTreeMap::from([("web".parse().unwrap(), view)]);
        let pass = self.engine.pass(&views, Timestamp::now()).await.unwrap();
        assert!(pass.is_converged(), "{:?}", pass.errors());
        pass
    }

    fn put(&mut self, number: u32, record: SlotRecord) {
        self.table.slots.insert(slot(number), Held::By(record));
    }

    /// How often a text was sent.
    fn times(lines: &[String], text: &str) -> usize {
        lines.iter().map(|line| line.matches(text).count()).sum()
    }
}

fn slot(number: u32) -> SlotNumber {
    SlotNumber::new(number).unwrap()
}

fn record(number: u32, generation: u32) -> SlotRecord {
    let address: ServerAddress = format!("127.1.{generation}.{number}:80").parse().unwrap();
    let start = Timestamp::UNIX_EPOCH;
    let endpoint = endpoint(&format!("i-{generation}-{number}"), address);
    SlotRecord { endpoint, state: SlotState::Ready, since: start, started: start }
}

fn weighing(number: u32, weight: u64) -> SlotRecord {
    let mut record = record(number, 0);
    record.endpoint.weight = Some(Weight::saturating(weight));
    record
}

async fn one_change_is_seen_in_the_changed_server_alone(version: Version) {
    let Some(mut world) = World::start(version).await else { return };
    world.put(5, weighing(5, 7));
    world.put(6, record(6, 9));
    world.put(7, SlotRecord { state: SlotState::Rest, ..record(7, 0) });
    assert!(world.pass().await.applied > 0);
    let said = world.way.take();
    assert_eq!(World::times(&said, STATE), 1, "{said:?}");
    assert!(World::times(&said, "show stat ") >= 3, "{said:?}");
    let server = |name| block_in_place(|| world.haproxy.server("app", name));
    assert_eq!((server("srv5").weight(), server("srv5").state()), (7, "ready"));
    assert_eq!(
        (server("srv6").address(), server("srv6").state()),
        ("127.1.9.6:80".into(), "ready")
    );
    assert_eq!(server("srv7").state(), "maint");
}

async fn a_weight_takes_two_exchanges(version: Version) {
    let Some(mut world) = World::start(version).await else { return };
    world.put(5, weighing(5, 7));
    assert_eq!(world.pass().await.applied, 1);
    let said = world.way.take();
    let [greeting, look, change] = &said[..] else { panic!("{said:?}") };
    assert_eq!(greeting, "prompt");
    assert!(look.starts_with("show info;") && look.ends_with(STATE), "{look}");
    let parts: Vec<&str> = change.split(';').collect();
    assert_eq!(parts[..2], ["set server app/srv5 weight 7", "show info"]);
    assert!(parts.len() == 3 && parts[2].starts_with("show stat "), "{change}");
}

/// What HAProxy refuses is not there at the look in the same line, and is tried once more.
async fn a_refused_command_is_looked_at_anew(version: Version) {
    let Some(mut world) = World::start(version).await else { return };
    world.put(5, weighing(5, 7));
    world.way.alter("srv5 weight 7", "srv5 weight 700");
    assert_eq!(world.pass().await.applied, 1);
    let said = world.way.take();
    assert_eq!(World::times(&said, "srv5 weight 7"), 2, "{said:?}");
    assert_eq!(World::times(&said, STATE), 2, "{said:?}");
    assert_eq!(block_in_place(|| world.haproxy.server("app", "srv5")).weight(), 7);
}

async fn a_look_that_cannot_be_read_is_taken_anew(version: Version) {
    let Some(mut world) = World::start(version).await else { return };
    world.put(5, weighing(5, 7));
    world.way.alter(";show info;", ";show version;");
    assert_eq!(world.pass().await.applied, 1);
    let said = world.way.take();
    assert_eq!(World::times(&said, "srv5 weight 7"), 1, "{said:?}");
    assert_eq!(World::times(&said, STATE), 2, "{said:?}");
}

async fn a_change_that_did_not_happen_is_made_again(version: Version) {
    let Some(mut world) = World::start(version).await else { return };
    for (number, record, from, to, at) in [
        (5, weighing(5, 7), "srv5 weight 7", "srv5 weight 9", "7 ready 127.1.0.5:80"),
        (6, record(6, 9), "srv6 addr 127.1.9.6", "srv6 addr 127.1.8.6", "100 ready 127.1.9.6:80"),
        (
            7,
            SlotRecord { state: SlotState::Rest, ..record(7, 0) },
            "srv7 state maint",
            "srv8 weight 100",
            "100 maint 127.1.0.7:80",
        ),
    ] {
        world.put(number, record);
        world.way.alter(from, to);
        world.pass().await;
        let said = world.way.take();
        assert_eq!(World::times(&said, from), 2, "{said:?}");
        let server = block_in_place(|| world.haproxy.server("app", &format!("srv{number}")));
        let now = format!("{} {} {}", server.weight(), server.state(), server.address());
        assert_eq!(now, at);
    }
}
