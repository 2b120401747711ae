//! Servers come and go while somebody else has a hand in HAProxy: an agent, a person on the socket, a
//! `slowstart`, whoever deletes a record. What was ordered happens, and nothing else.

use std::sync::atomic::{AtomicU64, Ordering};

use lbctl::model::{SlotState, keys};
use lbctl::store::{Commit, Txn};

use super::neighbours::{CHECK, Told, World, agent_at, app, refused};
use super::support::haproxy::{Client, NamedServer, Options, Version, on_every_haproxy};
use super::support::{Process, eventually};
use super::sync_haproxy::{put_slot, web};

on_every_haproxy! {
    the_last_server_stays_also_while_it_warms_up,
    an_agent_that_says_ready_keeps_no_server_from_leaving,
    an_agents_maint_stays,
    an_address_by_another_hand_is_undone_where_others_serve,
    a_draining_server_whose_record_is_lost_leaves_once_it_is_empty,
    a_run_ends_at_once_where_nobody_confirms_a_drain,
}

fn is(world: &World, name: &str, state: &str) -> Option<()> {
    (world.haproxy.server("app", name).state() == state).then_some(())
}

fn becomes(world: &World, sync: &Process, name: &str, state: &str) {
    eventually(&format!("{name} to be {state}\n{}", sync.tail()), || is(world, name, state));
}

async fn the_last_server_stays_also_while_it_warms_up(version: Version) {
    let backend = app(&format!("{CHECK} slowstart 1m"));
    let Some(world) = World::start(version, Options::new([backend])).await else { return };
    let [a, b] = ["a", "b"].map(|name| NamedServer::start(name, "127.0.0.2"));
    b.set_healthy(false);
    world.ready(1, &a).await;
    let sync = world.sync(&[]);
    world.served_by("a", &sync);
    // One commit, so that the pass that starts the one sees the other leave.
    world.ready(2, &b).await;
    put_slot(&world.store, 1, "e1", a.address(), SlotState::Drain).await;
    becomes(&world, &sync, "srv2", "ready");
    let held = |told: &Told| !told.converged;
    world.reported(&sync, "a drain that waits", held).await;
    assert_eq!(is(&world, "srv1", "ready"), Some(()), "{}", sync.tail());
    assert_eq!(Client::ask_once(world.haproxy.frontend("app")).as_deref(), Some("a"));
}

/// Several questions to an agent later.
fn asked_again(asked: &AtomicU64) {
    let seen = asked.load(Ordering::SeqCst);
    eventually("the agents to be asked again", || {
        (asked.load(Ordering::SeqCst) > seen + 6).then_some(())
    });
}

async fn an_agent_that_says_ready_keeps_no_server_from_leaving(version: Version) {
    let (port, asked) = agent_at("127.0.0.3", "up ready\n");
    let words = format!("{CHECK} agent-check agent-inter 100ms agent-port {port}");
    let Some(world) = World::start(version, Options::new([app(&words)])).await else { return };
    let [a, b] = ["a", "b"].map(|name| NamedServer::start(name, "127.0.0.3"));
    world.ready(1, &a).await;
    world.ready(2, &b).await;
    let sync = world.sync(&[]);
    for name in ["a", "b"] {
        world.served_by(name, &sync);
    }
    for (state, shown) in [(SlotState::Drain, "drain"), (SlotState::Rest, "maint")] {
        put_slot(&world.store, 1, "e1", a.address(), state).await;
        becomes(&world, &sync, "srv1", shown);
        asked_again(&asked);
        assert_eq!(is(&world, "srv1", shown), Some(()), "{shown} was undone\n{}", sync.tail());
    }
    // Who comes next has an agent again.
    world.ready(1, &a).await;
    world.served_by("a", &sync);
    let agent = |name: &str| world.haproxy.server("app", name).get("srv_agent_state").to_owned();
    assert_eq!(agent("srv1"), agent("srv2"));
}

