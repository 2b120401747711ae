//! `lbctl sync-haproxy` against what happens to a HAProxy: in both modes, over its stats sockets and
//! its master CLI.

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use lbctl::haproxy::SocketAddress;
use lbctl::model::{
    BackendName, BackendReport, BackendSpec, HaproxyReport, Ramp, SlotNumber, SlotRecord,
    SlotState, Timestamp, Weight, keys,
};
use lbctl::store::{self, Commit, SharedStore, Txn};
use tempfile::TempDir;

use super::support::haproxy::{
    Backend, Client, Haproxy, NamedServer, Options, Version, on_every_haproxy,
};
use super::support::{Process, endpoint, eventually, eventually_async, lbctl, table};

on_every_haproxy! {
    servers_come_and_go_from_none_to_none,
    another_server_in_a_slot_takes_its_traffic_over,
    a_server_ramps_step_by_step_with_no_write_to_the_store,
    a_draining_server_keeps_its_sessions_and_gets_no_new_ones,
    a_drain_waits_for_sessions_that_a_reload_left_on_the_old_worker,
    sessions_that_outlive_a_drain_are_told_or_cut,
    a_reloaded_or_restarted_haproxy_is_filled_again,
    no_request_reaches_a_server_that_never_passed_a_check,
    the_only_server_serves_until_the_one_that_replaces_it_is_up,
    the_only_server_serves_until_the_one_that_replaces_it_has_a_weight,
    hostile_entries_of_the_store_change_nothing_else,
    servers_may_have_ipv6_addresses,
    a_table_of_many_lines_is_applied_whole,
    each_misconfiguration_is_told_with_the_line_to_change,
    missing_places_are_told_before_a_server_needs_them,
}

/// How servers come to be in HAProxy, and the way to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Case {
    dynamic: bool,
    way: Way,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Unix,
    Tcp,
    Master,
}

const CASES: [Case; 5] = [
    Case { dynamic: false, way: Way::Unix },
    Case { dynamic: false, way: Way::Tcp },
    Case { dynamic: false, way: Way::Master },
    Case { dynamic: true, way: Way::Unix },
    Case { dynamic: true, way: Way::Master },
];

/// The check of every server, in the configuration or in `add server`.
const CHECK: &str = "check inter 100ms rise 2 fall 2";

impl Case {
    /// A backend `app` of its mode.
    fn backend(self, slots: u32) -> Backend {
        match self.dynamic {
            true => Backend::new("app", 0),
            false => Backend::new("app", slots).prefix("srv").server(CHECK),
        }
    }

    fn socket(self, haproxy: &Haproxy) -> SocketAddress {
        match self.way {
            Way::Unix => haproxy.unix(),
            Way::Tcp => haproxy.tcp(),
            Way::Master => haproxy.master(),
        }
    }
}

/// A HAProxy, a store with a table `web`, and the daemon between them.
struct World {
    case: Case,
    sync: Process,
    haproxy: Haproxy,
    store: SharedStore,
    _folder: TempDir,
}

impl World {
    /// In master-worker mode, with a table of `slots` free slots.
    async fn start(version: Version, case: Case, slots: u32) -> Option<Self> {
        Self::with_flags(version, case, slots, &[]).await
    }

    async fn with_flags(version: Version, case: Case, slots: u32, more: &[&str]) -> Option<Self> {
        let ramp = Ramp::flat(Weight::saturating(100));
        Self::with_all(version, case, slots, case.backend(slots), ramp, more).await
    }

    async fn with(
        version: Version,
        case: Case,
        slots: u32,
        backend: Backend,
        ramp: Ramp,
    ) -> Option<Self> {
        Self::with_all(version, case, slots, backend, ramp, &[]).await
    }

