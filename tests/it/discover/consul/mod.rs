//! `consul:` against a stand-in for a Consul, which answers, fails, lies and falls silent.

mod server;

use std::process::Command;

use tempfile::TempDir;

use super::{World, text};
use crate::support::etcd::Certificates;
use crate::support::{Process, eventually, eventually_async, soak};
use server::{Consul, Mode, instance, instance_that_is};

/// What the process says of itself must never have it.
const TOKEN: &str = "b1gs33cret-4a1d-9c0e";

fn command(world: &World, consul: &Consul, source: &str, flags: &[&str]) -> Command {
    let url = consul.url();
    let all = ["--source", source, "--consul-address", &url, "--slots", "6"];
    let mut command = world.command(&[&all[..], flags].concat());
    let consuls = std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("CONSUL_"));
    consuls.for_each(|(name, _)| _ = command.env_remove(name));
    command
}

fn start(world: &World, consul: &Consul, source: &str, flags: &[&str]) -> Process {
    start_command(world, command(world, consul, source, flags))
}

/// With looks that are 5 s apart unless something changes.
fn start_command(world: &World, mut command: Command) -> Process {
    command.args(["--rest", "200ms", "--ttl", "2s", "--max-drop-percent", "100"]);
    Process::start("discover", world.dir.path(), &mut command)
}

const TWO: [&str; 2] = ["1 ready n1:a", "2 ready n1:b"];

