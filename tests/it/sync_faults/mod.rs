//! HAProxy is killed, reloaded, stopped or cut off at random points of a pass, while its table
//! changes: it is equal to the table within one pass after it answers again, and no server ever
//! takes traffic that should not.

mod tap;
mod witness;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use lbctl::model::{
    BackendName, BackendSpec, Ramp, SlotRecord, SlotState, Timestamp, Weight, keys,
};
use lbctl::store::{self, Commit, SharedStore, Txn};
use tempfile::TempDir;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep, timeout};

use super::support::haproxy::{Backend, Haproxy, Options, Server, Version, on_every_haproxy};
use super::support::{DEADLINE, LightServer, Process, Random, endpoint, lbctl, soak, table};
use tap::Tap;
use witness::Witness;

on_every_haproxy! {
    a_fault_at_any_point_of_a_pass_is_mended_by_the_next_one,
}

const SLOTS: u32 = 8;

/// The check of every server.
const CHECK: &str = "check inter 100ms rise 2 fall 2";

/// How long after another server has come up one that was held back may still serve.
const HELD: Duration = Duration::from_secs(1);

/// How long a change of the table may take to reach sync-haproxy.
const WATCHED: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Reload,
    /// SIGSTOP, and SIGCONT a moment later.
    Stop,
    /// The connection alone.
    Cut,
}

const FAULTS: [Fault; 4] = [Fault::Kill, Fault::Reload, Fault::Stop, Fault::Cut];

async fn a_fault_at_any_point_of_a_pass_is_mended_by_the_next_one(version: Version) {
    let mut random = Random::new();
    for (dynamic, master) in [(false, false), (false, true), (true, false), (true, true)] {
        let Some(mut world) = World::start(version, dynamic, master).await else { return };
        for round in 0..soak(13, 250) {
            let fault = FAULTS[random.rng.usize(..FAULTS.len())];
            let point = random.rng.usize(..50);
            world.what = format!(
                "{version:?}, dynamic {dynamic}, master {master}, round {round}: {fault:?} after {point} commands"
            );
            world.round(&mut random.rng, fault, point).await;
        }
    }
}

/// A HAProxy whose sync-haproxy talks through a tap, and a table.
struct World {
    what: String,
    dynamic: bool,
    rng_id: u32,
    table: BTreeMap<u32, SlotRecord>,
    /// When the table changed last.
    changed: Instant,
    store: SharedStore,
    sync: Process,
    tap: Tap,
    witness: Witness,
    haproxy: Haproxy,
    /// Where something listens, then where nothing does.
    live: Vec<LightServer>,
    dead: Vec<SocketAddr>,
    _folder: TempDir,
}

impl World {
    async fn start(version: Version, dynamic: bool, master: bool) -> Option<Self> {
        let backend = match dynamic {
            true => Backend::new("app", 0),
            false => Backend::new("app", SLOTS).prefix("srv").server(CHECK),
        };
        let options = Options::new([backend]).master().on(version);
        let haproxy = block_in_place(|| Haproxy::start(options))?;
        let folder = tempfile::tempdir().unwrap();
        let socket = if master { haproxy.dir().join("master.sock") } else { haproxy.socket_path() };
        let tap = Tap::start(folder.path(), socket);
        let url = format!("sqlite:{}", folder.path().join("store.db").display());
        let store = store::open(&url.parse().unwrap()).await.unwrap();
        let txn = Txn::new().put(keys::spec(&web()), serde_json::to_vec(&spec()).unwrap());
        commit(&store, table::confirmed(txn, &web())).await;
        let mut live = Vec::new();
        for n in 1..=10 {
            let any = SocketAddr::from(([127, 0, 0, 10 + n], 0));
            live.push(LightServer::start(&format!("live{n}"), any).await.unwrap());
        }
        let dead: Vec<SocketAddr> =
            (1..=6).map(|n| SocketAddr::from(([127, 0, 0, 20 + n], 9))).collect();
        let witness = Witness::start(haproxy.socket_path(), dead.clone());
        let way = if master { "master:" } else { "" };
        let socket = format!("{way}{}", tap.path().display());
        let mut command = Command::new(lbctl());
        command.args(["--store", &url, "sync-haproxy", "--from", "web", "--backend", "app/srv"]);
        // Nothing but the process id tells that HAProxy was restarted.
        command.args(["--socket", &socket, "--name", "lb1", "--admin", "off", "--resync", "1h"]);
        command.env("LBCTL_SYNC_HAPROXY_POLL", "100ms");
        if dynamic {
            command.args(["--mode", "dynamic", "--server-options", CHECK]);
        }
        let sync = Process::start("sync", folder.path(), &mut command);
        let (what, table, changed) = (String::new(), BTreeMap::new(), Instant::now());
        Some(Self {
            what,
            dynamic,
            rng_id: 0,
            table,
            changed,
            store,
            sync,
            tap,
            witness,
            haproxy,
            live,
            dead,
            _folder: folder,
        })
    }