    async fn with_all(
        version: Version,
        case: Case,
        slots: u32,
        backend: Backend,
        ramp: Ramp,
        more: &[&str],
    ) -> Option<Self> {
        let haproxy = Haproxy::start(Options::new([backend]).master().on(version))?;
        let folder = tempfile::tempdir().unwrap();
        let store = open_store(&folder).await;
        put_spec(&store, slots, ramp).await;
        let mut command = sync_command(&folder, &case.socket(&haproxy));
        command.args(["--backend", "app/srv", "--name", "lb1", "--admin", "off"]);
        if case.dynamic {
            command.args(["--mode", "dynamic", "--server-options", CHECK]);
        }
        command.args(more);
        let sync = Process::start("sync", folder.path(), &mut command);
        Some(Self { case, sync, haproxy, store, _folder: folder })
    }

    async fn put(&self, number: u32, id: &str, address: impl ToString, state: SlotState) {
        put_slot(&self.store, number, id, address, state).await;
    }

    async fn free(&self, numbers: impl IntoIterator<Item = u32>) {
        let freed = numbers.into_iter().map(|number| (number, None));
        commit(&self.store, table::changes(&self.store, &web(), freed).await).await;
    }

    async fn report(&self) -> Option<HaproxyReport> {
        let entry = self.store.get(&keys::haproxy(&"lb1".parse().unwrap())).await.unwrap()?;
        Some(serde_json::from_slice(&entry.value).unwrap())
    }

    /// The report on the table, once it fulfils a condition.
    async fn reported(&self, what: &str, holds: impl Fn(&BackendReport) -> bool) -> HaproxyReport {
        eventually_async(&self.say(what), async || {
            let report = self.report().await?;
            report.backends.get(&web()).is_some_and(&holds).then_some(report)
        })
        .await
    }

    /// Waits until every change of the table so far is in HAProxy.
    async fn converged(&self) -> HaproxyReport {
        let revision = self.store.list(&keys::backend(&web())).await.unwrap();
        let last = revision.entries.iter().map(|entry| entry.modified).max().unwrap();
        self.reported("convergence", |web| web.converged && web.applied >= last).await
    }

    /// Who answers new connections: polls until it is just these.
    fn served_by(&self, names: &[&str]) {
        let wanted: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let asks = names.len().max(1) * 4;
        eventually(&self.say(&format!("{names:?} to serve")), || {
            let answers = (0..asks).map(|_| Client::ask_once(self.haproxy.frontend("app")));
            let served: BTreeSet<String> = answers.flatten().collect();
            (served == wanted).then_some(())
        });
    }

    /// No server of it takes part any more.
    fn is_empty(&self) -> bool {
        let servers = self.haproxy.servers("app");
        if self.case.dynamic {
            servers.is_empty()
        } else {
            servers.iter().all(|server| server.state() == "maint")
        }
    }

    fn say(&self, what: &str) -> String {
        let case = self.case;
        format!("{what} ({case:?})\n{}\n{}", self.sync.tail(), self.haproxy.tail())
    }
}

pub fn sync_command(folder: &TempDir, socket: &SocketAddress) -> Command {
    let empty = folder.path().join("empty.toml");
    std::fs::write(&empty, "").unwrap();
    let mut command = Command::new(lbctl());
    command.args(["sync-haproxy", "--from", "web", "--store", &store_url(folder), "--config"]);
    command.arg(empty).args(["--socket", &socket.to_string()]);
    command
}

fn store_url(folder: &TempDir) -> String {
    format!("sqlite:{}", folder.path().join("store.db").display())
}

pub async fn open_store(folder: &TempDir) -> SharedStore {
    store::open(&store_url(folder).parse().unwrap()).await.unwrap()
}

pub async fn put_spec(store: &SharedStore, slots: u32, ramp: Ramp) {
    let spec = BackendSpec {
        slots,
        ramp,
        drain_deadline: Duration::from_secs(300),
        drain_at_least: Duration::ZERO,
        rest: Duration::from_secs(1),
        unplaced: Vec::new(),
        origin: None,
    };
    let txn = Txn::new().put(keys::spec(&web()), serde_json::to_vec(&spec).unwrap());
    commit(store, table::confirmed(txn, &web())).await;
}

