//! `lbctl discover` as processes, on real stores.

mod config;
mod consul;
mod dns;
mod files;
mod history;
mod leader;
mod lives;
mod readiness;
mod registrations;

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use lbctl::model::{
    BackendName, BackendReport, BackendSpec, Endpoint, HaproxyReport, Registration, SlotNumber,
    SlotRecord, Timestamp, keys,
};
use lbctl::store::{self, Key, Revision, SharedStore};
use tempfile::TempDir;

use crate::support::etcd::Etcd;
use crate::support::world::{LONG_ENOUGH, put_held};
use crate::support::{Process, eventually_async, lbctl};

/// A store, and discovers on it.
struct World {
    dir: TempDir,
    url: String,
    store: SharedStore,
}

impl World {
    async fn sqlite() -> Self {
        let dir = TempDir::new().unwrap();
        let url = format!("sqlite:{}", dir.path().join("store.db").display());
        Self::on(dir, url).await
    }

    async fn on(dir: TempDir, url: String) -> Self {
        let store = store::open(&url.parse().unwrap()).await.unwrap();
        Self { dir, url, store }
    }

    fn command(&self, flags: &[&str]) -> Command {
        let mut command = self.command_on(&self.url, flags);
        command.env("LBCTL_DISCOVER_ADMIN", "off");
        command
    }

    fn command_on(&self, url: &str, flags: &[&str]) -> Command {
        let mut command = Command::new(lbctl());
        let config = self.dir.path().join("empty.toml");
        std::fs::write(&config, "").unwrap();
        command.args(["discover", "--backend", "web", "--store", url, "--config"]);
        command.arg(config).args(flags);
        command.env("LBCTL_LOG", "info");
        command
    }

    fn start(&self, name: &str, flags: &[&str]) -> Process {
        let quick = ["--rest", "200ms", "--ttl", "2s", "--confirm-interval", "100ms"];
        Process::start(name, self.dir.path(), self.command(flags).args(quick))
    }

    fn run(&self, flags: &[&str]) -> Output {
        self.command(flags).output().unwrap()
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        format!("file:{}", path.display())
    }

    /// As a process that lives does.
    async fn put_held(&self, key: Key, value: &impl serde::Serialize) {
        put_held(&*self.store, key, serde_json::to_vec(value).unwrap()).await;
    }

    async fn register(&self, id: &str, leaving: bool) {
        let port = 8000 + u16::from(id.as_bytes()[0]);
        let (address, id) = (format!("127.0.0.1:{port}"), id.parse().unwrap());
        let endpoint = Endpoint {
            address: address.parse().unwrap(),
            id,
            name: None,
            group: None,
            zone: None,
            weight: None,
            leaving,
        };
        let key = keys::registration(&web(), &endpoint.id);
        self.put_held(key, &Registration { endpoint, since: Timestamp::now() }).await;
    }

    /// As a process that ends does.
    async fn forget(&self, id: &str) {
        let key = keys::registration(&web(), &id.parse().unwrap());
        let found = self.store.get(&key).await.unwrap();
        if let Some(lease) = found.and_then(|entry| entry.lease) {
            self.store.revoke(lease).await.unwrap();
        }
    }

    /// What a HAProxy's sync would report.
    async fn report(&self, applied: Revision, sessions: &[(u32, u64)]) {
        let slot = |(slot, n): &(u32, u64)| (SlotNumber::new(*slot).unwrap(), *n);
        let sessions = sessions.iter().map(slot).collect();
        let report = HaproxyReport {
            name: "lb1".parse().unwrap(),
            pid: Some(1),
            version: None,
            at: Timestamp::now(),
            backends: [(web(), BackendReport { applied, sessions, ..Default::default() })].into(),
        };
        self.put_held(keys::haproxy(&report.name.clone()), &report).await;
    }

    /// `1 ready a`, one a slot, and the greatest revision of a slot.
    async fn table(&self) -> (Vec<String>, Revision) {
        let listing = self.store.list(&keys::slots(&web())).await.unwrap();
        let lines = listing.entries.iter().map(|entry| {
            let record: SlotRecord = serde_json::from_slice(&entry.value).unwrap();
            let slot: SlotNumber = entry.key.last().parse().unwrap();
            format!("{slot} {:?} {}", record.state, record.endpoint.id).to_lowercase()
        });
        let modified = listing.entries.iter().map(|entry| entry.modified).max();
        (lines.collect(), modified.unwrap_or_default())
    }

    async fn becomes(&self, process: &Process, expected: &[&str]) -> Revision {
        let what = format!("{expected:?}; {}", process.tail());
        eventually_async(&what, async || {
            let (lines, modified) = self.table().await;
            (lines == expected).then_some(modified)
        })
        .await
    }