    async fn round(&mut self, rng: &mut fastrand::Rng, fault: Fault, point: usize) {
        let splits = matches!(fault, Fault::Kill | Fault::Cut);
        let mut stopped = self.tap.stop_after(point, splits);
        self.change(rng).await;
        let held = timeout(DEADLINE, stopped.recv()).await;
        let held = held.unwrap_or_else(|_| panic!("no command came\n{}", self.say())).unwrap();
        if rng.bool() {
            self.change(rng).await;
        }
        match fault {
            Fault::Kill => {
                block_in_place(|| self.haproxy.kill());
                drop(held);
                block_in_place(|| self.haproxy.start_again());
            }
            Fault::Reload => {
                block_in_place(|| self.haproxy.reload());
                held.go_on();
            }
            Fault::Stop => {
                let pid = self.haproxy.pid();
                signal(pid, "STOP");
                held.go_on();
                sleep(Duration::from_millis(rng.u64(20..400))).await;
                signal(pid, "CONT");
            }
            Fault::Cut => drop(held),
        }
        self.equal_within_a_pass().await;
        assert_eq!(self.tap.harm(), Vec::<String>::new(), "{}", self.say());
        assert_eq!(self.witness.saw(), Vec::<String>::new(), "{}", self.say());
        assert!(self.witness.looks() > 0, "nobody looked\n{}", self.say());
    }

    /// A few slots at once.
    async fn change(&mut self, rng: &mut fastrand::Rng) {
        let mut changes: BTreeMap<u32, Option<SlotRecord>> = BTreeMap::new();
        for _ in 0..rng.u32(1..6) {
            let number = rng.u32(1..=SLOTS);
            // One write a key.
            if !changes.contains_key(&number) {
                let change = self.changed_slot(rng, number, &changes);
                changes.insert(number, change);
            }
        }
        for (number, change) in &changes {
            match change {
                Some(record) => {
                    if record.state == SlotState::Ready || record.state == SlotState::Drain {
                        self.witness.may(*number, &record.endpoint.address.to_string());
                    }
                    self.table.insert(*number, record.clone());
                }
                None => _ = self.table.remove(number),
            }
        }
        let txn = table::changes(&self.store, &web(), changes).await;
        commit(&self.store, txn).await;
        self.changed = Instant::now();
    }

    /// Another server, another state, or none.
    fn changed_slot(
        &mut self,
        rng: &mut fastrand::Rng,
        number: u32,
        changes: &BTreeMap<u32, Option<SlotRecord>>,
    ) -> Option<SlotRecord> {
        let now = Timestamp::now();
        match (rng.u8(..6), self.table.get(&number)) {
            (0, Some(record)) => Some(SlotRecord { state: SlotState::Drain, ..record.clone() }),
            (1, Some(record)) => Some(SlotRecord { state: SlotState::Rest, ..record.clone() }),
            (2, Some(_)) => None,
            _ => {
                self.rng_id += 1;
                let mut address = match rng.u8(..3) {
                    0 => self.dead[rng.usize(..self.dead.len())],
                    _ => self.live[rng.usize(..self.live.len())].address(),
                };
                // No two slots have one address.
                let records = || changes.values().flatten().chain(self.table.values());
                while records().any(|r| r.endpoint.address.to_string() == address.to_string()) {
                    let live = self.live.iter().map(LightServer::address);
                    let all: Vec<SocketAddr> = live.chain(self.dead.iter().copied()).collect();
                    address = all[rng.usize(..all.len())];
                }
                let endpoint = endpoint(&format!("e{}", self.rng_id), address);
                Some(SlotRecord { endpoint, state: SlotState::Ready, since: now, started: now })
            }
        }
    }

