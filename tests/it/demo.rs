//! The demo as a user starts it.

use std::path::Path;
use std::process::Command;

use super::support::{Process, eventually, lbctl, program};

fn demo(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(lbctl());
    command.arg("demo").args(args).env("TMPDIR", dir);
    command
}

/// What a demo leaves in its temporary folder, and the processes that name it.
fn remains(dir: &Path) -> Vec<String> {
    let files = std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().path()).filter(|f| f.is_dir());
    let mut found: Vec<String> = files.map(|f| f.display().to_string()).collect();
    let processes = Command::new("ps").args(["-eo", "pid,args"]).output().unwrap();
    let name = dir.display().to_string();
    found.extend(
        String::from_utf8_lossy(&processes.stdout)
            .lines()
            .filter(|line| line.contains(&name))
            .map(str::to_owned),
    );
    found
}

#[test]
fn two_checks_at_once_both_hold_and_leave_nothing_behind() {
    if program("haproxy").is_none() {
        return;
    }
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut checks: Vec<Process> = dirs
        .iter()
        .map(|dir| Process::start("demo", dir.path(), &mut demo(dir.path(), &["--check"])))
        .collect();
    for (check, dir) in checks.iter_mut().zip(&dirs) {
        check.wait_for_log("all of it held");
        assert_eq!(check.wait().code(), Some(0), "{}", check.log());
        assert_eq!(check.log().matches("\nok ").count() + 1, 8, "{}", check.log());
        assert_eq!(remains(dir.path()), Vec::<String>::new());
    }
}

#[test]
fn ctrl_c_and_a_kill_of_the_demo_leave_no_process_behind() {
    if program("haproxy").is_none() {
        return;
    }
    for signal in ["INT", "KILL"] {
        let dir = tempfile::tempdir().unwrap();
        let mut live = Process::start("demo", dir.path(), &mut demo(dir.path(), &[]));
        live.wait_for_log("3 ready");
        assert!(live.log().contains("nc 127.0.0.1 "), "{}", live.log());
        assert!(!live.log().contains('\x1b'), "colours reached a file: {}", live.log());
        live.signal(signal);
        let code = live.wait().code();
        if signal == "INT" {
            assert_eq!(code, Some(0), "{}", live.log());
            assert_eq!(remains(dir.path()), Vec::<String>::new());
        }
        eventually("the demo's processes to end", || {
            let running = remains(dir.path()).iter().any(|r| !r.starts_with('/'));
            (!running).then_some(())
        });
    }
}

#[test]
fn a_missing_haproxy_and_a_taken_port_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let missing =
        demo(dir.path(), &["--haproxy", "/nonexistent/haproxy", "--check"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(said.contains("/nonexistent/haproxy"), "{said}");
    assert_eq!(remains(dir.path()), Vec::<String>::new());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let refused = demo(dir.path(), &["--port", &port, "--check"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains(&port) && said.contains("--port"), "{said}");
}
