//! `lbctl register` around real commands.

use std::net::TcpListener;
use std::path::PathBuf;

use lbctl::model::SlotState;

use crate::support::world::LONG_ENOUGH;
use crate::support::{DEADLINE, Process, World, eventually, free_port};

/// A shell that writes what it was told into a file, ends with 7 on SIGTERM, and otherwise goes on.
const LISTENING_SHELL: &str = "
    trap 'echo TERM >> \"$0\"; exit 7' TERM
    trap 'echo INT >> \"$0\"' INT
    trap 'echo USR1 >> \"$0\"' USR1
    echo started >> \"$0\"
    while :; do sleep 0.05; done";

/// A registered shell; what it was told is in the file.
fn shell(world: &World, args: &[&str]) -> (Process, PathBuf) {
    let told = world.dir.path().join(format!("told-{:08x}", fastrand::u32(..)));
    let mut command = world.command(&["register", "web", "10.0.0.1:80"]);
    command.args(args).args(["--", "sh", "-c", LISTENING_SHELL]).arg(&told);
    let process = Process::start("register", world.dir.path(), &mut command);
    wait_for_told(&told, "started\n");
    (process, told)
}

fn read(told: &PathBuf) -> String {
    std::fs::read_to_string(told).unwrap_or_default()
}

fn wait_for_told(told: &PathBuf, wanted: &str) {
    eventually(&format!("the command to be told {wanted:?}"), || {
        (read(told) == wanted).then_some(())
    });
}

fn status(world: &World, shell: &str) -> Option<i32> {
    let mut command = world.command(&["register", "web", "10.0.0.1:80", "--", "sh", "-c", shell]);
    Process::start("register", world.dir.path(), &mut command).wait().code()
}

#[test]
fn it_ends_with_the_command_s_exit_code() {
    let world = World::sqlite();
    assert_eq!(status(&world, "exit 0"), Some(0));
    assert_eq!(status(&world, "exit 42"), Some(42));
    assert_eq!(status(&world, "kill -KILL $$"), Some(137));
    let mut missing = world.command(&["register", "web", "10.0.0.1:80", "--", "no-such-program"]);
    let mut missing = Process::start("missing", world.dir.path(), &mut missing);
    assert_eq!(missing.wait().code(), Some(127));
    assert!(missing.log().contains("cannot start no-such-program"), "{}", missing.log());
}

#[test]
fn the_command_has_this_process_s_input_and_output() {
    let world = World::sqlite();
    let mut command = world.command(&[
        "register",
        "web",
        "10.0.0.1:80",
        "--",
        "sh",
        "-c",
        "cat; echo to-stderr >&2",
    ]);
    let mut command = assert_cmd::Command::from_std(std::mem::replace(
        &mut command,
        std::process::Command::new("true"),
    ));
    let output = command.write_stdin("from stdin\n").timeout(DEADLINE).output().unwrap();
    assert_eq!(output.stdout, b"from stdin\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("to-stderr"));
}

#[test]
fn it_is_registered_while_the_command_runs_and_not_longer() {
    let world = World::sqlite();
    let args = ["--id", "a", "--weight", "9", "--zone", "z", "--ttl", "60s"];
    let (mut process, told) = shell(&world, &args);
    let endpoint = world.wait_for_registered("web", 1).remove(0).endpoint;
    assert_eq!((endpoint.id.as_str(), endpoint.address.to_string()), ("a", "10.0.0.1:80".into()));
    assert_eq!(endpoint.weight.map(|w| w.get()), Some(9));
    assert_eq!(endpoint.zone.unwrap().as_str(), "z");
    process.signal("USR1");
    wait_for_told(&told, "started\nUSR1\n");
    assert_eq!(world.registered("web").len(), 1);
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(7));
    assert_eq!(world.registered("web"), []);
}

#[test]
fn a_command_that_ends_by_itself_is_deregistered_at_once() {
    let world = World::sqlite();
    let done = world.dir.path().join("done");
    let script = format!("while ! [ -e {} ]; do sleep 0.05; done; exit 3", done.display());
    let args = ["register", "web", "10.0.0.1:80", "--ttl", "60s", "--", "sh", "-c", &script];
    let mut process = Process::start("register", world.dir.path(), &mut world.command(&args));
    world.wait_for_registered("web", 1);
    std::fs::write(&done, "").unwrap();
    assert_eq!(process.wait().code(), Some(3));
    assert_eq!(world.registered("web"), []);
}

