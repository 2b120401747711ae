//! A pass of sync-haproxy against a bare client that writes the same commands.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::Duration;

use lbctl::commands::sync_haproxy::{Engine, Views};
use lbctl::model::{Timestamp, keys};
use lbctl::store::Txn;
use tokio::runtime::{Builder, Runtime};

use super::bare::{self, Bare};
use super::fixture::{self, BACKEND, TABLE, numbers};
use super::report::{Report, Row, Target, Unit};
use super::samples::{Samples, in_turn, time};
use super::support::haproxy::{Haproxy, Version};
use super::support::{World, eventually};

const VERSIONS: [Version; 2] = [Version::V2_6, Version::V3_2];

/// One HAProxy and the ways to it.
struct Bench {
    haproxy: Haproxy,
    socket: PathBuf,
    slots: u32,
    engine: Engine,
    runtime: Runtime,
}

/// Every slot changes.
pub fn every_slot(report: &mut Report) {
    for version in VERSIONS {
        for (slots, rounds) in [(100, 41), (1_000, 21), (5_000, 9)] {
            let Some(mut bench) = Bench::start(version, slots) else { continue };
            bench.fill(report, version, rounds);
            bench.replace(report, version, rounds);
            bench.once(report, version, rounds.min(11));
            bench.daemon(report, version, rounds.min(11));
            if slots <= 1_000 {
                bench.one_connection_a_command(report, version);
            }
        }
    }
}

/// A pass that finds little or nothing to do.
pub fn little_or_nothing(report: &mut Report) {
    for version in VERSIONS {
        for (slots, rounds) in [(1_000, 101), (5_000, 51)] {
            let Some(mut bench) = Bench::start(version, slots) else { continue };
            bench.nothing(report, version, rounds);
            bench.one_weight(report, version, rounds);
            bench.one_address(report, version, rounds);
        }
    }
}

impl Bench {
    fn start(version: Version, slots: u32) -> Option<Self> {
        let haproxy = fixture::haproxy(version, slots)?;
        // As sync-haproxy has it.
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (engine, socket) = (fixture::engine(&haproxy), haproxy.socket_path());
        Some(Self { haproxy, socket, slots, engine, runtime })
    }

    /// Empty places get servers: address, weight, ready.
    fn fill(&mut self, report: &mut Report, version: Version, rounds: usize) {
        let views = fixture::views(fixture::table(self.slots, 1, 100));
        let commands = filling(self.slots, 1, 100);
        let socket = self.socket.clone();
        let (mut ours, mut peer) = (Samples::default(), Samples::default());
        for round in 0..=rounds {
            self.empty();
            self.forget();
            let our = time(|| self.pass(&views));
            self.empty();
            let other = time(|| Bare::connect(&socket).send(&commands));
            if round > 0 {
                ours.push(our);
                peer.push(other);
            }
        }
        report.add(ratio(self.name(version, "filled"), &ours, &peer, Target::RatioAtMost(1.5)));
    }

    /// Each server gives way to another: maint, address, weight, ready.
    fn replace(&mut self, report: &mut Report, version: Version, rounds: usize) {
        let (socket, slots) = (self.socket.clone(), self.slots);
        let tables = [(1, 100), (2, 50)];
        let views = tables
            .map(|(generation, weight)| fixture::views(fixture::table(slots, generation, weight)));
        let commands =
            tables.map(|(generation, weight)| replacing(slots, generation, weight.into()));
        self.pass(&views[1]);
        let (ours, peer) = in_turn(
            rounds,
            || {
                self.forget();
                time(|| self.pass(&views[0]))
            },
            || time(|| Bare::connect(&socket).send(&commands[1])),
        );
        report.add(ratio(self.name(version, "replaced"), &ours, &peer, Target::RatioAtMost(1.5)));
    }

    /// The program as a user starts it, on a database with the table.
    fn once(&mut self, report: &mut Report, version: Version, rounds: usize) {
        let world = World::sqlite();
        world.block_on(fixture::write_table(&world.store, self.slots));
        let commands = filling(self.slots, 1, 100);
        let socket = self.socket.clone();
        let path = socket.to_str().unwrap().to_owned();
        let args =
            ["sync-haproxy", "--socket", &path, "--backend", BACKEND, "--from", TABLE, "--once"];
        let (mut ours, mut peer) = (Samples::default(), Samples::default());
        for _ in 0..rounds {
            self.empty();
            ours.push(time(|| {
                let output = world.command(&args).output().unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }));
            self.empty();
            peer.push(time(|| Bare::connect(&socket).send(&commands)));
        }
        let what = self.name(version, "filled by `sync-haproxy --once`, start and store included");
        report.add(ratio(what, &ours, &peer, Target::None));
    }

