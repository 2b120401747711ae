//! `lbctl discover` with a configuration: many backends, a reload, tables that grow and shrink.

use std::path::Path;
use std::process::Command;

use lbctl::model::{BackendName, SlotNumber, SlotRecord, keys};

use super::World;
use crate::support::{Process, eventually, eventually_async, free_port, http_get};

/// A discover that follows a configuration file.
struct Configured {
    world: World,
    discover: Process,
    admin: u16,
}

impl Configured {
    async fn start(text: &str) -> Self {
        Self::start_as(text, |lbctl, config| {
            let mut command = Command::new(lbctl);
            command.arg("--config").arg(config);
            command
        })
        .await
    }

    /// With what makes a command of `lbctl` and the file.
    async fn start_as(text: &str, command: impl FnOnce(&Path, &Path) -> Command) -> Self {
        let world = World::sqlite().await;
        for name in ["one", "two", "three"] {
            world.file(
                &format!("{name}.json"),
                &format!("[{{\"id\": \"{name}\", \"address\": \"127.0.0.1:1\"}}]"),
            );
        }
        let config = world.dir.path().join("lbctl.toml");
        write(&world, text);
        let mut command = command(&crate::support::lbctl(), &config);
        let admin = free_port();
        command.args(["discover", "--admin", &format!("127.0.0.1:{admin}")]);
        if !command.get_envs().any(|(name, _)| name == "LBCTL_STORE_URL") {
            command.args(["--store", &world.url]);
        }
        command.env_remove("LBCTL_LOG");
        let discover = Process::start("discover", world.dir.path(), &mut command);
        Self { world, discover, admin }
    }

    fn reload(&self, text: &str) {
        write(&self.world, text);
        self.discover.signal("HUP");
    }

    /// Waits until a backend's table is this.
    async fn becomes(&self, backend: &str, expected: &[&str]) {
        let backend: BackendName = backend.parse().unwrap();
        let what = format!("{backend} to be {expected:?}; {}", self.discover.tail());
        eventually_async(&what, async || {
            let listing = self.world.store.list(&keys::slots(&backend)).await.unwrap();
            let lines = listing.entries.iter().map(|entry| {
                let record: SlotRecord = entry.json().unwrap();
                let slot: SlotNumber = entry.key.last().parse().unwrap();
                format!("{slot} {:?} {}", record.state, record.endpoint.id).to_lowercase()
            });
            (lines.collect::<Vec<_>>() == expected).then_some(())
        })
        .await;
    }
}

/// The configuration, with `DIR` for the folder of the lists.
fn write(world: &World, text: &str) {
    let dir = world.dir.path().display().to_string();
    world.file("lbctl.toml", &text.replace("DIR", &dir));
}

fn backend(name: &str, source: &str, slots: u32) -> String {
    let source = format!("source = 'file:DIR/{source}.json'");
    format!("[[discover.backends]]\nname = '{name}'\n{source}\nslots = {slots}\n")
}

/// As of `--config <(…)`: it is read once, though what flags mean depends on it.
#[tokio::test]
async fn a_pipe_may_be_the_file_and_a_reload_says_that_it_cannot_be_read_again() {
    let text = format!("{}{}", backend("one", "one", 3), backend("two", "two", 3));
    let mut world = Configured::start_as(&text, |lbctl, config| {
        let script =
            format!("exec {} --config <(cat {}) \"$@\"", lbctl.display(), config.display());
        let mut command = Command::new("bash");
        command.args(["-c", &script, "lbctl"]);
        command
    })
    .await;
    world.becomes("one", &["1 ready one"]).await;
    world.becomes("two", &["1 ready two"]).await;
    world.discover.signal("HUP");
    world.discover.wait_for_log("the old settings go on: ");
    world.discover.wait_for_log("it is a pipe, which is read already: to read it again, give a");
    world.world.file("one.json", "[{\"id\": \"a\", \"address\": \"127.0.0.1:2\"}]");
    world.becomes("one", &["1 drain one", "2 ready a"]).await;
}