async fn an_agents_maint_stays(version: Version) {
    let (port, asked) = agent_at("127.0.0.3", "maint\n");
    let words = format!("{CHECK} agent-check agent-inter 100ms agent-port {port}");
    let Some(world) = World::start(version, Options::new([app(&words)])).await else { return };
    let a = NamedServer::start("a", "127.0.0.3");
    world.ready(1, &a).await;
    let sync = world.sync(&[]);
    asked_again(&asked);
    let address = world.haproxy.server("app", "srv1").address();
    assert_eq!(address, a.address().to_string());
    assert_eq!(is(&world, "srv1", "maint"), Some(()), "{}", sync.tail());
    let told = world.reported(&sync, "convergence", |told| told.converged).await;
    assert_eq!(told.error, None, "{}", sync.tail());
    assert!(!sync.log().contains("by another hand: undone"), "{}", sync.tail());
}

async fn an_address_by_another_hand_is_undone_where_others_serve(version: Version) {
    let Some(world) = World::start(version, Options::new([app(CHECK)])).await else { return };
    let [a, b, c] = ["a", "b", "c"].map(|name| NamedServer::start(name, "127.0.0.2"));
    world.ready(1, &a).await;
    let sync = world.sync(&[]);
    world.served_by("a", &sync);
    let move_it = || {
        let (ip, port) = (c.address().ip(), c.address().port());
        world.haproxy.raw(&format!("set server app/srv1 addr {ip} port {port}"));
    };
    move_it();
    // Nobody else serves: it stays, and is told.
    let told = |told: &Told| told.error.as_ref().is_some_and(|e| e.contains("srv1 at"));
    world.reported(&sync, "the address", told).await;
    assert_eq!(world.haproxy.server("app", "srv1").address(), c.address().to_string());
    world.ready(2, &b).await;
    let is_back =
        || (world.haproxy.server("app", "srv1").address() == a.address().to_string()).then_some(());
    eventually(&format!("the table's address\n{}", sync.tail()), is_back);
    let told = world.reported(&sync, "convergence", |told| told.converged).await;
    assert_eq!(told.error, None);
}

async fn a_draining_server_whose_record_is_lost_leaves_once_it_is_empty(version: Version) {
    let Some(world) = World::start(version, Options::new([app(CHECK)])).await else { return };
    let [a, b] = ["a", "b"].map(|name| NamedServer::start(name, "127.0.0.2"));
    world.ready(1, &a).await;
    let sync = world.sync(&[]);
    world.served_by("a", &sync);
    let mut client = Client::connect(world.haproxy.frontend("app")).unwrap();
    client.ask().unwrap();
    world.ready(2, &b).await;
    world.served_by("b", &sync);
    put_slot(&world.store, 1, "e1", a.address(), SlotState::Drain).await;
    becomes(&world, &sync, "srv1", "drain");
    let key = keys::slot(&web(), 1.try_into().unwrap());
    let commit = world.store.commit(Txn::new().delete(key)).await.unwrap();
    assert!(matches!(commit, Commit::Committed(_)));
    let told = |told: &Told| told.error.as_ref().is_some_and(|e| e.contains("srv1 at"));
    world.reported(&sync, "the server without a record", told).await;
    assert_eq!(client.ask().unwrap(), "a", "its session was cut");
    drop(client);
    becomes(&world, &sync, "srv1", "maint");
    let told = world.reported(&sync, "convergence", |told| told.converged).await;
    assert_eq!(told.error, None);
}

async fn a_run_ends_at_once_where_nobody_confirms_a_drain(version: Version) {
    let Some(world) = World::start(version, Options::new([app("")])).await else { return };
    let [a, b] = ["a", "b"].map(|name| NamedServer::start(name, "127.0.0.2"));
    world.ready(1, &a).await;
    world.ready(2, &b).await;
    let output = world.once(&[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    put_slot(&world.store, 1, "e1", a.address(), SlotState::Drain).await;
    let unsaid = Txn::new().delete(keys::confirmed(&web()));
    assert!(matches!(world.store.commit(unsaid).await.unwrap(), Commit::Committed(_)));
    refused(&world.once(&[]), "table web was not yet confirmed");
    assert_eq!(is(&world, "srv1", "ready"), Some(()));
}
