use std::time::{Duration, Instant};

use lbctl::model::keys;
use lbctl::store::{Change, WatchEvent};
use tempfile::tempdir;

use super::bounds::{Room, crowd};
use super::{Client, Server};
use crate::support::etcd::Etcd;
use crate::support::{World, eventually, free_port};

fn connected(server: &Server, count: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..count).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.ask("WHY"), "42\n"));
    clients
}

fn three_servers_count_together(world: &World) {
    let servers = ["a", "b", "c"].map(|id| Server::of_world(world, id, &["--ttl", "2s"]));
    let clients = [1, 2, 3].map(|n| connected(&servers[n - 1], n));
    servers.iter().for_each(|server| server.wait_for_all("7"));
    let [_, two, _] = clients;
    drop(two);
    servers.iter().for_each(|server| server.wait_for_all("5"));
    let [first, _second, mut third] = servers;
    third.process.kill();
    let killed = Instant::now();
    first.wait_for_all("2");
    // The lease had 2 s at most when its server died.
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
}

#[test]
fn three_servers_count_together_and_right_after_one_is_killed() {
    three_servers_count_together(&World::sqlite());
}

#[test]
fn three_servers_count_together_over_etcd() {
    if let Some(world) = World::etcd() {
        three_servers_count_together(&world);
    }
}

#[test]
fn a_server_that_stops_takes_its_count_along_at_once() {
    let world = World::sqlite();
    let [first, mut second] = ["a", "b"]
        .map(|id| Server::of_world(&world, id, &["--ttl", "60s", "--shutdown-grace", "3s"]));
    let _clients = connected(&second, 4);
    first.wait_for_all("5");
    second.process.signal("TERM");
    assert!(second.process.wait().success());
    first.wait_for_all("1");
}

#[test]
fn a_thousand_changes_are_few_writes_and_probes_are_none() {
    let world = World::sqlite();
    let server = Server::of_world(&world, "a", &[]);
    server.wait_for_all("1");
    let mut watch = world.block_on(world.store.watch(&keys::serve())).unwrap();
    (0..500).for_each(|_| drop(server.connect()));
    let crowd = connected(&server, 500);
    drop(crowd);
    let end = eventually("the last count", || {
        let (key, value) = world.list("serve").pop()?;
        (value == r#"{"clients":0}"#).then_some(key)
    });
    let fence = world.put("serve/fence/x", r#"{"clients":0}"#);
    let mut writes = 0;
    world.block_on(async {
        loop {
            match watch.next_event().await {
                WatchEvent::Changed(changes) if changes.iter().any(|c| c.revision() >= fence) => {
                    break;
                }
                WatchEvent::Changed(changes) => {
                    assert!(
                        changes
                            .iter()
                            .all(|c| matches!(c, Change::Put(e) if e.key.as_str() == end))
                    );
                    writes += changes.len();
                }
                WatchEvent::Reset(_) => {}
                WatchEvent::Interrupted(error) => panic!("{error}"),
            }
        }
    });
    assert!((2..250).contains(&writes), "{writes} writes");
}

#[test]
fn two_servers_with_one_id_are_counted_apart_and_told_so() {
    let world = World::sqlite();
    let first = Server::of_world(&world, "same", &[]);
    let _clients = connected(&first, 2);
    let mut second = Server::of_world(&world, "same", &[]);
    second.wait_for_all("3");
    second.process.wait_for_log("another server has the id same too");
}

#[test]
fn without_the_store_the_local_answers_go_on_and_the_count_says_so() {
    let Some(mut etcd) = Etcd::start() else { return };
    let dir = tempdir().unwrap();
    let world = World::at(dir, etcd.url("test"), None);
    let server = Server::of_world(&world, "a", &["--ttl", "2s"]);
    let mut client = server.connect();
    server.wait_for_all("2");
    etcd.kill(0);
    let answered = |client: &mut Client| {
        let asked = Instant::now();
        let who = client.who();
        assert!(asked.elapsed() < Duration::from_secs(2), "WHO hung for {:?}", asked.elapsed());
        assert_eq!((who.clients, who.here), (vec![client.address()], 1));
        who.all
    };
    eventually("the count to be unavailable", || {
        assert_eq!(client.ask("WHERE"), "a\n");
        (answered(&mut client) == "unavailable").then_some(())
    });
    etcd.restart(0);
    eventually("the count to be back", || (answered(&mut client) == "1").then_some(()));
    wait_for_own_key(&world);
}

/// Waits until the only key is that of a server with one client; says what else there is meanwhile.
fn wait_for_own_key(world: &World) {
    let mut seen = Vec::new();
    eventually("this server's own key", || {
        let all = world.list("serve");
        if all != seen {
            eprintln!("under serve: {all:?}");
            seen.clone_from(&all);
        }
        (all.len() == 1 && all[0].1 == r#"{"clients":1}"#).then_some(())
    });
}

#[test]
fn a_server_killed_with_five_thousand_clients_counts_no_more_once_its_lease_is_gone() {
    let world = World::sqlite();
    let [first, mut second] = ["a", "b"].map(|id| Server::of_world(&world, id, &["--ttl", "2s"]));
    let room = Room::take();
    let crowd = crowd(&second, room.clients / 2);
    first.wait_for_all(&(crowd.len() + 1).to_string());
    second.process.kill();
    first.wait_for_all("1");
}

#[test]
fn a_database_file_that_is_moved_away_stops_nobody_and_is_found_again() {
    let world = World::sqlite();
    let mut server = Server::of_world(&world, "a", &["--ttl", "2s"]);
    server.wait_for_all("1");
    let (file, away) = (world.dir.path().join("lbctl.db"), world.dir.path().join("away.db"));
    std::fs::rename(&file, &away).unwrap();
    let mut client = server.connect();
    eventually("the count to be unavailable", || {
        assert_eq!(client.ask("WHERE"), "a\n");
        (client.who().all == "unavailable").then_some(())
    });
    assert_eq!(client.who().here, 1);
    server.process.wait_for_log("the database file was removed");
    std::fs::rename(&away, &file).unwrap();
    eventually("the count to be back", || (client.who().all == "1").then_some(()));
    wait_for_own_key(&world);
}

#[test]
fn a_store_that_was_never_there_stops_nobody() {
    let dir = tempdir().unwrap();
    let url = format!("etcd://127.0.0.1:{}", free_port());
    let mut command = std::process::Command::new(crate::support::lbctl());
    command.args(["serve", "--store", &url, "--shutdown-grace", "5s", "--register", "web"]);
    let mut server = Server::of(dir.path(), "serve", &mut command, &["--id", "a"]);
    let mut client = server.connect();
    let who = client.who();
    assert_eq!((who.here, &*who.all), (1, "unavailable"));
    assert_eq!(client.ask("WHERE"), "a\n");
    drop(client);
    server.process.signal("TERM");
    assert!(server.process.wait().success());
}