pub async fn put_slot(
    store: &SharedStore,
    number: u32,
    id: &str,
    address: impl ToString,
    state: SlotState,
) {
    let placed = [(number, Some(record(id, address, state)))];
    commit(store, table::changes(store, &web(), placed).await).await;
}

/// One commit of several slots.
fn txn<const N: usize>(slots: [(u32, &SlotRecord); N]) -> Txn {
    slots.into_iter().fold(Txn::new(), |txn, (number, record)| {
        txn.put(keys::slot(&web(), slot(number)), serde_json::to_vec(record).unwrap())
    })
}

fn record(id: &str, address: impl ToString, state: SlotState) -> SlotRecord {
    let now = Timestamp::now();
    SlotRecord { endpoint: endpoint(id, address), state, since: now, started: now }
}

async fn commit(store: &SharedStore, txn: Txn) {
    assert!(matches!(store.commit(txn).await.unwrap(), Commit::Committed(_)));
}

pub fn web() -> BackendName {
    "web".parse().unwrap()
}

fn slot(number: u32) -> SlotNumber {
    SlotNumber::new(number).unwrap()
}

async fn servers_come_and_go_from_none_to_none(version: Version) {
    for case in CASES {
        let Some(world) = World::start(version, case, 3).await else { return };
        let names = ["a", "b", "c"];
        let servers = names.map(|name| NamedServer::start(name, "127.0.0.2"));
        world.reported("the empty table", |web| web.converged).await;
        assert!(world.is_empty(), "{case:?}");
        for (number, server) in (1..).zip(&servers) {
            world.put(number, names[number as usize - 1], server.address(), SlotState::Ready).await;
        }
        world.served_by(&names);
        let ids: Vec<String> = world
            .haproxy
            .servers("app")
            .iter()
            .map(|server| format!("{}={}", server.get("srv_name"), server.get("srv_id")))
            .collect();
        assert_eq!(ids.len(), 3, "{case:?}: {ids:?}");
        world.free([2]).await;
        world.served_by(&["a", "c"]);
        world.free([1, 3]).await;
        world.served_by(&[]);
        eventually(&world.say("no server to be left"), || world.is_empty().then_some(()));
    }
}

async fn another_server_in_a_slot_takes_its_traffic_over(version: Version) {
    for case in CASES {
        let Some(world) = World::start(version, case, 1).await else { return };
        let (a, b) = (NamedServer::start("a", "127.0.0.2"), NamedServer::start("b", "127.0.0.3"));
        world.put(1, "a", a.address(), SlotState::Ready).await;
        world.served_by(&["a"]);
        world.put(1, "b", b.address(), SlotState::Ready).await;
        world.served_by(&["b"]);
        world.converged().await;
        let server = world.haproxy.server("app", "srv1");
        assert_eq!((server.address(), server.weight()), (b.address().to_string(), 100));
    }
}

async fn a_server_ramps_step_by_step_with_no_write_to_the_store(version: Version) {
    let ramp = Ramp {
        min: Weight::saturating(10),
        max: Weight::saturating(100),
        step: Weight::saturating(30),
        interval: Duration::from_millis(700),
    };
    for case in [CASES[0], CASES[4]] {
        let Some(world) = World::with(version, case, 1, case.backend(1), ramp).await else {
            return;
        };
        world.reported("the empty table", |web| web.converged).await;
        let server = NamedServer::start("a", "127.0.0.2");
        world.put(1, "a", server.address(), SlotState::Ready).await;
        let table = world.store.list(&keys::backend(&web())).await.unwrap().entries;
        let mut seen = Vec::new();
        eventually(&world.say("the full weight"), || {
            let servers = world.haproxy.servers("app");
            let ready =
                servers.iter().find(|server| server.state() == "ready" && server.is_up())?;
            seen.push(ready.weight());
            (ready.weight() == 100).then_some(())
        });
        assert!(seen.is_sorted(), "{case:?}: {seen:?}");
        seen.dedup();
        let steps = [0, 10, 40, 70, 100];
        assert!(seen.iter().all(|weight| steps.contains(weight)), "{case:?}: {seen:?}");
        assert!(seen.len() >= 3, "{case:?}: it jumped: {seen:?}");
        assert_eq!(world.store.list(&keys::backend(&web())).await.unwrap().entries, table);
    }
}