#[tokio::test]
async fn sighup_starts_stops_and_changes_backends_and_leaves_the_others_alone() {
    let (one, two) = (backend("one", "one", 3), backend("two", "two", 3));
    let mut world = Configured::start(&format!("{one}{two}")).await;
    world.becomes("one", &["1 ready one"]).await;
    world.becomes("two", &["1 ready two"]).await;
    let (two, three) = (backend("two", "two", 4), backend("three", "three", 3));
    world.reload(&format!("[discover]\nid = 'me'\n{one}{two}{three}"));
    world.discover.wait_for_log("changed: discover.backends[1].slots is 4, was 3");
    world.discover.wait_for_log(
        "WARN changes only with a restart, and the old value goes on: discover.id is me",
    );
    world.becomes("three", &["1 ready three"]).await;
    eventually_async("two to have four slots", async || {
        let spec = world.world.store.get(&keys::spec(&"two".parse().unwrap())).await.unwrap();
        (spec.unwrap().json::<lbctl::model::BackendSpec>().unwrap().slots == 4).then_some(())
    })
    .await;
    world.reload(&three);
    for gone in ["one", "two"] {
        world
            .discover
            .wait_for_log(&format!("not leading any more: it resigned election=discover-{gone}"));
    }
    let resigned = |name: &str| {
        let text = format!("not leading any more: it resigned election=discover-{name} ");
        world.discover.log().matches(&text).count()
    };
    eventually_async("both to be stopped", async || {
        (resigned("one") == 1 && resigned("two") == 2).then_some(())
    })
    .await;
    assert_eq!(resigned("three"), 0, "{}", world.discover.tail());
    // What is told of them would page for ever.
    let shows = |metrics: &str, name: &str| {
        metrics.contains(&format!("backend=\"{name}\""))
            || metrics.contains(&format!("name=\"discover-{name}\""))
    };
    eventually("no series of theirs to be left", || {
        let metrics = http_get(world.admin, "/metrics")?;
        assert!(shows(&metrics, "three"), "{metrics}");
        (!shows(&metrics, "one") && !shows(&metrics, "two")).then_some(())
    });
    // Their tables stay: others may fill them, or HAProxies serve them on.
    world.becomes("one", &["1 ready one"]).await;
}

#[tokio::test]
async fn sighup_tells_that_a_secret_has_changed_and_never_the_secret() {
    let one = backend("one", "one", 3);
    let with = |token: &str, password: &str| {
        let store = format!("[store]\npassword = '{password}'\n");
        format!("{store}[discover]\nconsul-token = '{token}'\n{one}")
    };
    let mut world = Configured::start_as(&with("first-token", "first-pass"), |lbctl, config| {
        let mut command = Command::new(lbctl);
        // The password is for this one, which is nowhere.
        command.env("LBCTL_STORE_URL", "etcd://me@127.0.0.1:1/x").arg("--config").arg(config);
        command
    })
    .await;
    world.discover.wait_for_log("is failing");
    world.reload(&with("first-token", "first-pass"));
    world.discover.wait_for_log("the configuration was read again: nothing has changed");
    world.reload(&with("second-token", "second-pass"));
    world
        .discover
        .wait_for_log("INFO changed: discover.consul-token changed (its value is masked)");
    world
        .discover
        .wait_for_log("the old value goes on: store.password changed (its value is masked)");
    let log = world.discover.log();
    assert!(
        !log.contains("-token'") && !log.contains("first-") && !log.contains("second-"),
        "{log}"
    );
}

