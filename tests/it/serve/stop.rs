use std::time::{Duration, Instant};

use lbctl::model::SlotState;

use super::{Client, Server};
use crate::support::{World, eventually};

#[test]
fn it_registers_what_it_was_told() {
    let world = World::sqlite();
    let args = ["--register", "web", "--weight", "7", "--group", "g", "--zone", "z"];
    let server = Server::of_world(&world, "a", &args);
    let registered = world.wait_for_registered("web", 1).remove(0).endpoint;
    assert_eq!(registered.id.as_str(), "a");
    assert_eq!(registered.address.socket_addr(), server.address);
    assert_eq!(registered.weight.map(|w| w.get()), Some(7));
    assert_eq!(registered.group.unwrap().as_str(), "g");
    assert_eq!(registered.zone.unwrap().as_str(), "z");
    assert!(!registered.leaving);
}

#[test]
fn it_is_deregistered_before_it_stops_accepting_and_its_clients_finish() {
    let world = World::sqlite();
    let mut server = Server::of_world(&world, "a", &["--register", "web"]);
    let endpoint = world.wait_for_registered("web", 1).remove(0).endpoint;
    let mut held = server.connect();
    assert_eq!(held.ask("WHY"), "42\n");
    world.put_slot("web", &endpoint, SlotState::Ready);
    server.process.signal("TERM");
    world.wait_for_leaving("web");
    // Load balancers may still send clients here, and those are served.
    let mut late = server.connect();
    assert_eq!(late.ask("WHY"), "42\n");
    let drained = world.put_slot("web", &endpoint, SlotState::Drain);
    world.put_report("web", drained, 0);
    world.wait_for_registered("web", 0);
    wait_until_refused(&server);
    assert_eq!((held.ask("WHY"), late.ask("where")), ("42\n".into(), "a\n".into()));
    assert!(server.process.is_running());
    drop(late);
    held.send("QUIT\n");
    assert_eq!(held.rest(), "");
    assert!(server.process.wait().success());
    assert_eq!(world.list("serve"), []);
}

#[test]
fn it_stays_marked_as_leaving_while_a_load_balancer_has_sessions_on_it() {
    let world = World::sqlite();
    let mut server = Server::of_world(&world, "a", &["--register", "web"]);
    let endpoint = world.wait_for_registered("web", 1).remove(0).endpoint;
    let mut held = server.connect();
    assert_eq!(held.ask("WHY"), "42\n");
    let drained = world.put_slot("web", &endpoint, SlotState::Drain);
    world.put_report("web", drained, 1);
    server.process.signal("TERM");
    wait_until_refused(&server);
    world.wait_for_leaving("web");
    assert_eq!(held.ask("WHY"), "42\n");
    drop(held);
    assert!(server.process.wait().success());
    assert_eq!(world.registered("web"), []);
}

#[test]
fn clients_that_stay_are_closed_when_the_grace_period_ends() {
    let world = World::sqlite();
    let mut server = Server::of_world(&world, "a", &["--shutdown-grace", "2s"]);
    let mut held = server.connect();
    assert_eq!(held.ask("WHY"), "42\n");
    server.process.signal("TERM");
    let asked = Instant::now();
    assert_eq!(held.rest(), "");
    assert!(asked.elapsed() > Duration::from_secs(1), "closed after {:?}", asked.elapsed());
    assert!(server.process.wait().success());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let world = World::sqlite();
    let mut server = Server::of_world(&world, "a", &[]);
    let mut held = server.connect();
    assert_eq!(held.ask("WHY"), "42\n");
    server.process.signal("TERM");
    wait_until_refused(&server);
    // What comes within half a second is the same signal.
    eventually("a second signal to end it", || {
        server.process.signal("TERM");
        (!server.process.is_running()).then_some(())
    });
    assert_eq!(server.process.wait().code(), Some(143));
}

#[test]
fn a_killed_server_is_deregistered_by_its_lease_and_takes_its_id_up_again() {
    let world = World::sqlite();
    let mut server = Server::of_world(&world, "a", &["--register", "web", "--ttl", "2s"]);
    let first = world.wait_for_registered("web", 1).remove(0);
    server.process.kill();
    world.wait_for_registered("web", 0);
    let _again = Server::of_world(&world, "a", &["--register", "web", "--ttl", "2s"]);
    let second = world.wait_for_registered("web", 1).remove(0);
    assert_eq!(second.endpoint.id, first.endpoint.id);
    assert!(second.since > first.since);
}

#[test]
fn a_second_server_with_a_registered_id_waits_and_says_so() {
    let world = World::sqlite();
    let first = Server::of_world(&world, "a", &["--register", "web"]);
    let registered = world.wait_for_registered("web", 1);
    let mut second = Server::of_world(&world, "a", &["--register", "web"]);
    second.process.wait_for_log("the id a is taken by the server at");
    assert_eq!(world.registered("web"), registered);
    first.process.signal("TERM");
    eventually("the second to take over", || {
        let all = world.registered("web");
        (all.len() == 1 && all[0].endpoint.address.socket_addr() == second.address).then_some(())
    });
}

fn wait_until_refused(server: &Server) {
    eventually("the listening socket to close", || {
        std::net::TcpStream::connect(server.address).is_err().then_some(())
    });
}

#[test]
fn a_client_that_only_watches_can_be_held_open_over_the_stop() {
    let world = World::sqlite();
    let mut server = Server::of_world(&world, "a", &["--shutdown-grace", "20s"]);
    let mut watching: Client = server.connect();
    let mut asking = server.connect();
    assert_eq!(asking.who().here, 2);
    server.process.signal("TERM");
    wait_until_refused(&server);
    assert_eq!(watching.ask("WHY"), "42\n");
    drop((watching, asking));
    assert!(server.process.wait().success());
}