    /// The running daemon, from one commit that changes every weight until its report says that
    /// all of it holds.
    fn daemon(&mut self, report: &mut Report, version: Version, rounds: usize) {
        let world = World::sqlite();
        world.block_on(fixture::write_table(&world.store, self.slots));
        let path = self.socket.to_str().unwrap();
        let what = ["sync-haproxy", "--socket", path, "--backend", BACKEND, "--from", TABLE];
        let _sync =
            world.start("sync", &[&what[..], &["--name", "lb1", "--admin", "off"]].concat());
        fixture::wait_for_ready(&self.haproxy, self.slots);
        // The peer has one of its own: in the daemon's it would be another writer.
        let Some(other) = fixture::haproxy(version, self.slots) else { return };
        let weight = Cell::new(100);
        let (ours, peer) = in_turn(
            rounds,
            || {
                weight.set(150 - weight.get());
                let txn = fixture::put_spec(self.slots, weight.get());
                world.block_on(commit_to_converged(&world, txn))
            },
            || {
                let weight = u32::from(weight.get());
                let commands: Vec<String> = numbers(self.slots).map(|n| weigh(n, weight)).collect();
                time(|| Bare::connect(&other.socket_path()).send(&commands))
            },
        );
        let what = self.name(version, "weighed anew by the daemon, commit to converged report");
        report.add(ratio(what, &ours, &peer, Target::None));
    }

    /// As HSDO does it.
    fn one_connection_a_command(&mut self, report: &mut Report, version: Version) {
        let views = fixture::views(fixture::table(self.slots, 1, 100));
        let commands = filling(self.slots, 1, 100);
        let (mut ours, mut peer) = (Samples::default(), Samples::default());
        for _ in 0..5 {
            self.empty();
            self.forget();
            ours.push(time(|| self.pass(&views)));
            self.empty();
            peer.push(time(|| {
                for command in &commands {
                    bare::alone(&self.socket, command);
                }
            }));
        }
        let what = self.name(version, "filled; the peer opens one connection a command");
        report.add(ratio(what, &ours, &peer, Target::None));
    }

    /// The peer reads the state of all servers.
    fn nothing(&mut self, report: &mut Report, version: Version, rounds: usize) {
        let views = fixture::views(fixture::table(self.slots, 1, 100));
        self.pass(&views);
        let socket = self.socket.clone();
        let (ours, peer) =
            in_turn(rounds, || time(|| self.pass(&views)), || time(|| bare::alone(&socket, STATE)));
        report.add(ratio(
            self.name(version, "nothing to do"),
            &ours,
            &peer,
            Target::RatioAtMost(2.0),
        ));
    }

    /// The peer reads the state of all servers and writes one weight.
    fn one_weight(&mut self, report: &mut Report, version: Version, rounds: usize) {
        let views = [100, 50].map(|weight| self.with_one(1, weight));
        let number = self.slots / 2;
        self.one_change(
            report,
            version,
            rounds,
            "one weight",
            &views,
            [vec![weigh(number, 100)], vec![weigh(number, 50)]],
            "srv1 ",
        );
    }

    /// The peer reads the state of all servers and gives one another address.
    fn one_address(&mut self, report: &mut Report, version: Version, rounds: usize) {
        let views = [1, 2].map(|generation| self.with_one(generation, 100));
        let number = self.slots / 2;
        let moved = |generation| vec![stop(number), relocate(number, generation), start(number)];
        let shown = format!(" srv{number} {} ", fixture::address(2, number).ip());
        let commands = [moved(1), moved(2)];
        self.one_change(report, version, rounds, "one address", &views, commands, &shown);
    }

    #[expect(clippy::too_many_arguments, reason = "one caller's ways to vary it")]
    fn one_change(
        &mut self,
        report: &mut Report,
        version: Version,
        rounds: usize,
        what: &str,
        views: &[Views; 2],
        commands: [Vec<String>; 2],
        shown: &str,
    ) {
        let socket = self.socket.clone();
        self.pass(&views[1]);
        let (ours, peer) = in_turn(
            rounds,
            || {
                self.forget();
                time(|| assert!(self.pass(&views[0]) > 0, "there was nothing to do"))
            },
            || {
                let sent = time(|| {
                    let mut bare = Bare::connect(&socket);
                    bare.ask(STATE);
                    bare.send(&commands[1]);
                });
                // From 2.9 on an address changes after the reply.
                eventually("the change to show", || {
                    bare::alone(&socket, STATE).contains(shown).then_some(())
                });
                sent
            },
        );
        report.add(ratio(self.name(version, what), &ours, &peer, Target::RatioAtMost(2.0)));
    }

