//! `lbctl sync-haproxy` as a user types it: the daemon, `--once`, `--dry-run`, `--dump-state`,
//! SIGHUP and many backends, on a real HAProxy and the embedded store.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use lbctl::model::{
    BackendName, BackendSpec, Endpoint, HaproxyReport, Ramp, SlotRecord, SlotState, Timestamp,
    Weight, keys,
};
use lbctl::store::{self, Commit, SharedStore, Txn};
use tempfile::TempDir;

use super::support::haproxy::{Backend, Haproxy, NamedServer, Options, Version, on_every_haproxy};
use super::support::{Process, endpoint, eventually, eventually_async, lbctl, table};

on_every_haproxy! {
    the_daemon_fills_and_empties_haproxy_and_reports_it,
    once_ends_with_what_it_came_to,
    too_few_places_name_the_line_and_the_others_are_served,
    a_dry_run_prints_every_command_and_sends_none,
    a_dry_run_fails_where_the_run_would,
    a_dumped_state_is_what_haproxy_begins_with,
    a_fallback_takes_the_rest_and_every_slot_leaves_every_backend,
    a_flag_is_a_setting_of_every_backend_of_the_file,
    sighup_takes_a_new_configuration_and_refuses_a_broken_one,
}

/// A HAProxy, a store and a table `web` of four slots at full weight.
struct World {
    haproxy: Haproxy,
    store: SharedStore,
    folder: TempDir,
}

impl World {
    async fn start(version: Version, options: Options) -> Option<Self> {
        let haproxy = Haproxy::start(options.on(version))?;
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("store.db").display());
        let store = store::open(&url.parse().unwrap()).await.unwrap();
        Some(Self { haproxy, store, folder })
    }

    async fn put_spec(&self, slots: u32) {
        let spec = BackendSpec {
            slots,
            ramp: Ramp::flat(Weight::saturating(100)),
            drain_deadline: Duration::from_secs(300),
            drain_at_least: Duration::ZERO,
            rest: Duration::from_secs(1),
            unplaced: Vec::new(),
            origin: None,
        };
        let txn = Txn::new().put(keys::spec(&web()), serde_json::to_vec(&spec).unwrap());
        self.commit(table::confirmed(txn, &web())).await;
    }

    async fn put(&self, number: u32, endpoint: Endpoint, state: SlotState) {
        let (since, started) = (Timestamp::now(), Timestamp::now());
        let record = SlotRecord { endpoint, state, since, started };
        self.change(number, Some(record)).await;
    }

    async fn free(&self, number: u32) {
        self.change(number, None).await;
    }

    async fn change(&self, number: u32, record: Option<SlotRecord>) {
        self.commit(table::changes(&self.store, &web(), [(number, record)]).await).await;
    }

    async fn commit(&self, txn: Txn) {
        assert!(matches!(self.store.commit(txn).await.unwrap(), Commit::Committed(_)));
    }

    /// The command with this world's store, and without a configuration of the host.
    fn sync(&self, arguments: &[&str]) -> Command {
        let empty = self.folder.path().join("empty.toml");
        if !empty.exists() {
            std::fs::write(&empty, "").unwrap();
        }
        self.sync_with(&empty, arguments)
    }

    fn sync_with(&self, config: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(lbctl());
        let store = format!("sqlite:{}", self.folder.path().join("store.db").display());
        command.args(["sync-haproxy", "--store", &store, "--config"]).arg(config);
        command.arg("--socket").arg(self.haproxy.socket_path()).args(arguments);
        command
    }

    fn once(&self, arguments: &[&str]) -> Output {
        self.sync(arguments).arg("--once").output().unwrap()
    }

    fn daemon(&self, arguments: &[&str]) -> Process {
        let mut command = self.sync(arguments);
        command.args(["--name", "lb1", "--admin", "off"]);
        Process::start("sync", self.folder.path(), &mut command)
    }

    async fn report(&self) -> Option<HaproxyReport> {
        let key = keys::haproxy(&"lb1".parse().unwrap());
        let entry = self.store.get(&key).await.unwrap()?;
        Some(serde_json::from_slice(&entry.value).unwrap())
    }

    /// Name, state and address of each server of a backend.
    fn servers(&self, backend: &str) -> Vec<(String, &'static str, String)> {
        let servers = self.haproxy.servers(backend);
        servers.iter().map(|s| (s.get("srv_name").to_owned(), s.state(), s.address())).collect()
    }

    fn states(&self, backend: &str) -> Vec<&'static str> {
        self.servers(backend).into_iter().map(|(_, state, _)| state).collect()
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn web() -> BackendName {
    "web".parse().unwrap()
}

