//! Auto Scaling groups: what following them costs, and how soon HAProxy has what they did.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::fixture::{self, BACKEND, TABLE, numbers};
use super::idle::{cpu, memory_kib};
use super::report::{Report, Row, Target, Unit};
use super::samples::Samples;
use super::support::haproxy::{Haproxy, Version};
use super::support::moto::Moto;
use super::support::{Cloud, Process, World, free_port, http_get};

const INSTANCES: u32 = 500;
const GROUPS: u32 = 4;
/// How long looks at 500 instances are measured: nobody asks discover meanwhile, which would cost it
/// more than a look.
const LOOKS: Duration = Duration::from_secs(30);
const ROUNDS: u32 = 30;
/// Of discover, in the measurement of the delay.
const INTERVAL: Duration = Duration::from_secs(1);
/// Of a watch in DynamoDB, unless told otherwise.
const POLL: Duration = Duration::from_secs(1);
const WATCHERS: u32 = 10;
const QUIET: Duration = Duration::from_secs(30);

pub fn measure(report: &mut Report) {
    looks(report);
    delay(report);
    reads(report);
}

fn row(what: impl Into<String>, unit: Unit, figure: f64, target: Target) -> Row {
    Row { what: what.into(), unit, figure, peer: None, target }
}

/// Calls, processor time and memory of looks at many instances.
fn looks(report: &mut Report) {
    let Some(moto) = Moto::start() else { return };
    let (cloud, world) = (Cloud::on(Arc::new(moto)), World::sqlite());
    let zone = [("AvailabilityZones.member.1", "eu-west-1b")];
    let size = INSTANCES / GROUPS;
    let groups: Vec<String> =
        (0..GROUPS).map(|n| cloud.group_in(&format!("g{n}"), size, &zone)).collect();
    let admin = free_port();
    let source = format!("asg:{}", groups.join(","));
    let slots = INSTANCES.to_string();
    let discover = discover(&world, &cloud, &source, &slots, admin);
    let looked = || count(admin, "DescribeAutoScalingGroups");
    until(|| looked() >= 3);
    let asked = count(admin, "DescribeInstances");
    let (spent, first) = (cpu(&discover), looked());
    std::thread::sleep(LOOKS);
    let looks = looked() - first;
    let spent = (cpu(&discover) - spent) / u32::try_from(looks).unwrap();
    let asked = count(admin, "DescribeInstances") - asked;
    let what = format!("discover, {INSTANCES} instances in {GROUPS} groups");
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let calls = 1.0 + asked as f64 / looks as f64;
    // One page of groups, and one call for each hundred instances; a look may be half done.
    let least = 1.0 + f64::from(INSTANCES) / 100.0;
    let target = Target::AtMost(least + 0.5);
    report.add(row(format!("{what}: calls of AWS a look"), Unit::Count, calls, target));
    let spent = spent.as_secs_f64() * 1000.0;
    let target = Target::AtMost(30.0);
    report.add(row(format!("{what}: processor time a look"), Unit::Milliseconds, spent, target));
    let memory = memory_kib(&discover) * 1.024 / 1000.0;
    let target = Target::AtMost(30.0);
    report.add(row(format!("{what}: resident memory"), Unit::Megabytes, memory, target));
}

