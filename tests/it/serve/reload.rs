use std::path::Path;

use tempfile::{TempDir, tempdir};

use super::Server;
use crate::support::eventually;

struct Configured {
    dir: TempDir,
    server: Server,
}

impl Configured {
    fn start(text: &str) -> Self {
        let dir = tempdir().unwrap();
        let file = write(dir.path(), text);
        let mut command = std::process::Command::new(crate::support::lbctl());
        command.args(["serve", "--store", "memory:", "--config", &file]).env_remove("LBCTL_LOG");
        let server = Server::of(dir.path(), "serve", &mut command, &[]);
        Self { dir, server }
    }

    fn reload(&self, text: &str) {
        write(self.dir.path(), text);
        self.server.process.signal("HUP");
    }
}

fn write(dir: &Path, text: &str) -> String {
    let file = dir.join("lbctl.toml");
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

#[test]
fn sighup_takes_new_limits_for_those_who_are_connected_too() {
    let mut world = Configured::start("[serve]\nmax-clients = 1\nidle-timeout = '10m'\n");
    let mut first = world.server.connect();
    assert_eq!(first.ask("WHY"), "42\n");
    assert!(world.server.connect().rest().starts_with("too many clients: at most 1"));
    world.reload("[serve]\nmax-clients = 2\nidle-timeout = '10m'\n");
    world.server.process.wait_for_log("changed: serve.max-clients is 2, was 1");
    let mut second = eventually("a second place", || {
        let mut client = world.server.connect();
        client.send("WHY\n");
        (client.line() == "42\n").then_some(client)
    });
    world.reload("[serve]\nmax-clients = 2\nidle-timeout = '100ms'\n");
    // They wait since before, and have said nothing for ten minutes neither then nor now.
    for client in [&mut first, &mut second] {
        assert_eq!(client.rest(), "closed: nothing came for 100ms\n");
    }
}

#[test]
fn sighup_says_what_needs_a_restart_and_keeps_it() {
    let mut world = Configured::start("[serve]\nid = 'one'\n");
    let port = world.server.address.port();
    let late = "[serve]\nid = 'two'\nttl = '7s'\nidle-timeout = '9m'\n";
    world.reload(late);
    let needs = "changes only with a restart, and the old value goes on:";
    for says in [
        format!("WARN {needs} serve.id is two, was one"),
        format!("WARN {needs} serve.ttl is 7s, was 10s"),
        "INFO changed: serve.idle-timeout is 9m, was 10m".to_owned(),
    ] {
        world.server.process.wait_for_log(&says);
    }
    assert_eq!(world.server.connect().ask("WHERE"), "one\n");
    assert_eq!(world.server.address.port(), port);
    // It is still to come at the next reading, and what was taken is not.
    world.reload(&format!("{late}max-clients = 5\n"));
    world.server.process.wait_for_log("serve.max-clients is 5");
    let log = world.server.process.log();
    assert_eq!(log.matches("serve.id is two, was one").count(), 2, "{log}");
    assert_eq!(log.matches("serve.idle-timeout is 9m").count(), 1, "{log}");
}

#[test]
fn sighup_with_a_broken_configuration_says_every_mistake_and_keeps_the_old_one() {
    let mut world = Configured::start("[serve]\nmax-clients = 1\n");
    let mut first = world.server.connect();
    assert_eq!(first.ask("WHY"), "42\n");
    world.reload("[serve]\nmax-clients = 0\nidle-timeout = 'soon'\nmax-cleints = 3\n");
    let process = &mut world.server.process;
    process.wait_for_log("the old settings go on: error: the configuration has 3 mistakes");
    for says in ["lbctl.toml:2: max-clients 0", "lbctl.toml:3: ", "lbctl.toml:4: "] {
        process.wait_for_log(says);
    }
    assert!(world.server.connect().rest().starts_with("too many clients: at most 1"));
    assert_eq!(first.ask("WHY"), "42\n");
    world.reload("[serve]\nmax-clients = 1\n");
    world.server.process.wait_for_log("nothing has changed");
}

#[test]
fn sighup_takes_a_new_log_level() {
    let mut world = Configured::start("[log]\nlevel = 'info'\n[serve]\nmax-clients = 1\n");
    let mut first = world.server.connect();
    assert_eq!(first.ask("WHY"), "42\n");
    let refused = || assert!(world.server.connect().rest().starts_with("too many clients"));
    refused();
    assert!(!world.server.process.log().contains("a client was refused"));
    world.reload("[log]\nlevel = 'debug'\n[serve]\nmax-clients = 1\n");
    eventually("a client that is refused to be logged", || {
        refused();
        world.server.process.log().contains("DEBUG a client was refused").then_some(())
    });
    world.reload("[log]\nlevel = 'info'\nformat = 'json'\n[serve]\nmax-clients = 1\n");
    world.server.process.wait_for_log("old value goes on: log.format is json, was text");
}

#[test]
fn a_log_filter_of_the_environment_wins_and_that_is_said() {
    let dir = tempdir().unwrap();
    let file = write(dir.path(), "");
    let mut command = std::process::Command::new(crate::support::lbctl());
    command.args(["serve", "--store", "memory:", "--config", &file]).env("LBCTL_LOG", "info");
    let mut server = Server::of(dir.path(), "serve", &mut command, &[]);
    write(dir.path(), "[log]\nlevel = 'debug'\n");
    server.process.signal("HUP");
    server.process.wait_for_log("log.level changes nothing: LBCTL_LOG is set");
}