    /// HAProxy answers: what it is has to be what the table says once a pass that began now is over.
    /// A server that is to drain serves on for as long as no other is up.
    async fn equal_within_a_pass(&self) {
        let answers = Instant::now();
        let since = answers.max(self.changed + WATCHED);
        let mut alone = None;
        loop {
            let passes = self.tap.passes_since(since);
            let servers = block_in_place(|| self.haproxy.servers("app"));
            if !self.is_served(&servers) {
                alone = Some(Instant::now());
            }
            let may_hold = alone.is_some_and(|at| at.elapsed() < HELD);
            let differences = self.differences(&servers, may_hold);
            // Whoever is held back without need is found out a while later.
            let lasting = may_hold && self.is_served(&servers);
            if differences.is_empty() && !lasting {
                return;
            }
            assert!(
                passes == 0 || differences.is_empty(),
                "still different after a pass: {differences:?}\n{}",
                self.say()
            );
            assert!(answers.elapsed() < DEADLINE, "no pass mended {differences:?}\n{}", self.say());
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether a server that is to take traffic does.
    fn is_served(&self, servers: &[Server]) -> bool {
        let mut ready = self.table.iter().filter(|(_, record)| record.state == SlotState::Ready);
        ready.any(|(number, record)| {
            let server = servers.iter().find(|s| s.get("srv_name") == format!("srv{number}"));
            server.is_some_and(|server| {
                let here = server.address() == record.endpoint.address.to_string();
                here && server.state() == "ready" && server.is_up() && server.weight() > 0
            })
        })
    }

    fn differences(&self, servers: &[Server], may_hold: bool) -> Vec<String> {
        let differs = |number: u32| {
            let name = format!("srv{number}");
            let server = servers.iter().find(|server| server.get("srv_name") == name);
            let is =
                server.map(|s| (s.state(), s.address(), s.weight(), s.get("srv_id").to_owned()));
            let record = self.table.get(&number).filter(|record| record.state != SlotState::Rest);
            // Who is up stays for as long as no other is, whatever is to come of it.
            let held = server.is_some_and(|s| may_hold && s.state() == "ready" && s.is_up());
            let fine = match (record, &is) {
                _ if held => true,
                (None, None) => self.dynamic,
                (None, Some((state, ..))) => *state == "maint",
                (Some(_), None) => false,
                (Some(record), Some((state, address, weight, id))) => {
                    let drains = record.state == SlotState::Drain;
                    let ready = *state == "ready" && *weight == 100;
                    *address == record.endpoint.address.to_string()
                        && if drains { *state == "drain" } else { ready }
                        && *id == number.to_string()
                }
            };
            (!fine).then(|| format!("{name} is {is:?}, and the table says {record:?}"))
        };
        (1..=SLOTS).filter_map(differs).collect()
    }

    fn say(&self) -> String {
        format!("{}\n{}\n{}", self.what, self.sync.tail(), self.haproxy.tail())
    }
}

fn signal(pid: u32, signal: &str) {
    let status = Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status();
    assert!(status.unwrap().success(), "kill -{signal} {pid} failed");
}

fn spec() -> BackendSpec {
    BackendSpec {
        slots: SLOTS,
        ramp: Ramp::flat(Weight::saturating(100)),
        drain_deadline: Duration::from_secs(300),
        drain_at_least: Duration::ZERO,
        rest: Duration::from_secs(1),
        unplaced: Vec::new(),
    }
}

async fn commit(store: &SharedStore, txn: Txn) {
    assert!(matches!(store.commit(txn).await.unwrap(), Commit::Committed(_)));
}

fn web() -> BackendName {
    "web".parse().unwrap()
}