fn in_zone(id: &str, zone: &str) -> Endpoint {
    Endpoint { zone: Some(zone.parse().unwrap()), ..endpoint(id, "127.0.0.1:9") }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn the_daemon_fills_and_empties_haproxy_and_reports_it(version: Version) {
    let options = Options::new([Backend::new("app", 3).checked()]);
    let Some(world) = World::start(version, options).await else { return };
    world.put_spec(3).await;
    let mut sync = world.daemon(&["--backend", "app", "--from", "web"]);
    let servers = ["a", "b", "c"].map(|name| NamedServer::start(name, "127.0.0.1"));
    for (number, server) in (1..).zip(&servers) {
        world
            .put(number, endpoint(&format!("e{number}"), server.address()), SlotState::Ready)
            .await;
    }
    eventually(&format!("three servers to be up\n{}", sync.tail()), || {
        let up = world.haproxy.servers("app").iter().all(|s| s.is_up() && s.weight() == 100);
        up.then_some(())
    });
    let addresses: Vec<String> = world.servers("app").into_iter().map(|(_, _, at)| at).collect();
    assert_eq!(addresses, servers.each_ref().map(|server| server.address().to_string()));
    for number in 1..=3 {
        world.free(number).await;
    }
    let freed = world.store.list(&keys::backend(&web())).await.unwrap().revision;
    eventually_async("the report to reach the last change", async || {
        let report = world.report().await?;
        let web = &report.backends[&web()];
        (web.applied >= freed && web.converged && web.drift == 0).then_some(())
    })
    .await;
    assert_eq!(world.states("app"), ["maint"; 3], "reported before it held");
    sync.signal("TERM");
    assert!(sync.wait().success());
    assert_eq!(world.report().await, None, "the report outlived a clean stop");
}

async fn once_ends_with_what_it_came_to(version: Version) {
    let Some(mut world) = World::start(version, Options::new([Backend::new("app", 2)])).await
    else {
        return;
    };
    let missing = world.once(&["--backend", "app", "--from", "web"]);
    assert_eq!(missing.status.code(), Some(78), "{}", stderr(&missing));
    assert!(stderr(&missing).contains("no table web"), "{}", stderr(&missing));

    world.put_spec(2).await;
    world.put(1, endpoint("a", "127.0.0.1:9001"), SlotState::Ready).await;
    let done = world.once(&["--backend", "app", "--from", "web", "--port", "9100"]);
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    let first = ("s1".to_owned(), "ready", "127.0.0.1:9100".to_owned());
    assert_eq!(world.servers("app")[0], first);
    assert_eq!(world.report().await, None, "--once left a report behind");

    let nowhere = world.once(&["--backend", "nope", "--from", "web"]);
    assert_eq!(nowhere.status.code(), Some(78), "{}", stderr(&nowhere));
    assert!(stderr(&nowhere).contains("no backend nope"), "{}", stderr(&nowhere));

    world.haproxy.kill();
    let away = world.once(&["--backend", "app", "--from", "web"]);
    assert_eq!(away.status.code(), Some(69), "{}", stderr(&away));
    assert!(stderr(&away).contains("hint: start HAProxy with"), "{}", stderr(&away));
}

async fn too_few_places_name_the_line_and_the_others_are_served(version: Version) {
    let Some(world) = World::start(version, Options::new([Backend::new("app", 1)])).await else {
        return;
    };
    world.put_spec(2).await;
    for number in [1, 2] {
        let endpoint = endpoint(&format!("e{number}"), format!("127.0.0.1:900{number}"));
        world.put(number, endpoint, SlotState::Ready).await;
    }
    let output = world.once(&["--backend", "app", "--from", "web"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("server-template s 1-2 "), "{}", stderr(&output));
    assert_eq!(world.states("app"), ["ready"]);
}

async fn a_dry_run_prints_every_command_and_sends_none(version: Version) {
    let options = Options::new([Backend::new("app", 1).checked()]);
    let Some(world) = World::start(version, options).await else { return };
    world.put_spec(1).await;
    world.put(1, endpoint("a", "127.0.0.1:9001"), SlotState::Ready).await;
    let before = world.servers("app");
    let preview = |more: &[&str]| {
        let arguments = [&["--backend", "app", "--from", "web", "--dry-run"], more].concat();
        let output = world.sync(&arguments).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let json: serde_json::Value = serde_json::from_str(&preview(&["--output", "json"])).unwrap();
    let actions = json[0]["actions"].as_array().unwrap();
    let commands: Vec<&str> = actions.iter().map(|a| a["command"].as_str().unwrap()).collect();
    assert_eq!(
        commands,
        [
            "set server app/s1 addr 127.0.0.1 port 9001",
            "set server app/s1 weight 0",
            "set server app/s1 state ready",
            "set server app/s1 health down",
            "set server app/s1 weight 100",
        ]
    );
    assert!(preview(&[]).contains("set server app/s1 state ready"));
    assert_eq!(world.servers("app"), before);
    assert!(world.once(&["--backend", "app", "--from", "web"]).status.success());
    assert_eq!(preview(&[]), "nothing to do\n");
}

async fn a_dry_run_fails_where_the_run_would(version: Version) {
    for level in ["admin", "operator"] {
        let options = Options::new([Backend::new("app", 1)]).level(level);
        let Some(world) = World::start(version, options).await else { return };
        world.put_spec(1).await;
        world.put(1, endpoint("a", "127.0.0.1:9001"), SlotState::Ready).await;
        let preview = |more: &[&str]| {
            let usual = ["--backend", "app", "--from", "web", "--dry-run"];
            world.sync(&[&usual[..], more].concat()).output().unwrap()
        };
        let output = preview(&[]);
        if level == "operator" {
            assert_eq!(output.status.code(), Some(78), "{output:?}");
            let said = stderr(&output);
            assert!(said.contains("of level operator") && said.contains("`level admin`"), "{said}");
            let printed = String::from_utf8(output.stdout).unwrap();
            assert!(printed.contains("set server app/s1 state ready"), "{printed}");
            continue;
        }
        assert!(output.status.success(), "{output:?}");
        world.put_spec(3).await;
        let output = preview(&[]);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        assert!(stderr(&output).contains("no place for 2 of"), "{}", stderr(&output));
        let file =
            "[[sync-haproxy.backends]]\nbackend = \"app\"\nfrom = \"web\"\nfallback = \"typo\"\n";
        let config = world.file("fallback.toml", file);
        world.put_spec(1).await;
        let output = world.sync_with(&config, &["--dry-run"]).output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let said = stderr(&output);
        assert!(said.contains("no backend typo") && said.contains("correct fallback"), "{said}");
    }
}

async fn a_dumped_state_is_what_haproxy_begins_with(version: Version) {
    let options = Options::new([Backend::new("app", 2).loaded()]);
    let Some(mut world) = World::start(version, options).await else { return };
    world.put_spec(2).await;
    world.put(1, endpoint("a", "127.0.0.1:9001"), SlotState::Ready).await;
    let file = world.haproxy.state_file();
    let arguments = ["--backend", "app", "--from", "web", "--dump-state", file.to_str().unwrap()];
    let output = world.once(&arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    let filled = world.servers("app");
    assert_eq!(filled[0].2, "127.0.0.1:9001");
    world.haproxy.kill();
    world.haproxy.start_again();
    assert_eq!(world.servers("app"), filled, "nothing but the file could have filled it");
}

async fn a_flag_is_a_setting_of_every_backend_of_the_file(version: Version) {
    let backends = ["one", "two"].map(|name| Backend::new(name, 1));
    let Some(world) = World::start(version, Options::new(backends)).await else { return };
    world.put_spec(1).await;
    world.put(1, endpoint("a", "127.0.0.1:9001"), SlotState::Ready).await;
    let config = world.file(
        "lbctl.toml",
        "[[sync-haproxy.backends]]\nbackend = \"one/s\"\nfrom = \"web\"\nport = 9002\n\
         [[sync-haproxy.backends]]\nbackend = \"two/s\"\nfrom = \"web\"\n",
    );
    let with = |flags: &[&str]| world.sync_with(&config, flags).output().unwrap();
    let output = with(&["--port", "9003", "--dry-run"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for command in ["one/s1 addr 127.0.0.1 port 9003", "two/s1 addr 127.0.0.1 port 9003"] {
        assert!(text.contains(command), "{text}");
    }
    let output = with(&["--mode", "dynamic", "--server-options", "id 5", "--dry-run"]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let said = "--server-options: server-options \"id 5\" has a word that is lbctl's to set";
    assert!(stderr(&output).contains(said), "{}", stderr(&output));
    let output = with(&["--server-options", "check", "--dry-run"]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let said = "error: --server-options does nothing without --mode dynamic";
    assert!(stderr(&output).contains(said), "{}", stderr(&output));
    // One backend that takes them is enough.
    let file = "[[sync-haproxy.backends]]\nbackend = \"one/s\"\nfrom = \"web\"\n\
                [[sync-haproxy.backends]]\nbackend = \"two\"\nfrom = \"web\"\nmode = \"dynamic\"\n\
                id-base = 100\n";
    let config = world.file("mixed.toml", file);
    let flags = ["--server-options", "check", "--dry-run"];
    let output = world.sync_with(&config, &flags).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

async fn a_fallback_takes_the_rest_and_every_slot_leaves_every_backend(version: Version) {
    let backends = ["main", "rest", "all"].map(|name| Backend::new(name, 2));
    let Some(world) = World::start(version, Options::new(backends)).await else { return };
    world.put_spec(2).await;
    world.put(1, in_zone("a", "z1"), SlotState::Ready).await;
    world.put(2, in_zone("b", "z2"), SlotState::Ready).await;
    let config = world.file(
        "lbctl.toml",
        "[[sync-haproxy.backends]]\nbackend = \"main/s\"\nfrom = \"web\"\nzones = [\"z1\"]\n\
         fallback = \"rest/s\"\n[[sync-haproxy.backends]]\nbackend = \"all/s\"\nfrom = \"web\"\n",
    );
    let once = || {
        let output = world.sync_with(&config, &["--once"]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    };
    once();
    assert_eq!(world.states("main"), ["ready", "maint"]);
    assert_eq!(world.states("rest"), ["maint", "ready"]);
    assert_eq!(world.states("all"), ["ready", "ready"]);
    world.free(1).await;
    world.put(2, in_zone("b", "z1"), SlotState::Ready).await;
    once();
    assert_eq!(world.states("main"), ["maint", "ready"]);
    assert_eq!(world.states("rest"), ["maint", "maint"]);
    assert_eq!(world.states("all"), ["maint", "ready"]);
}

async fn sighup_takes_a_new_configuration_and_refuses_a_broken_one(version: Version) {
    let backends = ["app", "more"].map(|name| Backend::new(name, 1));
    let Some(world) = World::start(version, Options::new(backends)).await else { return };
    world.put_spec(1).await;
    world.put(1, endpoint("a", "127.0.0.1:9001"), SlotState::Ready).await;
    let entry =
        |name: &str| format!("[[sync-haproxy.backends]]\nbackend = \"{name}\"\nfrom = \"web\"\n");
    let config = world.file("lbctl.toml", &entry("app"));
    let mut command = world.sync_with(&config, &["--name", "lb1", "--admin", "off"]);
    let mut sync = Process::start("sync", world.folder.path(), &mut command);
    let ready = |backend: &str| (world.states(backend) == ["ready"]).then_some(());
    eventually(&format!("app to be served\n{}", sync.tail()), || ready("app"));
    assert_eq!(world.states("more"), ["maint"]);

    world.file("lbctl.toml", "[[sync-haproxy.backends]]\nbackend = 3\n");
    sync.signal("HUP");
    sync.wait_for_log("the old settings go on");

    world.file("lbctl.toml", &(entry("app") + &entry("more")));
    sync.signal("HUP");
    eventually(&format!("more to be served\n{}", sync.tail()), || ready("more"));
    assert!(sync.is_running());
}