fn two() -> Vec<serde_json::Value> {
    vec![instance("a", 1), instance("b", 2)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_followed_at_once_and_silence_costs_few_questions() {
    let (world, consul) = (World::sqlite().await, Consul::start().await);
    consul.serve("web", two());
    let discover = start(&world, &consul, "consul:web", &[]);
    world.becomes(&discover, &TWO).await;
    eventually("a question that waits", || {
        let asked = consul.asked();
        asked.last().filter(|last| last.has("index") && last.has("wait")).map(|_| ())
    });
    // The next look without news is seconds away.
    let started = std::time::Instant::now();
    consul.serve("web", vec![instance("b", 2), instance("c", 3)]);
    world.becomes(&discover, &["1 drain n1:a", TWO[1], "3 ready n1:c"]).await;
    assert!(started.elapsed().as_secs() < 3, "it took {:?}", started.elapsed());
    assert!(consul.asked().len() < 6, "{:?}", consul.asked());
    let first = &consul.asked()[0];
    assert!(first.has("passing") && !first.has("index") && first.token.is_none(), "{first:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_failure_removes_a_server() {
    for (mode, says) in [
        (Mode::Fails(500, "No cluster leader"), "500 Internal Server Error: No cluster leader"),
        (
            Mode::Fails(403, "Permission denied"),
            "403 Forbidden: Permission denied: give consul-token",
        ),
        (Mode::Fails(301, ""), "301 Moved Permanently: is this Consul's address?"),
        (Mode::Garbage, "consul:web: http://127.0.0.1:"),
        (Mode::Half, "is not a list of instances"),
        (Mode::CutOff, "the answer broke off"),
        (Mode::WithoutIndex, "has no X-Consul-Index"),
        (Mode::Filtered, "may not read all of it: give consul-token"),
        (Mode::Huge, "larger than 32 MiB"),
        (Mode::Silent, "no answer within 14 s"),
    ]
    .into_iter()
    // The last takes the time that a question may take.
    .take(soak(9, 10))
    {
        let (world, consul) = (World::sqlite().await, Consul::start().await);
        consul.serve("web", two());
        let mut discover = start(&world, &consul, "consul:web", &[]);
        world.becomes(&discover, &TWO).await;
        consul.set(mode);
        discover.wait_for_log(says);
        discover.wait_for_log("is failing error=consul:web: http://127.0.0.1:");
        assert_eq!(world.table().await.0, TWO, "{says}");
        consul.set(Mode::Answers);
        consul.serve("web", [two(), vec![instance("c", 3)]].concat());
        world.becomes(&discover, &[TWO[0], TWO[1], "3 ready n1:c"]).await;
        discover.wait_for_log("has recovered");
        discover.signal("TERM");
        assert!(discover.wait().success(), "{}", discover.tail());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consul_that_is_gone_is_told_and_one_that_is_back_is_followed() {
    let (world, mut consul) = (World::sqlite().await, Consul::start().await);
    consul.serve("web", two());
    let mut discover = start(&world, &consul, "consul:web", &[]);
    world.becomes(&discover, &TWO).await;
    consul.go();
    discover.wait_for_log("is failing error=consul:web: http://127.0.0.1:");
    discover.wait_for_log("does Consul listen there? If not, set consul-address");
    assert_eq!(world.table().await.0, TWO);
    consul.serve("web", [two(), vec![instance("c", 3)]].concat());
    consul.come_back().await;
    world.becomes(&discover, &[TWO[0], TWO[1], "3 ready n1:c"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_goes_backwards_begins_anew() {
    let (world, consul) = (World::sqlite().await, Consul::start().await);
    consul.serve("web", two());
    let discover = start(&world, &consul, "consul:web", &[]);
    world.becomes(&discover, &TWO).await;
    let before = eventually("a question that waits", || {
        let asked = consul.asked();
        asked.last().is_some_and(|last| last.has("index")).then_some(asked.len())
    });
    consul.restore(50);
    // One that learns of the lower index, one at once, and one that waits.
    eventually("it to begin anew", || {
        let waits: Vec<bool> = consul.asked()[before..].iter().map(|a| a.has("index")).collect();
        (waits == [false, true]).then_some(())
    });
    let last = consul.asked().pop().unwrap();
    assert!(last.query.contains(&("index".into(), "50".into())), "{last:?}");
    consul.serve("web", [two(), vec![instance("c", 3)]].concat());
    world.becomes(&discover, &[TWO[0], TWO[1], "3 ready n1:c"]).await;
    // A bug that Consul has had: 0 would never wait.
    consul.restore(0);
    eventually("1 in place of 0", || {
        let last = consul.asked().pop()?;
        last.query.contains(&("index".into(), "1".into())).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consul_that_never_waits_is_not_asked_without_end() {
    let (world, consul) = (World::sqlite().await, Consul::start().await);
    consul.serve("web", two());
    consul.restore(0);
    let discover = start(&world, &consul, "consul:web", &[]);
    world.becomes(&discover, &TWO).await;
    // An answer of index 0 to a question that waits for a change of 1 comes at once, every time.
    let before = eventually("the burst to be over", || {
        let asked = consul.asked().len();
        (asked >= 5).then_some(asked)
    });
    let started = std::time::Instant::now();
    eventually("three more questions", || (consul.asked().len() >= before + 3).then_some(()));
    assert!(started.elapsed().as_millis() >= 1500, "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_services_are_one_backend_and_one_that_fails_is_named() {
    let (world, consul) = (World::sqlite().await, Consul::start().await);
    consul.serve("web", two());
    consul.serve("api", vec![instance("c", 3), instance("a", 1)]);
    let mut discover = start(&world, &consul, "consul:web,api", &[]);
    world.becomes(&discover, &[TWO[0], TWO[1], "3 ready n1:c"]).await;
    discover.wait_for_log("id n1:a is there twice, at 127.0.0.1:80 and 127.0.0.1:80");
    // Half an answer is none, and says nothing of the other service.
    consul.serve("api", vec![serde_json::json!({"Node": 7})]);
    discover.wait_for_log("is not a list of instances");
    discover.wait_for_log("the servers of api stay as they are");
    consul.serve("web", vec![instance("b", 2), instance("d", 4)]);
    let one_gone = ["1 drain n1:a", TWO[1], "3 ready n1:c", "4 ready n1:d"];
    world.becomes(&discover, &one_gone).await;
    // One that has none all of a sudden is as odd as a source that has none.
    consul.serve("api", Vec::new());
    discover.wait_for_log("consul:api: no instance is there that serves");
    consul.serve("web", vec![instance("b", 2), instance("d", 4), instance("e", 5)]);
    let one_more = [&one_gone[..], &["5 ready n1:e"]].concat();
    world.becomes(&discover, &one_more).await;
    world.stays(&one_more).await;
    drop(discover);
    let discover = start(&world, &consul, "consul:web,api", &["--allow-drop"]);
    world
        .becomes(&discover, &[one_gone[0], TWO[1], "3 drain n1:c", one_gone[3], one_more[4]])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_serves_and_has_the_tags_is_taken() {
    let (world, consul) = (World::sqlite().await, Consul::start().await);
    let tagged = |mut instance: serde_json::Value, tags: &[&str]| {
        instance["Service"]["Tags"] = tags.into();
        instance
    };
    consul.serve(
        "web",
        vec![
            tagged(instance("a", 1), &["v2", "blue"]),
            tagged(instance("b", 2), &["v2"]),
            tagged(instance_that_is("warning", "c", 3), &["v2", "blue"]),
            tagged(instance_that_is("critical", "d", 4), &["v2", "blue"]),
        ],
    );
    let scope =
        ["--consul-datacenter", "dc1", "--consul-namespace", "team", "--consul-partition", "p/1"];
    let tags = ["--consul-tags", "v2,blue", "--once"];
    let once = |more: &[&str]| {
        let flags = [&scope[..], &tags[..], more].concat();
        command(&world, &consul, "consul:web", &flags).output().unwrap()
    };
    let output = once(&[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(world.table().await.0, ["1 ready n1:a"]);
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let scope =
        [("dc", "dc1"), ("ns", "team"), ("partition", "p/1"), ("tag", "v2"), ("tag", "blue")];
    assert_eq!(consul.asked()[0].query, pairs(&[&[("passing", "1")][..], &scope].concat()));
    let before = consul.asked().len();
    let output = once(&["--consul-health", "warning"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(world.table().await.0, ["1 ready n1:a", "2 ready n1:c"]);
    assert_eq!(consul.asked()[before].query, pairs(&scope));
    let output = command(&world, &consul, "consul:web", &["--consul-datacenter", "dc9", "--once"])
        .output()
        .unwrap();
    assert!(text(&output.stderr).contains("500 Internal Server Error: No path to datacenter"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_sent_and_never_told() {
    let (world, consul) = (World::sqlite().await, Consul::start().await);
    consul.serve("web", two());
    consul.demand(TOKEN);
    let file = world.dir.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let once = |variable: &str, value: &str| {
        let mut command = command(&world, &consul, "consul:web", &["--once"]);
        command.env(variable, value).env("LBCTL_LOG", "trace").output().unwrap()
    };
    let file = file.to_str().unwrap();
    for (variable, value) in [
        ("LBCTL_DISCOVER_CONSUL_TOKEN", TOKEN),
        ("LBCTL_DISCOVER_CONSUL_TOKEN_FILE", file),
        ("CONSUL_HTTP_TOKEN", TOKEN),
        ("CONSUL_HTTP_TOKEN_FILE", file),
    ] {
        let output = once(variable, value);
        let said = text(&output.stderr) + &text(&output.stdout);
        assert!(output.status.success(), "{variable}: {said}");
        assert!(!said.contains(TOKEN), "{said}");
        let asked = consul.asked().pop().unwrap();
        assert_eq!(asked.token.as_deref(), Some(TOKEN), "{variable}");
        assert!(!asked.query.iter().any(|(_, value)| value.contains(TOKEN)), "{asked:?}");
    }
    for (variable, value, says) in [
        ("CONSUL_HTTP_TOKEN", "", "403 Forbidden: ACL not found: give consul-token"),
        ("CONSUL_HTTP_TOKEN", "wrong", "403 Forbidden: ACL not found: give consul-token"),
        ("CONSUL_HTTP_TOKEN", "a\u{e4}\u{1}", "characters that no header can have"),
        ("CONSUL_HTTP_TOKEN_FILE", "/nowhere/token", "cannot read /nowhere/token"),
        ("CONSUL_HTTP_TOKEN_FILE", "/dev/null", "is not a regular file"),
    ] {
        let output = once(variable, value);
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(says), "{says}: {said}");
    }
    consul.set(Mode::Echo);
    let said = text(&once("CONSUL_HTTP_TOKEN", TOKEN).stderr);
    assert!(said.contains("not understood") && !said.contains(TOKEN), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_token_in_the_file_is_used_without_a_gap() {
    let (world, consul) = (World::sqlite().await, Consul::start().await);
    let file = world.dir.path().join("token");
    let write = |token: &str| {
        let new = world.dir.path().join("new");
        std::fs::write(&new, token).unwrap();
        std::fs::rename(&new, &file).unwrap();
    };
    consul.serve("web", two());
    write("one");
    let flags = ["--consul-token-file", file.to_str().unwrap(), "--confirm-interval", "100ms"];
    let discover = start(&world, &consul, "consul:web", &flags);
    world.becomes(&discover, &TWO).await;
    write("two");
    eventually("the new token", || {
        (consul.asked().pop()?.token.as_deref() == Some("two")).then_some(())
    });
    assert!(!discover.log().contains("failing"), "{}", discover.tail());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_trusts_the_authority_and_shows_the_certificate() {
    let (world, dir, other) =
        (World::sqlite().await, TempDir::new().unwrap(), TempDir::new().unwrap());
    let (certificates, others) = (Certificates::make(dir.path()), Certificates::make(other.path()));
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (ca, cert, key) =
        (path(&certificates.ca), path(&certificates.client), path(&certificates.client_key));
    let (other_ca, other_key) = (path(&others.ca), path(&others.client_key));
    for identified in [false, true] {
        let consul = Consul::secure(&certificates, identified).await;
        consul.serve("web", two());
        let once = |flags: &[&str]| {
            let flags = [&["--once"][..], flags].concat();
            command(&world, &consul, "consul:web", &flags).output().unwrap()
        };
        let full = ["--consul-ca", &ca, "--consul-cert", &cert, "--consul-key", &key];
        let trusted = if identified { &full[..] } else { &full[..2] };
        let output = once(trusted);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(world.table().await.0, TWO);
        for (flags, says) in [
            (&["--consul-ca", &*other_ca][..], "is consul-ca its authority?"),
            (&["--consul-ca", &*key], "has no certificate in PEM form"),
            (&["--consul-ca", "/nowhere"], "cannot read /nowhere"),
            (&["--consul-cert", &*cert], "a consul-cert needs its consul-key"),
            (
                &["--consul-ca", &*ca, "--consul-cert", &*cert, "--consul-key", &*other_key],
                "do not go together",
            ),
        ] {
            let said = text(&once(flags).stderr);
            assert!(said.contains(says), "{says}: {said}");
        }
        if identified {
            let said = text(&once(&full[..2]).stderr);
            assert!(said.contains("consul:web: https://127.0.0.1:"), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_service_is_an_empty_answer_and_removes_nobody() {
    let (world, consul) = (World::sqlite().await, Consul::start().await);
    consul.serve("web", two());
    consul.demand(TOKEN);
    let with = |source: &str, flags: &[&str]| {
        let mut command = command(&world, &consul, source, flags);
        command.env("CONSUL_HTTP_TOKEN", TOKEN);
        command
    };
    assert!(with("consul:web", &["--once"]).output().unwrap().status.success());
    let mut discover = start_command(&world, with("consul:wbe", &[]));
    discover.wait_for_log("consul:wbe: no instance is there that serves, or Consul does not know this service, or lbctl may not read it");
    discover.wait_for_log("refused");
    assert_eq!(world.table().await.0, TWO);
    eventually_async("it to look again", async || {
        (consul.asked().iter().filter(|asked| asked.service == "wbe").count() > 1).then_some(())
    })
    .await;
    assert_eq!(world.table().await.0, TWO);
}

#[test]
fn mistakes_are_told_before_anything_is_asked() {
    for (flags, variable, says) in [
        (&["--consul-address", "unix:///run/c.sock"][..], "", "--consul-address"),
        (&["--consul-address", "h:1", "--consul-ca", "/ca.pem"], "", "write https://"),
        (&["--consul-health", "critical"], "", "none of passing, warning"),
        (&[], "unix:///run/c.sock", "CONSUL_HTTP_ADDR"),
    ] {
        let mut command = Command::new(crate::support::lbctl());
        command.args(["discover", "--store", "memory:", "--backend", "web", "--slots", "1"]);
        command.args(["--source", "consul:web", "--config", "/dev/null"]).args(flags);
        command.env("CONSUL_HTTP_ADDR", variable);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains(says), "{says}: {}", text(&output.stderr));
    }
}