#[tokio::test]
async fn sighup_with_a_broken_configuration_keeps_the_old_one_and_says_every_mistake() {
    let one = backend("one", "one", 3);
    let mut world = Configured::start(&one).await;
    world.becomes("one", &["1 ready one"]).await;
    world.reload(&format!("{one}rest = 'soon'\nmax-drop-percnt = 3\n[discover]\nttl = '1ms'\n"));
    world.discover.wait_for_log("the old settings go on: error: the configuration has 3 mistakes");
    for says in ["lbctl.toml:5: ", "lbctl.toml:6: ", "lbctl.toml:8: "] {
        world.discover.wait_for_log(says);
    }
    world.reload("[[discover.backends]\n");
    world.discover.wait_for_log("lbctl.toml:1: ");
    assert!(!world.discover.log().contains("not leading any more"), "{}", world.discover.tail());
    world.world.file("one.json", r#"["127.0.0.1:1", {"id": "one", "address": "127.0.0.1:9"}]"#);
    // It still does its work, and by the old settings.
    world.discover.wait_for_log("server=127.0.0.1:1 ");
}

#[tokio::test]
async fn a_source_that_fails_holds_up_no_other_backend() {
    let all = ["one", "broken", "two", "missing"].map(|name| backend(name, name, 3)).concat();
    let mut world = Configured::start(&all).await;
    world.world.file("broken.json", "[");
    world.becomes("one", &["1 ready one"]).await;
    world.becomes("two", &["1 ready two"]).await;
    world.discover.wait_for_log("the source of backend broken is failing");
    world.discover.wait_for_log("missing.json: No such file");
    world.world.file("two.json", r#"["127.0.0.1:2", {"id": "two", "address": "127.0.0.1:1"}]"#);
    world.becomes("two", &["1 ready two", "2 ready 127.0.0.1:2"]).await;
    world.world.file("missing.json", r#"["127.0.0.1:3"]"#);
    world.becomes("missing", &["1 ready 127.0.0.1:3"]).await;
    world.becomes("broken", &[]).await;
}

#[tokio::test]
async fn three_hundred_servers_have_three_hundred_slots_and_keep_them() {
    let world = World::sqlite().await;
    let list = |from: u32, to: u32| {
        let items = (from..to).map(|n| format!("\"127.0.{}.{}:80\"", n / 250, n % 250 + 1));
        format!("[{}]", items.collect::<Vec<_>>().join(","))
    };
    let source = world.file("web.json", &list(0, 300));
    let mut discover = world.start("discover", &["--source", &source, "--slots", "300"]);
    let full = async || {
        let (table, _) = world.table().await;
        let ready = table.iter().filter(|line| line.contains(" ready ")).count();
        (ready == 300).then_some(table)
    };
    let before = eventually_async("300 servers", full).await;
    assert!(world.spec().await.unplaced.is_empty());
    // Ten go and ten come: those find the ten slots, and nobody else moves.
    world.file("web.json", &list(10, 310));
    discover.wait_for_log("10 endpoints have no slot");
    world.report(super::Revision(u64::MAX >> 1), &[]).await;
    let again = async || full().await.filter(|table| *table != before);
    let after = eventually_async("300 servers again", again).await;
    let changed = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    assert_eq!(changed, 10);
    discover.wait_for_log("every endpoint has a slot again");
}

#[tokio::test]
async fn a_table_that_shrinks_moves_those_who_fit_and_drains_the_rest() {
    let world = World::sqlite().await;
    let list = |names: &[u32]| {
        let items = names
            .iter()
            .map(|n| format!("{{\"id\": \"s{n:02}\", \"address\": \"127.0.0.1:{n}\"}}"));
        format!("[{}]", items.collect::<Vec<_>>().join(","))
    };
    let source = world.file("web.json", &list(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]));
    let flags = ["--source", &source, "--slots", "10", "--once"];
    assert!(world.run(&flags).status.success());
    // Slots 1, 2 and 4 are free; 6 to 10 are held.
    world.file("web.json", &list(&[3, 5, 6, 7, 8, 9, 10]));
    assert!(
        world
            .run(
                &[&flags[..], &["--allow-drop", "--drain-deadline", "1ms", "--rest", "1ms"]]
                    .concat()
            )
            .status
            .success()
    );
    let left = async || {
        let _ = world.run(&[&flags[..], &["--drain-deadline", "1ms", "--rest", "1ms"]].concat());
        (world.table().await.0.len() == 7).then_some(())
    };
    eventually_async("the three to be free", left).await;
    let discover =
        world.start("discover", &["--source", &source, "--slots", "5", "--drain-deadline", "1s"]);
    // Three find a place; two are drained and told, and their slots go once they are empty.
    let expected = ["1 ready s06", "2 ready s07", "3 ready s03", "4 ready s08", "5 ready s05"];
    world.becomes(&discover, &expected).await;
    let spec = world.spec().await;
    let unplaced: Vec<&str> = spec.unplaced.iter().map(|id| id.as_str()).collect();
    assert_eq!((spec.slots, &unplaced[..]), (5, &["s09", "s10"][..]));
}
