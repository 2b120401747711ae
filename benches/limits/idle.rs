//! What the daemons cost while nothing happens.

use std::time::{Duration, Instant};

use lbctl::model::keys;
use lbctl::store::Revision;
use serde_json::json;

use super::fixture::{self, BACKEND, TABLE, numbers};
use super::report::{Report, Row, Target, Unit};
use super::support::haproxy::Version;
use super::support::{Process, World, eventually};

const SLOTS: u32 = 1_000;

/// `LBCTL_BENCH_IDLE` takes another number of seconds.
const SECONDS: u64 = 60;

/// Rests, checks and reports are over once nothing has been written for so long.
const QUIET: Duration = Duration::from_secs(8);

/// `USER_HZ` of proc(5): the kernel shows times in it on every machine of today.
const TICKS_A_SECOND: u64 = 100;

pub fn measure(report: &mut Report) {
    let worlds = [("sqlite", Some(World::sqlite())), ("etcd", World::etcd())];
    for (store, world) in worlds {
        if let Some(world) = world {
            measure_on(report, store, &world);
        }
    }
}

fn measure_on(report: &mut Report, store: &str, world: &World) {
    let Some(haproxy) = fixture::haproxy(Version::V2_6, SLOTS) else { return };
    let list = world.dir.path().join("web.json");
    let servers = numbers(SLOTS)
        .map(|n| fixture::server(1, n))
        .map(|server| json!({ "id": server.id, "address": server.address }));
    std::fs::write(&list, serde_json::to_vec(&servers.collect::<Vec<_>>()).unwrap()).unwrap();
    let (source, slots) = (format!("file:{}", list.display()), SLOTS.to_string());
    let what = ["discover", "--backend", TABLE, "--source", &source, "--slots", &slots];
    let discover =
        world.start("discover", &[&what[..], &["--min-weight", "100", "--admin", "off"]].concat());
    let socket = haproxy.unix().to_string();
    let what = ["sync-haproxy", "--socket", &socket, "--backend", BACKEND, "--from", TABLE];
    let sync = world.start("sync", &[&what[..], &["--name", "lb1", "--admin", "off"]].concat());
    fixture::wait_for_ready(&haproxy, SLOTS);
    wait_for_quiet(world);
    let seconds = std::env::var("LBCTL_BENCH_IDLE").map_or(SECONDS, |text| text.parse().unwrap());
    let (before, started) = (revision(world), Instant::now());
    let spent = [cpu(&discover), cpu(&sync)];
    std::thread::sleep(Duration::from_secs(seconds));
    let took = started.elapsed();
    for (name, process, spent) in
        [("discover", &discover, spent[0]), ("sync-haproxy", &sync, spent[1])]
    {
        let share = (cpu(process) - spent).as_secs_f64() / took.as_secs_f64() * 100.0;
        let row = |what, unit, figure, most| {
            let what = format!("{name} idle on {store}, {SLOTS} slots: {what}");
            Row { what, unit, figure, peer: None, target: Target::AtMost(most) }
        };
        report.add(row("share of a core", Unit::Percent, share, 0.2));
        report.add(row(
            "resident memory",
            Unit::Megabytes,
            memory_kib(process) * 1.024 / 1000.0,
            20.0,
        ));
    }
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let writes = (revision(world).0 - before.0) as f64;
    let what = format!("both idle on {store}: store writes in {} s", took.as_secs());
    report.add(Row {
        what,
        unit: Unit::Count,
        figure: writes,
        peer: None,
        target: Target::AtMost(0.0),
    });
}

pub fn wait_for_quiet(world: &World) {
    let mut last = (revision(world), Instant::now());
    eventually("an end of the writes to the store", || {
        let now = revision(world);
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() >= QUIET).then_some(())
    });
}

pub fn revision(world: &World) -> Revision {
    world.block_on(world.store.list(&keys::serve())).unwrap().revision
}

/// User and system time, of `/proc/PID/stat`.
pub fn cpu(process: &Process) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    // The name in brackets may have spaces; the state behind it is field 3, the times 14 and 15.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 1000 / TICKS_A_SECOND)
}

pub fn memory_kib(process: &Process) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