async fn a_draining_server_keeps_its_sessions_and_gets_no_new_ones(version: Version) {
    for case in CASES {
        let Some(world) = World::start(version, case, 2).await else { return };
        let (a, b) = (NamedServer::start("a", "127.0.0.2"), NamedServer::start("b", "127.0.0.3"));
        world.put(1, "a", a.address(), SlotState::Ready).await;
        world.served_by(&["a"]);
        let mut held = Client::connect(world.haproxy.frontend("app")).unwrap();
        assert_eq!(held.ask().unwrap(), "a");
        world.put(2, "b", b.address(), SlotState::Ready).await;
        world.served_by(&["a", "b"]);

        world.put(1, "a", a.address(), SlotState::Drain).await;
        world.served_by(&["b"]);
        world
            .reported("one session", |web| web.converged && web.sessions.get(&slot(1)) == Some(&1))
            .await;
        assert_eq!(world.haproxy.server("app", "srv1").state(), "drain");
        assert_eq!(held.ask().unwrap(), "a", "{case:?}: the drain cut a session");
        drop(held);
        world.reported("no session", |web| web.sessions.get(&slot(1)) == Some(&0)).await;

        world.put(1, "a", a.address(), SlotState::Rest).await;
        world.converged().await;
        let left = world.haproxy.servers("app");
        let first = left.iter().find(|server| server.get("srv_name") == "srv1");
        assert!(first.is_none_or(|server| server.state() == "maint"), "{case:?}: {left:?}");
    }
}

async fn sessions_that_outlive_a_drain_are_told_or_cut(version: Version) {
    for (case, end) in CASES.into_iter().zip([false, true, true, true, false]) {
        let flags: &[&str] = if end { &["--end-sessions"] } else { &[] };
        let Some(world) = World::with_flags(version, case, 2, flags).await else { return };
        let (a, b) = (NamedServer::start("a", "127.0.0.2"), NamedServer::start("b", "127.0.0.3"));
        world.put(1, "a", a.address(), SlotState::Ready).await;
        world.served_by(&["a"]);
        let mut held = Client::connect(world.haproxy.frontend("app")).unwrap();
        assert_eq!(held.ask().unwrap(), "a");
        world.put(2, "b", b.address(), SlotState::Ready).await;
        world.served_by(&["a", "b"]);
        world.put(1, "a", a.address(), SlotState::Drain).await;
        world.reported("one session", |web| web.sessions.get(&slot(1)) == Some(&1)).await;
        assert_eq!(held.ask().unwrap(), "a", "{case:?}: the drain cut a session");
        world.put(1, "a", a.address(), SlotState::Rest).await;
        if end {
            eventually(&world.say("the session to be cut"), || held.ask().is_err().then_some(()));
        } else {
            world.reported("a session in maint", |web| web.crowded.contains(&slot(1))).await;
            assert_eq!(held.ask().unwrap(), "a", "{case:?}: nobody asked to cut a session");
            // Nor is it forgotten once the slot is free.
            world.free([1]).await;
            world.converged().await;
            world.reported("a session in maint", |web| web.crowded.contains(&slot(1))).await;
            drop(held);
        }
        world.reported("an empty slot", |web| web.converged && web.crowded.is_empty()).await;
        if case.dynamic {
            eventually(&world.say("the server to be deleted"), || {
                let servers = world.haproxy.servers("app");
                servers.iter().all(|server| server.get("srv_name") != "srv1").then_some(())
            });
        }
    }
}