/// Waits as long as it takes: moto needs more than a second for a look at so many instances.
fn until(holds: impl Fn() -> bool) {
    while !holds() {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// From a group's change to the server that is ready in HAProxy.
fn delay(report: &mut Report) {
    let Some((world, cloud)) = world().zip(Cloud::new()) else { return };
    let Some(haproxy) = fixture::haproxy(Version::V3_2, 10 + ROUNDS) else { return };
    let group = cloud.group("web", 10);
    let slots = (10 + ROUNDS).to_string();
    let source = format!("asg:{group}");
    let _discover = discover(&world, &cloud, &source, &slots, free_port());
    let _sync = sync(&world, &haproxy, 1, free_port());
    fixture::wait_for_ready(&haproxy, 10);
    let mut samples = Samples::default();
    for round in 0..ROUNDS {
        // Anywhere between two looks.
        std::thread::sleep(Duration::from_millis(fastrand::u64(500..2_500)));
        cloud.scale(&group, 11 + round);
        let started = Instant::now();
        fixture::wait_for_ready(&haproxy, 11 + round);
        samples.push(started.elapsed());
    }
    let what = "a new instance, group to HAProxy, store in DynamoDB";
    let limit = (INTERVAL + POLL).as_secs_f64() * 1000.0 + 100.0;
    let median = samples.median();
    report.add(row(format!("{what}: median"), Unit::Milliseconds, median, Target::None));
    let target = Target::AtMost(limit);
    report.add(row(format!("{what}: p99"), Unit::Milliseconds, samples.p99(), target));
}

/// What idle watchers read; the peer scans as many rows of HSDO's every second. moto counts half a
/// unit for every small read, as DynamoDB does; what it counts for a scan means nothing, so that the
/// peer is by the rule: 8 KB a unit, eventually consistent.
fn reads(report: &mut Report) {
    let Some(world) = world() else { return };
    let Some(haproxy) = fixture::haproxy(Version::V3_2, INSTANCES) else { return };
    let list = world.dir.path().join("web.json");
    let servers = numbers(INSTANCES)
        .map(|n| fixture::server(1, n))
        .map(|server| json!({ "id": server.id, "address": server.address }));
    std::fs::write(&list, serde_json::to_vec(&servers.collect::<Vec<_>>()).unwrap()).unwrap();
    let (source, slots) = (format!("file:{}", list.display()), INSTANCES.to_string());
    let once = ["discover", "--backend", TABLE, "--source", &source, "--slots", &slots, "--once"];
    let flat = ["--min-weight", "100"];
    let filled = world.command(&[&once[..], &flat].concat()).status().unwrap();
    assert!(filled.success());
    let ports: Vec<u16> = (0..WATCHERS).map(|_| free_port()).collect();
    let mut syncs = Vec::new();
    // One by one: moto copies the whole table for every commit.
    for (number, port) in (1..).zip(&ports) {
        syncs.push(sync(&world, &haproxy, number, *port));
        let report = || world.get(&format!("haproxies/lb{number}"));
        until(|| report().is_some_and(|report| report.contains("\"converged\":true")));
    }
    // Until every first report is written and read, and nothing has changed for long.
    std::thread::sleep(Duration::from_secs(60));
    let units = || ports.iter().map(|port| read_units(*port)).sum::<f64>();
    let (before, started) = (units(), Instant::now());
    std::thread::sleep(QUIET);
    let each = (units() - before) / started.elapsed().as_secs_f64() / f64::from(WATCHERS);
    let scan = f64::from(INSTANCES) * HSDO_ROW / 8192.0;
    report.add(Row {
        what: format!(
            "an idle sync-haproxy of {WATCHERS}, {INSTANCES} servers: read units a second"
        ),
        unit: Unit::Hundredths,
        figure: each,
        peer: Some(scan),
        target: Target::RatioAtMost(1.0 / 50.0),
    });
}

/// Names and values of a row of HSDO's that holds a server, in bytes.
const HSDO_ROW: f64 = 165.0;

/// A store on DynamoDB with the usual poll.
fn world() -> Option<World> {
    let mut world = World::dynamodb()?;
    world.url = world.url.replace("&poll=100ms", "");
    Some(world)
}

fn discover(world: &World, cloud: &Cloud, source: &str, slots: &str, admin: u16) -> Process {
    let admin = format!("127.0.0.1:{admin}");
    let interval = format!("{}s", INTERVAL.as_secs());
    let what = ["discover", "--backend", TABLE, "--source", source, "--slots", slots];
    let how = ["--interval", &interval, "--min-weight", "100", "--admin", &admin];
    let mut command = world.command(&[&what[..], &how].concat());
    command.env("AWS_ENDPOINT_URL", cloud.moto.endpoint()).env("AWS_REGION", "eu-west-1");
    Process::start("discover", world.dir.path(), &mut command)
}

fn sync(world: &World, haproxy: &Haproxy, number: u32, admin: u16) -> Process {
    let (socket, admin) = (haproxy.unix().to_string(), format!("127.0.0.1:{admin}"));
    let name = format!("lb{number}");
    let what = ["sync-haproxy", "--socket", &socket, "--backend", BACKEND, "--from", TABLE];
    let mut command = world.command(&[&what[..], &["--name", &name, "--admin", &admin]].concat());
    command.env("LBCTL_SYNC_HAPROXY_REPORT_TTL", "60s");
    Process::start(&name, world.dir.path(), &mut command)
}

/// How often a call was answered.
fn count(admin: u16, call: &str) -> usize {
    let name = format!("lbctl_aws_calls_total{{call=\"{call}\",result=\"ok\"}} ");
    let text = http_get(admin, "/metrics").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(&name).map(str::to_owned));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

fn read_units(admin: u16) -> f64 {
    let text = http_get(admin, "/metrics").unwrap_or_default();
    let reads = text.lines().filter(|line| {
        line.starts_with("lbctl_store_consumed_capacity_units") && line.contains("\"watch\"")
    });
    reads.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}