    /// A full table but for one slot in its middle.
    fn with_one(&self, generation: u8, weight: u32) -> Views {
        let mut table = fixture::table(self.slots, 1, 100);
        let number = self.slots / 2;
        let mut server = fixture::server(generation, number);
        server.weight = Some(lbctl::model::Weight::saturating(weight.into()));
        let held = lbctl::commands::sync_haproxy::Held::By(fixture::record(server));
        table.slots.insert(fixture::slot(number), held);
        fixture::views(table)
    }

    /// How many commands it took.
    fn pass(&mut self, views: &Views) -> usize {
        let pass = self.engine.pass(views, Timestamp::now());
        let pass = self.runtime.block_on(pass).unwrap();
        assert!(pass.is_converged(), "{:?}", pass.errors());
        pass.applied
    }

    /// What the peer does is to an engine another writer's fight against it, so that it writes ever
    /// more seldom: a new one knows nothing of the rounds before. It has asked HAProxy who it is.
    fn forget(&mut self) {
        self.engine = fixture::engine(&self.haproxy);
        let nothing = Views::new();
        let pass = self.engine.pass(&nothing, Timestamp::now());
        assert_eq!(self.runtime.block_on(pass).unwrap().applied, 0);
    }

    /// Takes every server out, with an address and a weight that it has nowhere else.
    fn empty(&self) {
        let reset = |n| [stop(n), format!("{} addr 127.0.0.9 port 9", set(n)), weigh(n, 1)];
        let commands: Vec<String> = numbers(self.slots).flat_map(reset).collect();
        Bare::connect(&self.socket).send(&commands);
        eventually("the old addresses to go", || {
            let state = bare::alone(&self.socket, STATE);
            let shown = state.lines().filter(|line| line.contains(" 127.0.0.9 ")).count();
            (shown == self.slots as usize).then_some(())
        });
    }

    fn name(&self, version: Version, what: &str) -> String {
        format!("HAProxy {}, {} slots: {what}", version.name(), self.slots)
    }
}

async fn commit_to_converged(world: &World, txn: Txn) -> Duration {
    let key = keys::haproxy(&"lb1".parse().unwrap());
    let watch = world.store.watch(&keys::haproxies()).await.unwrap();
    let mut mirror = lbctl::store::Mirror::new(watch);
    mirror.changed().await;
    let started = std::time::Instant::now();
    let revision = fixture::commit(&world.store, txn).await;
    loop {
        mirror.changed().await;
        let reported = mirror.entries().get(&key).is_some_and(|entry| {
            let report: lbctl::model::HaproxyReport = entry.json().unwrap();
            report.backends.values().all(|b| b.converged && b.applied >= revision)
        });
        if reported {
            return started.elapsed();
        }
    }
}

const STATE: &str = "show servers state app";

fn set(number: u32) -> String {
    format!("set server {BACKEND}/srv{number}")
}

fn stop(number: u32) -> String {
    format!("{} state maint", set(number))
}

fn start(number: u32) -> String {
    format!("{} state ready", set(number))
}

fn weigh(number: u32, weight: u32) -> String {
    format!("{} weight {weight}", set(number))
}

fn relocate(number: u32, generation: u8) -> String {
    let address = fixture::address(generation, number);
    format!("{} addr {} port {}", set(number), address.ip(), address.port())
}

fn filling(slots: u32, generation: u8, weight: u32) -> Vec<String> {
    let addresses = numbers(slots).map(|n| relocate(n, generation));
    addresses.chain(numbers(slots).flat_map(|n| [weigh(n, weight), start(n)])).collect()
}

fn replacing(slots: u32, generation: u8, weight: u32) -> Vec<String> {
    let moves = numbers(slots).flat_map(|n| [stop(n), relocate(n, generation)]);
    moves.chain(numbers(slots).flat_map(|n| [weigh(n, weight), start(n)])).collect()
}

fn ratio(what: String, ours: &Samples, peer: &Samples, target: Target) -> Row {
    let (figure, peer) = (ours.median(), Some(peer.median()));
    Row { what, unit: Unit::Milliseconds, figure, peer, target }
}