/// Only the master CLI reaches an old worker.
async fn a_drain_waits_for_sessions_that_a_reload_left_on_the_old_worker(version: Version) {
    for case in CASES.into_iter().filter(|case| case.way == Way::Master) {
        let Some(world) = World::start(version, case, 2).await else { return };
        let (a, b) = (NamedServer::start("a", "127.0.0.2"), NamedServer::start("b", "127.0.0.3"));
        world.put(1, "a", a.address(), SlotState::Ready).await;
        world.served_by(&["a"]);
        let mut held = Client::connect(world.haproxy.frontend("app")).unwrap();
        assert_eq!(held.ask().unwrap(), "a");
        world.put(2, "b", b.address(), SlotState::Ready).await;
        world.haproxy.reload();
        world.served_by(&["a", "b"]);

        world.put(1, "a", a.address(), SlotState::Drain).await;
        world.converged().await;
        let report = world.reported("the drain", |web| web.sessions.contains_key(&slot(1))).await;
        assert_eq!(report.backends[&web()].sessions, [(slot(1), 1)].into(), "{case:?}");
        assert_eq!(held.ask().unwrap(), "a", "{case:?}: the drain cut a session");
        // Another server in the place of the old one has sessions of its own alone.
        world.put(1, "c", b.address(), SlotState::Drain).await;
        world.reported("no session of c", |web| web.sessions.get(&slot(1)) == Some(&0)).await;
        world.put(1, "a", a.address(), SlotState::Drain).await;
        world.reported("the session of a", |web| web.sessions.get(&slot(1)) == Some(&1)).await;
        drop(held);
        world.reported("no session", |web| web.sessions.get(&slot(1)) == Some(&0)).await;
    }
}

async fn a_reloaded_or_restarted_haproxy_is_filled_again(version: Version) {
    for case in CASES {
        let Some(mut world) = World::start(version, case, 2).await else { return };
        let servers = ["a", "b"].map(|name| NamedServer::start(name, "127.0.0.2"));
        for (number, server) in (1..).zip(&servers) {
            world.put(number, &format!("e{number}"), server.address(), SlotState::Ready).await;
        }
        world.served_by(&["a", "b"]);
        let first = world.converged().await.pid;

        world.haproxy.reload();
        world.served_by(&["a", "b"]);
        let pid = world.haproxy.pid();
        assert_ne!(Some(pid), first, "{case:?}: it was not reloaded");
        eventually_async(&world.say("the report of the new worker"), async || {
            (world.converged().await.pid == Some(pid)).then_some(())
        })
        .await;

        world.haproxy.kill();
        world.reported("the failure", |web| !web.converged && web.error.is_some()).await;
        world.haproxy.start_again();
        world.served_by(&["a", "b"]);
        let pid = world.haproxy.pid();
        eventually_async(&world.say("the report of the new process"), async || {
            (world.converged().await.pid == Some(pid)).then_some(())
        })
        .await;
        assert!(world.sync.is_running());
    }
}

/// A server that never passed a check gets no request, though leaving maint makes it UP.
async fn no_request_reaches_a_server_that_never_passed_a_check(version: Version) {
    for case in [CASES[0], CASES[3]] {
        let backend = case.backend(1).http().line("option httpchk GET /health");
        let ramp = Ramp::flat(Weight::saturating(100));
        let Some(world) = World::with(version, case, 1, backend, ramp).await else { return };
        let sick = NamedServer::start("sick", "127.0.0.2");
        sick.set_healthy(false);
        world.reported("the empty table", |web| web.converged).await;
        world.put(1, "sick", sick.address(), SlotState::Ready).await;
        let frontend = world.haproxy.frontend("app");
        let is_started = || {
            let servers = world.haproxy.servers("app");
            servers.iter().any(|server| server.state() == "ready" && server.weight() == 100)
        };
        let mut started = None;
        // Asked all the time: before, while and for a second after it leaves maint.
        eventually(&world.say("a second of weight"), || {
            assert_eq!(Client::get(frontend), None, "{case:?}: a sick server answered");
            let since = *started.get_or_insert_with(Instant::now);
            if !is_started() {
                started = None;
            }
            (is_started() && since.elapsed() > Duration::from_secs(1)).then_some(())
        });
        assert_eq!(sick.answered(), 0, "{case:?}");
        sick.set_healthy(true);
        eventually(&world.say("the healthy server to answer"), || {
            (Client::get(frontend)? == "sick").then_some(())
        });
    }
}