    /// The table is this, and goes on to be while what must not happen has the time to.
    async fn stays(&self, expected: &[&str]) {
        let started = Instant::now();
        while started.elapsed() < LONG_ENOUGH {
            assert_eq!(self.table().await.0, expected);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn spec(&self) -> BackendSpec {
        let entry = self.store.get(&keys::spec(&web())).await.unwrap().unwrap();
        serde_json::from_slice(&entry.value).unwrap()
    }
}

fn web() -> BackendName {
    "web".parse().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn sqlite_registrations_come_drain_rest_and_make_room() {
    registrations(World::sqlite().await).await;
}

#[tokio::test]
async fn etcd_registrations_come_drain_rest_and_make_room() {
    let Some(etcd) = Etcd::shared() else { return };
    let dir = TempDir::new().unwrap();
    registrations(World::on(dir, etcd.url("discover-registry")).await).await;
}

async fn registrations(world: World) {
    let discover = world.start("discover", &["--source", "registry", "--slots", "2"]);
    world.register("a", false).await;
    world.becomes(&discover, &["1 ready a"]).await;
    world.register("b", false).await;
    world.becomes(&discover, &["1 ready a", "2 ready b"]).await;
    world.register("c", false).await;
    eventually_async("c to be reported as unplaced", async || {
        let unplaced = world.spec().await.unplaced;
        (unplaced.len() == 1 && unplaced[0].as_str() == "c").then_some(())
    })
    .await;
    world.report(Revision(0), &[]).await;
    world.register("a", true).await;
    let drained = world.becomes(&discover, &["1 drain a", "2 ready b"]).await;
    world.report(drained, &[(1, 2)]).await;
    world.forget("nobody").await;
    world.stays(&["1 drain a", "2 ready b"]).await;
    world.report(drained, &[(1, 0)]).await;
    let rested = world.becomes(&discover, &["1 rest a", "2 ready b"]).await;
    // Its time is over long before the HAProxy has it in maint.
    world.stays(&["1 rest a", "2 ready b"]).await;
    world.report(rested, &[]).await;
    world.becomes(&discover, &["1 ready c", "2 ready b"]).await;
    assert!(world.spec().await.unplaced.is_empty());
}

#[tokio::test]
async fn a_file_is_followed_in_every_format_and_a_broken_one_keeps_the_table() {
    for (name, one, two, broken) in [
        ("web.json", r#"["127.0.0.1:1"]"#, r#"["127.0.0.1:1", "127.0.0.1:2"]"#, "[\n\"127."),
        ("web.yaml", "- 127.0.0.1:1\n", "- 127.0.0.1:1\n- 127.0.0.1:2\n", "\n- wieght: 1"),
        (
            "web.toml",
            "endpoints = ['127.0.0.1:1']",
            "endpoints = ['127.0.0.1:1', '127.0.0.1:2']",
            "\nendpoints = 1",
        ),
    ] {
        let world = World::sqlite().await;
        let source = world.file(name, one);
        let mut discover = world.start("discover", &["--source", &source, "--slots", "3"]);
        world.becomes(&discover, &["1 ready 127.0.0.1:1"]).await;
        let path = world.dir.path().join(name);
        std::fs::write(world.dir.path().join("new"), two).unwrap();
        std::fs::rename(world.dir.path().join("new"), &path).unwrap();
        let both = ["1 ready 127.0.0.1:1", "2 ready 127.0.0.1:2"];
        world.becomes(&discover, &both).await;
        std::fs::write(&path, broken).unwrap();
        discover.wait_for_log(&format!("{name}:2: "));
        assert_eq!(world.table().await.0, both);
        std::fs::write(&path, one).unwrap();
        discover.wait_for_log("has recovered");
        // One that vanishes from a file may be alive: it drains.
        world.becomes(&discover, &["1 ready 127.0.0.1:1", "2 drain 127.0.0.1:2"]).await;
    }
}

#[tokio::test]
async fn an_empty_answer_is_refused_until_a_drop_is_allowed() {
    let world = World::sqlite().await;
    let source = world.file("web.json", r#"["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]"#);
    let flags = ["--source", &source, "--slots", "3"];
    assert!(world.run(&[&flags[..], &["--once"]].concat()).status.success());
    let full = world.table().await;
    assert_eq!(full.0.len(), 3);
    world.file("web.json", "[]");
    let refused = world.run(&[&flags[..], &["--once"]].concat());
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("--allow-drop"), "{}", text(&refused.stderr));
    assert_eq!(world.table().await, full);
    let allowed = world.run(&[&flags[..], &["--once", "--allow-drop"]].concat());
    assert!(allowed.status.success(), "{}", text(&allowed.stderr));
    assert!(world.table().await.0.iter().all(|line| line.contains("drain")));
}

#[tokio::test]
async fn once_without_an_answer_of_the_source_fails_and_names_it() {
    let world = World::sqlite().await;
    let missing = format!("file:{}", world.dir.path().join("no.json").display());
    for _ in 0..2 {
        let once = world.run(&["--source", &missing, "--slots", "3", "--once"]);
        let error = text(&once.stderr);
        assert_eq!(once.status.code(), Some(1), "{error}");
        assert!(error.contains("error: cannot read ") && error.contains("no.json"), "{error}");
    }
}

#[tokio::test]
async fn a_mass_drop_is_done_once_enough_looks_confirm_it() {
    let world = World::sqlite().await;
    let four = r#"["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"]"#;
    let source = world.file("web.json", four);
    let confirm = ["--source", &source, "--slots", "4", "--confirm-passes", "5"];
    let mut discover = world.start("discover", &confirm);
    discover.wait_for_log("slot=4");
    world.file("web.json", r#"["127.0.0.1:4"]"#);
    discover.wait_for_log("refused: 75% of the servers vanished");
    let drained = ["1 drain 127.0.0.1:1", "2 drain 127.0.0.1:2", "3 drain 127.0.0.1:3"];
    world.becomes(&discover, &[&drained[..], &["4 ready 127.0.0.1:4"]].concat()).await;
}

#[tokio::test]
async fn a_dry_run_shows_the_plan_and_writes_nothing() {
    let world = World::sqlite().await;
    let source = world.file("web.json", r#"["127.0.0.1:1", "127.0.0.1:2"]"#);
    let flags = ["--source", &source, "--slots", "1", "--dry-run"];
    let shown = world.run(&flags);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    assert!(text(&shown.stdout).contains("place"), "{}", text(&shown.stdout));
    assert!(text(&shown.stdout).contains("127.0.0.1:2 has no slot"), "{}", text(&shown.stdout));
    let json = world.run(&[&flags[..], &["--output", "json"]].concat());
    let plans: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(plans[0]["actions"][0]["kind"], "place");
    let root = store::Prefix::root();
    assert_eq!(world.store.list(&root).await.unwrap().entries, []);
}

#[tokio::test]
async fn of_two_copies_one_leads_and_the_other_takes_over() {
    let world = World::sqlite().await;
    let flags = ["--source", "registry", "--slots", "4"];
    let mut first = world.start("first", &flags);
    first.wait_for_log("leading");
    let mut second = world.start("second", &flags);
    world.register("a", false).await;
    world.becomes(&first, &["1 ready a"]).await;
    assert!(!second.log().contains("place"), "a follower wrote");
    let once = world.run(&[&flags[..], &["--once", "--ttl", "1s"]].concat());
    assert_eq!(once.status.code(), Some(75), "{}", text(&once.stderr));
    first.kill();
    world.register("b", false).await;
    world.becomes(&second, &["1 ready a", "2 ready b"]).await;
    second.wait_for_log("place");
    let third = world.start("third", &flags);
    second.signal("TERM");
    assert!(second.wait().success(), "{}", second.tail());
    world.register("c", false).await;
    world.becomes(&third, &["1 ready a", "2 ready b", "3 ready c"]).await;
}

/// A host that fails may take the leader and the leases of servers with it.
#[tokio::test]
async fn a_successor_lets_nobody_go_before_it_has_looked_several_times() {
    let world = World::sqlite().await;
    let flags = ["--source", "registry", "--slots", "3"];
    let mut first = world.start("first", &flags);
    world.register("a", false).await;
    world.becomes(&first, &["1 ready a"]).await;
    world.register("b", false).await;
    world.becomes(&first, &["1 ready a", "2 ready b"]).await;
    let mut second = world.start("second", &flags);
    second.wait_for_log("following");
    first.kill();
    world.forget("a").await;
    second.wait_for_log("1 servers are missing since an outage or a change of leader");
    world.becomes(&second, &["2 ready b"]).await;
}

#[test]
fn every_mistake_in_the_settings_is_told_at_once() {
    let config = |dir: &Path| dir.join("lbctl.toml");
    let dir = TempDir::new().unwrap();
    let bad = "[discover]\nttl = '1ms'\n[[discover.backends]]\nname = 'web'\nsource = 'dns:'\n";
    std::fs::write(config(dir.path()), bad).unwrap();
    let mut command = Command::new(lbctl());
    command.args(["discover", "--store", "memory:", "--config"]).arg(config(dir.path()));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    for says in ["lbctl.toml:2:", "lbctl.toml:5:", "has no slots"] {
        assert!(text(&output.stderr).contains(says), "{says}: {}", text(&output.stderr));
    }
}
