//! From a commit in the store to the command that HAProxy has accepted, through the real daemon.

use std::time::{Duration, Instant};

use etcd_client::WatchOptions;
use lbctl::model::Weight;
use lbctl::store::Txn;

use super::bare::Bare;
use super::fixture::{self, BACKEND, TABLE};
use super::report::{Report, Row, Target, Unit};
use super::samples::Samples;
use super::support::etcd::Etcd;
use super::support::haproxy::Version;
use super::support::{DEADLINE, World};

const SLOTS: u32 = 1_000;
const ROUNDS: u32 = 100;

pub fn measure(report: &mut Report) {
    for version in [Version::V2_6, Version::V3_2] {
        on_sqlite(report, version);
        on_etcd(report, version);
    }
}

fn on_sqlite(report: &mut Report, version: Version) {
    let Some(samples) = commit_to_accepted(&World::sqlite(), version, || ()) else { return };
    let name = name(version, "sqlite");
    let row = |what: String, figure, target| Row {
        what,
        unit: Unit::Milliseconds,
        figure,
        peer: None,
        target,
    };
    report.add(row(format!("{name}, median"), samples.median(), Target::AtMost(30.0)));
    report.add(row(format!("{name}, p99"), samples.p99(), Target::None));
}

/// The peer is etcd alone: from a bare put to the event of a bare watch.
fn on_etcd(report: &mut Report, version: Version) {
    let (Some(world), Some(etcd)) = (World::etcd(), Etcd::shared()) else { return };
    let mut bare = BareWatch::start(&world, &etcd);
    let mut peer = Samples::default();
    let measured = commit_to_accepted(&world, version, || {
        peer.push(world.block_on(bare.put_to_event()));
    });
    let Some(samples) = measured else { return };
    let name = name(version, "etcd");
    let row = |what: String, figure, peer, target| Row {
        what,
        unit: Unit::Milliseconds,
        figure,
        peer: Some(peer),
        target,
    };
    let target = Target::AboveAtMost(15.0);
    report.add(row(format!("{name}, median"), samples.median(), peer.median(), target));
    report.add(row(format!("{name}, p99"), samples.p99(), peer.p99(), Target::None));
}

fn name(version: Version, store: &str) -> String {
    format!("HAProxy {}, {SLOTS} slots: one weight, commit to accepted on {store}", version.name())
}

/// `between` runs once a round, so that a peer meets the same machine.
fn commit_to_accepted(
    world: &World,
    version: Version,
    mut between: impl FnMut(),
) -> Option<Samples> {
    let haproxy = fixture::haproxy(version, SLOTS)?;
    world.block_on(fixture::write_table(&world.store, SLOTS));
    let socket = haproxy.unix().to_string();
    let args = ["sync-haproxy", "--socket", &socket, "--backend", BACKEND, "--from", TABLE];
    let _sync = world.start("sync", &[&args[..], &["--name", "lb1", "--admin", "off"]].concat());
    fixture::wait_for_ready(&haproxy, SLOTS);
    let mut samples = Samples::default();
    for round in 0..ROUNDS {
        let (number, weight) = (1 + round * 9 % SLOTS, 20 + round);
        let txn = fixture::put(Txn::new(), number, Some(Weight::saturating(weight.into())));
        let mut bare = Bare::connect(&haproxy.socket_path());
        let started = Instant::now();
        world.block_on(fixture::commit(&world.store, txn));
        wait_for_weight(&mut bare, number, weight, started);
        samples.push(started.elapsed());
        between();
    }
    Some(samples)
}

/// Asks as often as leaves HAProxy and the daemon their cores.
fn wait_for_weight(bare: &mut Bare, number: u32, weight: u32, started: Instant) {
    let (question, answer) =
        (format!("get weight {BACKEND}/srv{number}"), format!("{weight} (initial"));
    while !bare.ask(&question).starts_with(&answer) {
        assert!(started.elapsed() < DEADLINE, "weight {weight} does not come");
        std::thread::sleep(Duration::from_micros(300));
    }
}

struct BareWatch {
    client: etcd_client::Client,
    stream: etcd_client::WatchStream,
}

impl BareWatch {
    const KEY: &'static str = "bare";

    fn start(world: &World, etcd: &Etcd) -> Self {
        world.block_on(async {
            let mut client = etcd.client().await;
            let stream = client.watch(Self::KEY, None::<WatchOptions>).await.unwrap();
            Self { client, stream }
        })
    }

    async fn put_to_event(&mut self) -> Duration {
        let started = Instant::now();
        self.client.put(Self::KEY, "value", None).await.unwrap();
        while self.stream.message().await.unwrap().unwrap().events().is_empty() {}
        started.elapsed()
    }
}
