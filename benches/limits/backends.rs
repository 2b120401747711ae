//! Many backends in one discover: what one of them costs must not grow with their number.

use std::fmt::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lbctl::model::keys;
use serde_json::json;

use super::fixture;
use super::idle::{cpu, revision, wait_for_quiet};
use super::report::{Report, Row, Target, Unit};
use super::samples::{in_turn, time};
use super::support::{Process, World};

const MANY: u32 = 1_000;
/// The peer of the many.
const SOME: u32 = 100;
const SERVERS: u32 = 4;
/// Of the configuration that is read.
const CONFIGURED: u32 = 2_000;
const IDLE: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(120);

pub fn measure(report: &mut Report) {
    configuration(report);
    type Store = (&'static str, fn() -> Option<World>);
    let stores: [Store; 2] = [("sqlite", || Some(World::sqlite())), ("etcd", World::etcd)];
    for (name, world) in stores {
        if let Some((some, many)) = world().zip(world()) {
            let (some, many) = (run(&some, SOME), run(&many, MANY));
            rows(report, name, &some, &many);
        }
    }
}

/// What so many backends came to.
struct Costs {
    backends: u32,
    /// From the start to the last server's slot.
    placed: Duration,
    /// Processor time until then.
    placing: Duration,
    /// Share of a core, in percent.
    idle: f64,
    /// Commits while idle.
    writes: u64,
    /// From SIGTERM to the end.
    stopped: Duration,
}

impl Costs {
    /// Processor time for each backend, in milliseconds.
    fn placing_each(&self) -> f64 {
        self.placing.as_secs_f64() * 1000.0 / f64::from(self.backends)
    }
}

fn run(world: &World, backends: u32) -> Costs {
    let config = write_config(world, backends);
    let started = Instant::now();
    let mut discover = world.start("discover", &["discover", "--config", &config]);
    while placed(world) < backends * SERVERS {
        assert!(started.elapsed() < PATIENCE, "not all is placed\n{}", discover.tail());
        std::thread::sleep(Duration::from_millis(50));
    }
    let (placed, placing) = (started.elapsed(), cpu(&discover));
    wait_for_quiet(world);
    let (writes, spent, since) = (revision(world), cpu(&discover), Instant::now());
    std::thread::sleep(IDLE);
    let took = since.elapsed();
    let idle = (cpu(&discover) - spent).as_secs_f64() / took.as_secs_f64() * 100.0;
    let writes = revision(world).0 - writes.0;
    Costs { backends, placed, placing, idle, writes, stopped: stop(&mut discover) }
}

fn stop(discover: &mut Process) -> Duration {
    time(|| {
        discover.signal("TERM");
        assert!(discover.wait().success(), "{}", discover.tail());
    })
}

fn placed(world: &World) -> u32 {
    let entries = world.block_on(world.store.list(&keys::backends())).unwrap().entries;
    let slots = entries.iter().filter(|entry| entry.key.as_str().contains("/slots/"));
    u32::try_from(slots.count()).unwrap()
}

/// A file of so many backends, each with a list of its own.
fn write_config(world: &World, backends: u32) -> String {
    let folder = world.dir.path();
    let mut text = "[discover]\nslots = 4\nmin-weight = 100\nadmin = \"off\"\n".to_owned();
    for number in 0..backends {
        let list = folder.join(format!("b{number:05}.json"));
        let servers = (0..SERVERS).map(|server| {
            let server = fixture::server(1, number * SERVERS + server + 1);
            json!({ "id": server.id, "address": server.address })
        });
        std::fs::write(&list, serde_json::to_vec(&servers.collect::<Vec<_>>()).unwrap()).unwrap();
        let list = list.display();
        write!(text, "[[discover.backends]]\nname = \"b{number:05}\"\nsource = \"file:{list}\"\n")
            .unwrap();
    }
    let file = folder.join("lbctl.toml");
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

fn rows(report: &mut Report, store: &str, some: &Costs, many: &Costs) {
    let what = format!("discover on {store}, {MANY} backends of {SERVERS} servers");
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    let row = |name: &str, unit, figure, target| {
        let what = format!("{what}: {name}");
        Row { what, unit, figure, peer: None, target }
    };
    let placed = millis(many.placed);
    let target = Target::AtMost(10_000.0);
    report.add(row("start to the last one placed", Unit::Milliseconds, placed, target));
    report.add(Row {
        peer: Some(some.placing_each()),
        ..row(
            &format!("processor time to place a backend; the peer is one of {SOME}"),
            Unit::Milliseconds,
            many.placing_each(),
            Target::RatioAtMost(2.0),
        )
    });
    report.add(row("idle, share of a core", Unit::Percent, many.idle, Target::AtMost(2.0)));
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let writes = many.writes as f64;
    let name = format!("store writes in {} s idle", IDLE.as_secs());
    report.add(row(&name, Unit::Count, writes, Target::AtMost(0.0)));
    let stopped = millis(many.stopped);
    report.add(row("SIGTERM to its end", Unit::Milliseconds, stopped, Target::AtMost(5_000.0)));
}

/// A configuration of many backends; the peer has a tenth of them.
fn configuration(report: &mut Report) {
    let (few, many) = (World::sqlite(), World::sqlite());
    let (few_file, file) = (write_config(&few, CONFIGURED / 10), write_config(&many, CONFIGURED));
    let check = |world: &World, file: &str| {
        time(|| {
            let mut command = world.command(&["config", "check", file]);
            assert!(command.stdout(Stdio::null()).status().unwrap().success());
        })
    };
    let (ours, peer) = in_turn(5, || check(&many, &file), || check(&few, &few_file));
    let what = format!("`config check` of {CONFIGURED} backends; the peer is ten times a tenth");
    let (figure, peer) = (ours.median(), Some(peer.median() * 10.0));
    let (unit, target) = (Unit::Milliseconds, Target::AtMost(500.0));
    report.add(Row { what, unit, figure, peer, target });
}
