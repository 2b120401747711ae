//! HAProxys and tables of any size.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lbctl::commands::sync_haproxy::{
    Engine, Filter, Held, Licence, Mode, Selector, Table, Target, View, Views,
};
use lbctl::hsdo::TableLayout;
use lbctl::model::{
    BackendSpec, Confirmation, Endpoint, Ramp, ServerAddress, SlotNumber, SlotRecord, SlotState,
    Timestamp, Weight, keys,
};
use lbctl::store::{Commit, Revision, SharedStore, StoreLife, Txn};

use super::support::haproxy::{Backend, Haproxy, Options, Version};
use super::support::{endpoint, eventually};

/// HAProxy's backend, the servers in it being `srv1`, `srv2`, ….
pub const BACKEND: &str = "app";
/// The table that fills it.
pub const TABLE: &str = "web";

/// A HAProxy with so many empty places, without health checks.
pub fn haproxy(version: Version, slots: u32) -> Option<Haproxy> {
    Haproxy::start(Options::new([Backend::new(BACKEND, slots).prefix("srv")]).on(version))
}

pub fn slot(number: u32) -> SlotNumber {
    SlotNumber::new(number).unwrap()
}

pub fn numbers(count: u32) -> impl Iterator<Item = u32> {
    1..=count
}

/// An address that no other number or generation has. Nobody connects to it.
pub fn address(generation: u8, number: u32) -> ServerAddress {
    let [_, high, middle, low] = number.to_be_bytes();
    format!("127.{}.{middle}.{low}:{}", high.wrapping_add(generation), 8000).parse().unwrap()
}

pub fn server(generation: u8, number: u32) -> Endpoint {
    endpoint(&format!("i-{generation}-{number}"), address(generation, number))
}

pub fn record(endpoint: Endpoint) -> SlotRecord {
    let start = Timestamp::UNIX_EPOCH;
    SlotRecord { endpoint, state: SlotState::Ready, since: start, started: start }
}

pub fn spec(slots: u32, weight: u8) -> BackendSpec {
    BackendSpec {
        slots,
        ramp: Ramp::flat(Weight::saturating(weight.into())),
        drain_deadline: Duration::from_secs(30),
        drain_at_least: Duration::ZERO,
        rest: Duration::from_secs(10),
        unplaced: Vec::new(),
        origin: None,
    }
}

/// A full table, as sync-haproxy knows it.
pub fn table(slots: u32, generation: u8, weight: u8) -> Table {
    let held = |number| (slot(number), Held::By(record(server(generation, number))));
    Table {
        name: TABLE.parse().unwrap(),
        layout: TableLayout::Lbctl,
        revision: Revision(1),
        spec: spec(slots, weight),
        slots: numbers(slots).map(held).collect(),
        removed: BTreeMap::new(),
        confirmed: true,
        life: StoreLife::default(),
        problems: Vec::new(),
    }
}

pub fn views(table: Table) -> Views {
    let view = View { table: Some(Arc::new(table)), loaded: true, ..View::default() };
    BTreeMap::from([(TABLE.parse().unwrap(), view)])
}

pub fn engine(haproxy: &Haproxy) -> Engine {
    let target = Target {
        backend: BACKEND.parse().unwrap(),
        prefix: Some("srv".parse().unwrap()),
        from: TABLE.parse().unwrap(),
        port: None,
        keep_port: false,
        takes: Selector::Matching(Filter::default()),
        mode: Mode::Slots,
        licence: Licence { take_over: true, allow_drop: true, end_sessions: false },
    };
    let client = lbctl::haproxy::Client::new(haproxy.unix(), lbctl::haproxy::Timeouts::default());
    Engine::new(client, vec![target])
}

/// Writes a full table into a store.
pub async fn write_table(store: &SharedStore, slots: u32) {
    let all: Vec<u32> = numbers(slots).collect();
    for some in all.chunks(50) {
        let txn = some.iter().fold(Txn::new(), |txn, number| put(txn, *number, None));
        commit(store, txn).await;
    }
    commit(store, put_spec(slots, 100)).await;
}

pub fn put(txn: Txn, number: u32, weight: Option<Weight>) -> Txn {
    let record = record(Endpoint { weight, ..server(1, number) });
    let key = keys::slot(&TABLE.parse().unwrap(), slot(number));
    txn.put(key, serde_json::to_vec(&record).unwrap())
}

/// The weight of every server at once.
pub fn put_spec(slots: u32, weight: u8) -> Txn {
    let (table, value) =
        (TABLE.parse().unwrap(), serde_json::to_vec(&spec(slots, weight)).unwrap());
    let confirmation = Confirmation { life: StoreLife::default(), token: Revision(1) };
    let confirmed = serde_json::to_vec(&confirmation).unwrap();
    Txn::new().put(keys::spec(&table), value).put(keys::confirmed(&table), confirmed)
}

pub async fn commit(store: &SharedStore, txn: Txn) -> Revision {
    match store.commit(txn).await.unwrap() {
        Commit::Committed(revision) => revision,
        Commit::Conflict => panic!("a commit without guards met a conflict"),
    }
}

/// Waits until HAProxy shows so many ready servers.
pub fn wait_for_ready(haproxy: &Haproxy, count: u32) {
    eventually("HAProxy to be filled", || {
        let servers = haproxy.servers(BACKEND);
        let ready = servers.iter().filter(|server| server.state() == "ready").count();
        (ready == count as usize).then_some(())
    });
}