/// One commit drains the only server and brings another, which is sick at first.
async fn the_only_server_serves_until_the_one_that_replaces_it_is_up(version: Version) {
    for case in [CASES[0], CASES[3]] {
        let backend = case.backend(2).http().line("option httpchk GET /health");
        let ramp = Ramp::flat(Weight::saturating(100));
        let Some(world) = World::with(version, case, 2, backend, ramp).await else { return };
        let (old, new) =
            (NamedServer::start("old", "127.0.0.2"), NamedServer::start("new", "127.0.0.3"));
        new.set_healthy(false);
        world.put(1, "old", old.address(), SlotState::Ready).await;
        let frontend = world.haproxy.frontend("app");
        eventually(&world.say("the old server to answer"), || {
            (Client::get(frontend)? == "old").then_some(())
        });
        let drained = record("old", old.address(), SlotState::Drain);
        let placed = record("new", new.address(), SlotState::Ready);
        commit(&world.store, txn([(1, &drained), (2, &placed)])).await;
        let is_started = || {
            let servers = world.haproxy.servers("app");
            let new = servers.iter().find(|server| server.get("srv_name") == "srv2");
            new.is_some_and(|server| server.state() == "ready" && server.weight() == 100)
        };
        let started = eventually(&world.say("the new server to be started"), || {
            assert_eq!(Client::get(frontend).as_deref(), Some("old"), "{case:?}");
            is_started().then(Instant::now)
        });
        world.reported("that something is left to do", |web| !web.converged).await;
        // Also in the passes after the one that started the new one.
        eventually(&world.say("two more seconds"), || {
            assert_eq!(Client::get(frontend).as_deref(), Some("old"), "{case:?}");
            (started.elapsed() > Duration::from_secs(2)).then_some(())
        });
        let report = world.report().await.unwrap();
        assert!(!report.backends[&web()].converged, "{case:?}: it called itself converged");
        new.set_healthy(true);
        eventually(&world.say("the new server alone to answer"), || {
            let answer = Client::get(frontend);
            assert!(answer.is_some(), "{case:?}: a request was lost");
            (world.haproxy.server("app", "srv1").state() == "drain").then_some(())
        });
        assert_eq!(Client::get(frontend).as_deref(), Some("new"), "{case:?}");
        world.converged().await;
    }
}

/// The same where a new server's weight begins at 0 and grows later.
async fn the_only_server_serves_until_the_one_that_replaces_it_has_a_weight(version: Version) {
    for case in [CASES[0], CASES[3]] {
        let full = Weight::saturating(100);
        let interval = Duration::from_secs(3);
        let ramp = Ramp { min: Weight::ZERO, interval, ..Ramp::flat(full) };
        let backend = case.backend(3).http().line("option httpchk GET /health");
        let Some(world) = World::with(version, case, 3, backend, ramp).await else { return };
        let servers = [("old", "127.0.0.2"), ("new", "127.0.0.3"), ("unwanted", "127.0.0.4")];
        let [old, new, unwanted] = servers.map(|(name, ip)| NamedServer::start(name, ip));
        world.put(1, "old", old.address(), SlotState::Ready).await;
        let frontend = world.haproxy.frontend("app");
        eventually(&world.say("the old server to answer"), || {
            (Client::get(frontend)? == "old").then_some(())
        });
        let drained = record("old", old.address(), SlotState::Drain);
        let mut placed = record("new", new.address(), SlotState::Ready);
        let mut never = record("unwanted", unwanted.address(), SlotState::Ready);
        never.endpoint.weight = Some(Weight::ZERO);
        commit(&world.store, txn([(1, &drained), (2, &placed), (3, &never)])).await;
        let is_in = |place: &str, state: &str, weight: u32| {
            let servers = world.haproxy.servers("app");
            let server = servers.iter().find(|server| server.get("srv_name") == place);
            server.is_some_and(|s| s.state() == state && s.weight() == weight)
        };
        let mut waited = false;
        eventually(&world.say("the new server alone to answer"), || {
            let answer = Client::get(frontend);
            assert!(answer.is_some(), "{case:?}: a request was lost");
            waited |= is_in("srv2", "ready", 0) && answer.as_deref() == Some("old");
            is_in("srv1", "drain", 100).then_some(())
        });
        assert!(waited, "{case:?}: the new server had a weight from the start");
        assert_eq!(Client::get(frontend).as_deref(), Some("new"), "{case:?}");
        world.converged().await;

        // Who is wanted at 0 is nobody to wait for.
        placed.state = SlotState::Drain;
        commit(&world.store, txn([(2, &placed)])).await;
        world.converged().await;
        assert!(is_in("srv2", "drain", 100), "{case:?}");
        assert_eq!(unwanted.answered(), 0, "{case:?}");
    }
}