#[test]
fn the_command_is_told_to_end_only_when_its_last_session_has() {
    let world = World::sqlite();
    let (mut process, told) = shell(&world, &[]);
    let endpoint = world.wait_for_registered("web", 1).remove(0).endpoint;
    let ready = world.put_slot("web", &endpoint, SlotState::Ready);
    world.put_report("web", ready, 0);
    process.signal("TERM");
    world.wait_for_leaving("web");
    stays(&told, "started\n");
    let drained = world.put_slot("web", &endpoint, SlotState::Drain);
    stays(&told, "started\n");
    world.put_report("web", drained, 1);
    stays(&told, "started\n");
    assert_eq!(world.registered("web").len(), 1);
    world.put_report("web", drained, 0);
    assert_eq!(process.wait().code(), Some(7));
    assert_eq!(read(&told), "started\nTERM\n");
}

#[test]
fn the_drain_has_a_deadline() {
    let world = World::sqlite();
    let (mut process, told) = shell(&world, &["--drain-deadline", "1s"]);
    let endpoint = world.wait_for_registered("web", 1).remove(0).endpoint;
    world.put_slot("web", &endpoint, SlotState::Ready);
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(7));
    assert_eq!(read(&told), "started\nTERM\n");
    assert!(process.log().contains("not waiting for slot 1 to be drained"), "{}", process.tail());
}

#[test]
fn a_second_signal_is_passed_on_at_once() {
    let world = World::sqlite();
    let (mut process, told) = shell(&world, &["--drain-deadline", "10m"]);
    let endpoint = world.wait_for_registered("web", 1).remove(0).endpoint;
    world.put_slot("web", &endpoint, SlotState::Ready);
    process.signal("TERM");
    world.wait_for_leaving("web");
    process.signal("INT");
    wait_for_told(&told, "started\nINT\n");
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(7));
    assert_eq!(world.registered("web"), []);
}

#[test]
fn a_store_that_is_not_there_stops_nobody() {
    let world = World::sqlite();
    let url = format!("etcd://127.0.0.1:{}", free_port());
    let mut command = std::process::Command::new(crate::support::lbctl());
    let told = world.dir.path().join("told");
    command.args(["register", "web", "10.0.0.1:80", "--store", &url, "--", "sh", "-c"]);
    command.arg(LISTENING_SHELL).arg(&told);
    let mut process = Process::start("register", world.dir.path(), &mut command);
    wait_for_told(&told, "started\n");
    process.wait_for_log("is failing");
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(7));
}

#[test]
fn with_wait_port_it_registers_once_the_address_accepts() {
    let world = World::sqlite();
    let address = format!("127.0.0.1:{}", free_port());
    let args = ["register", "web", &address, "--wait-port"];
    let mut process = Process::start("register", world.dir.path(), &mut world.command(&args));
    process.wait_for_log("accepts connections");
    stays_unregistered(&world);
    let _listener = TcpListener::bind(&address).unwrap();
    world.wait_for_registered("web", 1);
    process.signal("INT");
    assert_eq!(process.wait().code(), Some(0));
}

#[test]
fn without_a_command_it_stays_until_a_signal() {
    let world = World::sqlite();
    let args = ["register", "web", "10.0.0.1:80", "--ttl", "60s"];
    for (signals, code) in [(&["TERM"][..], 0), (&["TERM", "INT"], 130)] {
        let mut process = Process::start("register", world.dir.path(), &mut world.command(&args));
        let endpoint = world.wait_for_registered("web", 1).remove(0).endpoint;
        if signals.len() > 1 {
            world.put_slot("web", &endpoint, SlotState::Ready);
        }
        process.signal(signals[0]);
        if let Some(second) = signals.get(1) {
            world.wait_for_leaving("web");
            process.signal(second);
        }
        assert_eq!(process.wait().code(), Some(code));
        assert_eq!(world.registered("web"), []);
    }
}

#[test]
fn a_killed_one_is_deregistered_by_its_lease() {
    let world = World::sqlite();
    let args = ["register", "web", "10.0.0.1:80", "--ttl", "2s"];
    let mut process = Process::start("register", world.dir.path(), &mut world.command(&args));
    world.wait_for_registered("web", 1);
    process.kill();
    world.wait_for_registered("web", 0);
}

#[test]
fn wrong_arguments_are_all_named() {
    let world = World::sqlite();
    let mut command =
        world.command(&["register", "we b", "0.0.0.0:80", "--weight", "300", "--ttl", "0"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8(output.stderr).unwrap();
    for text in ["\"we b\"", "0.0.0.0", "300", "ttl"] {
        assert!(said.contains(text), "{text} is not in {said}");
    }
}

/// What must not happen has the time to.
fn stays(told: &PathBuf, wanted: &str) {
    #[expect(
        clippy::disallowed_methods,
        reason = "nothing is to happen, so there is nothing to poll"
    )]
    std::thread::sleep(LONG_ENOUGH);
    assert_eq!(read(told), wanted);
}

fn stays_unregistered(world: &World) {
    #[expect(
        clippy::disallowed_methods,
        reason = "nothing is to happen, so there is nothing to poll"
    )]
    std::thread::sleep(LONG_ENOUGH);
    assert_eq!(world.registered("web"), []);
}