async fn hostile_entries_of_the_store_change_nothing_else(version: Version) {
    for case in [CASES[0], CASES[2], CASES[3]] {
        let Some(world) = World::start(version, case, 4).await else { return };
        let good = NamedServer::start("good", "127.0.0.2");
        let plain = serde_json::to_string(&record("x", "127.0.0.9:80", SlotState::Ready)).unwrap();
        let hostile = [
            plain.replace("127.0.0.9:80", "127.0.0.9:80;disable frontend front-app"),
            plain.replace("127.0.0.9:80", "127.0.0.9:80\\ndisable frontend front-app"),
            plain.replace(r#""x""#, r#""x;disable frontend front-app\n""#),
        ];
        assert!(hostile.iter().all(|text| *text != plain), "nothing was made hostile");
        for (number, text) in (1..).zip(hostile) {
            commit(&world.store, Txn::new().put(keys::slot(&web(), slot(number)), text)).await;
        }
        world.put(4, "good", good.address(), SlotState::Ready).await;
        world.served_by(&["good"]);
        let error = world.reported("the damage", |web| web.error.is_some()).await;
        let error = error.backends[&web()].error.clone().unwrap();
        assert!(error.contains("slots/00001"), "{error}");
        let servers = world.haproxy.servers("app");
        let others = servers.iter().filter(|server| server.get("srv_name") != "srv4");
        assert!(others.clone().all(|server| server.state() == "maint"), "{servers:?}");
        assert!(others.clone().all(|server| server.get("srv_addr") != "127.0.0.9"), "{servers:?}");
    }
}

async fn servers_may_have_ipv6_addresses(version: Version) {
    for case in CASES {
        let Some(world) = World::start(version, case, 2).await else { return };
        let six = NamedServer::start_at("six", "[::1]:0");
        world.put(1, "six", six.address(), SlotState::Ready).await;
        world
            .put(2, "far", "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535", SlotState::Ready)
            .await;
        world.served_by(&["six"]);
        world.converged().await;
        assert_eq!(world.haproxy.server("app", "srv1").get("srv_addr"), "::1");
        let far = world.haproxy.server("app", "srv2");
        assert_eq!(far.address(), "2001:db8:1234:5678:9abc:def0:1234:5678:65535");
    }
}

async fn a_table_of_many_lines_is_applied_whole(version: Version) {
    let slots = 400;
    for case in CASES {
        let Some(world) = World::start(version, case, slots).await else { return };
        // A commit holds a hundred writes or so.
        for numbers in (1..=slots).collect::<Vec<_>>().chunks(50) {
            let txn = numbers.iter().fold(Txn::new(), |txn, number| {
                let address = format!("[2001:db8:1234:5678:9abc:def0:1234:{number:x}]:{number}");
                let record = record(&format!("e{number}"), address, SlotState::Ready);
                let value = serde_json::to_vec(&record).unwrap();
                txn.put(keys::slot(&web(), slot(*number)), value)
            });
            commit(&world.store, txn).await;
        }
        world.converged().await;
        let servers = world.haproxy.servers("app");
        assert_eq!(servers.len(), slots as usize, "{case:?}");
        for server in &servers {
            let number: u32 = server.get("srv_name").trim_start_matches("srv").parse().unwrap();
            let address = format!("2001:db8:1234:5678:9abc:def0:1234:{number:x}:{number}");
            assert_eq!((server.address(), server.weight()), (address, 100), "{case:?}");
            assert_eq!((server.state(), server.get("srv_id")), ("ready", &*number.to_string()));
        }
    }
}

/// What `--once` says and ends with on a misconfigured HAProxy.
async fn once(
    version: Version,
    options: Options,
    socket: impl Fn(&Haproxy) -> SocketAddress,
    more: &[&str],
) -> Option<Output> {
    once_with(version, options, socket, more, 2).await
}

/// The same with a table of two slots of which the first `held` have servers.
async fn once_with(
    version: Version,
    options: Options,
    socket: impl Fn(&Haproxy) -> SocketAddress,
    more: &[&str],
    held: u32,
) -> Option<Output> {
    let haproxy = Haproxy::start(options.on(version))?;
    let folder = tempfile::tempdir().unwrap();
    let store = open_store(&folder).await;
    put_spec(&store, 2, Ramp::flat(Weight::saturating(50))).await;
    for number in 1..=held {
        put_slot(&store, number, &format!("e{number}"), "127.0.0.1:9001", SlotState::Ready).await;
    }
    let mut command = sync_command(&folder, &socket(&haproxy));
    Some(command.args(["--once"]).args(more).output().unwrap())
}

async fn each_misconfiguration_is_told_with_the_line_to_change(version: Version) {
    let slots = || Backend::new("app", 2);
    let http = || Options::new([slots().http()]).master();
    let app: &[&str] = &["--backend", "app"];
    let dynamic: &[&str] = &["--backend", "app", "--mode", "dynamic"];
    let master_as_unix = |haproxy: &Haproxy| match haproxy.master() {
        SocketAddress::Master(address) => *address,
        other => other,
    };
    let frontend = |haproxy: &Haproxy| {
        let at = haproxy.frontend("app");
        SocketAddress::Tcp { host: at.ip().to_string(), port: at.port() }
    };
    let cases = [
        (
            once(version, Options::new([slots()]).level("operator"), Haproxy::unix, app).await,
            "level admin",
        ),
        (once(version, http(), Haproxy::master, &["--backend", "other"]).await, "no backend other"),
        (once(version, http(), master_as_unix, app).await, "master:/"),
        (
            once(version, http(), |haproxy| SocketAddress::Master(Box::new(haproxy.unix())), app)
                .await,
            "write it as `/",
        ),
        (once(version, http(), frontend, app).await, "stats socket"),
        (
            once(version, Options::new([Backend::new("app", 1)]), Haproxy::unix, app).await,
            "server-template s 1-2",
        ),
        (
            once(version, Options::new([Backend::new("app", 0)]), Haproxy::unix, app).await,
            "server-template",
        ),
        (
            once(
                version,
                Options::new([Backend::new("app", 0).balance("static-rr")]),
                Haproxy::unix,
                dynamic,
            )
            .await,
            "balance roundrobin",
        ),
        (
            once(
                version,
                Options::new([Backend::new("app", 0)]),
                Haproxy::unix,
                &[dynamic, &["--server-options", "chek"]].concat(),
            )
            .await,
            "chek",
        ),
    ];
    for (output, line) in cases {
        let Some(output) = output else { return };
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{line}: {said}");
        assert!(said.contains(line), "{line}: {said}");
    }
}

async fn missing_places_are_told_before_a_server_needs_them(version: Version) {
    for (backend, line) in [("other", "no backend other"), ("app", "server-template s 1-2")] {
        for held in [0, 1] {
            let options = Options::new([Backend::new("app", 1)]);
            let flags = ["--backend", backend];
            let once = once_with(version, options, Haproxy::unix, &flags, held).await;
            let Some(output) = once else { return };
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(78), "{line}: {said}");
            assert!(said.contains(line), "{line}: {said}");
        }
    }
}
