//! Daemons among those who mean no good, or who do nothing at all.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lbctl::model::{BackendSpec, Ramp, SlotState, Weight};

use crate::support::haproxy::{Backend, Client, Haproxy, NamedServer, Options};
use crate::support::{
    DEADLINE, Process, World, endpoint, eventually, free_port, http_get, lbctl, program,
};

const CHECK: &str = "check inter 100ms rise 2 fall 2";

/// Every daemon, with what it needs to start on a store that is there.
fn daemons(folder: &Path) -> [Vec<String>; 3] {
    let list = folder.join("list.yaml");
    std::fs::write(&list, "- 127.0.0.1:1\n").unwrap();
    let source = format!("file:{}", list.display());
    [
        vec!["serve", "-H", "127.0.0.1", "-p", "0"],
        vec!["discover", "--backend", "web", "--source", &source, "--slots", "1"],
        vec!["sync-haproxy", "--socket", "/no/such/socket", "--backend", "app", "--from", "web"],
    ]
    .map(|words| words.into_iter().map(str::to_owned).collect())
}

/// A daemon with an admin server on a port of its own.
fn daemon(world: &World, words: &[String], port: u16) -> Command {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut command = world.command(&words);
    command.args(["--admin", &format!("127.0.0.1:{port}")]).stdin(Stdio::null());
    command
}

fn is_alive(port: u16) -> bool {
    http_get(port, "/livez").is_some_and(|reply| reply.ends_with("ok\n"))
}

fn wait_until_alive(port: u16) {
    eventually("the admin server to answer", || is_alive(port).then_some(()));
}

/// A child that is killed when the test ends.
struct Daemon(Child);

impl Daemon {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn ends_by_one_signal(&mut self) {
        let status = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        assert!(status.unwrap().success());
        let ended = eventually("the daemon to end", || self.0.try_wait().unwrap());
        assert_eq!(ended.code(), Some(0));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        _ = self.0.kill().is_ok();
        _ = self.0.wait().is_ok();
    }
}

fn more_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// A table `web` with one server, and HAProxy's backend `app` for it.
fn put_table(world: &World, server: &NamedServer) {
    let spec = BackendSpec {
        slots: 1,
        ramp: Ramp::flat(Weight::saturating(100)),
        drain_deadline: Duration::from_secs(300),
        drain_at_least: Duration::ZERO,
        rest: Duration::from_secs(1),
        unplaced: Vec::new(),
        origin: None,
    };
    world.put("backends/web/spec", &serde_json::to_string(&spec).unwrap());
    world.put_slot("web", &endpoint("a", server.address()), SlotState::Ready);
}

#[test]
fn a_crowd_at_the_admin_port_keeps_nobody_from_haproxy_or_from_an_answer() {
    more_open_files();
    let backend = Backend::new("app", 1).prefix("srv").server(CHECK);
    let Some(mut haproxy) = Haproxy::start(Options::new([backend])) else { return };
    let (world, server) = (World::sqlite(), NamedServer::start("a", "127.0.0.1"));
    put_table(&world, &server);
    let port = free_port();
    let mut command = Command::new("sh");
    // As most systems start a service.
    command.args(["-c", "ulimit -S -n 1024; exec \"$0\" \"$@\""]).arg(lbctl());
    command.args(["--store", &world.url, "sync-haproxy", "--socket", &haproxy.unix().to_string()]);
    command.args(["--backend", "app/srv", "--from", "web", "--name", "lb1", "--admin"]);
    command.arg(format!("127.0.0.1:{port}"));
    let sync = Process::start("sync", world.dir.path(), &mut command);
    wait_until_alive(port);
    let crowd: Vec<TcpStream> =
        (0..1200).filter_map(|_| TcpStream::connect(("127.0.0.1", port)).ok()).collect();
    assert!(crowd.len() > 1000, "{} have come", crowd.len());
    let serves = |haproxy: &Haproxy| {
        let address = haproxy.frontend("app");
        eventually(&format!("the server to serve; {}", sync.tail()), || {
            (Client::ask_once(address)? == "a").then_some(())
        });
    };
    serves(&haproxy);
    haproxy.kill();
    haproxy.start_again();
    serves(&haproxy);
    // An answer is there although all of them still stand in the queue.
    wait_until_alive(port);
    let open = std::fs::read_dir(format!("/proc/{}/fd", sync.id())).unwrap().count();
    assert!(open < 150, "{open} files are open");
    drop(crowd);
}

#[test]
fn half_a_request_ends_by_itself() {
    let (world, port) = (World::sqlite(), free_port());
    let words = &daemons(world.dir.path())[0];
    let _serve = Process::start("serve", world.dir.path(), &mut daemon(&world, words, port));
    wait_until_alive(port);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
}

#[test]
fn a_host_that_is_not_ours_learns_nothing() {
    let (world, port) = (World::sqlite(), free_port());
    let words = &daemons(world.dir.path())[0];
    let mut command = daemon(&world, words, port);
    command.env("LBCTL_SERVE_ADMIN_HOSTS", "lb1.example.com");
    let _serve = Process::start("serve", world.dir.path(), &mut command);
    wait_until_alive(port);
    let status = |host: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(stream, "GET /status HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        (reply.lines().next().unwrap_or_default().to_owned(), reply.contains("\"version\""))
    };
    for ours in ["localhost", "127.0.0.1:1", "[::1]", "lb1.example.com:9570"] {
        assert_eq!(status(ours), ("HTTP/1.1 200 OK".to_owned(), true), "{ours}");
    }
    for foreign in ["evil.example", "10.1.2.3", "localhost.evil.example:9570"] {
        let (line, told) = status(foreign);
        assert!(line.starts_with("HTTP/1.1 421 ") && !told, "{foreign}: {line}");
    }
}

/// A pipe that is full and that nobody reads: its ends.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

#[test]
fn a_daemon_whose_logs_nobody_reads_works_on_and_ends() {
    let world = World::sqlite();
    for words in daemons(world.dir.path()) {
        let (port, (_reader, writer)) = (free_port(), full_pipe());
        let mut command = daemon(&world, &words, port);
        let mut daemon = Daemon::start(command.arg("-vv").stderr(writer).stdout(Stdio::null()));
        wait_until_alive(port);
        daemon.ends_by_one_signal();
    }
}

#[test]
fn lines_that_nobody_reads_are_counted_and_told_once_somebody_does() {
    let world = World::sqlite();
    let (port, (reader, writer)) = (free_port(), full_pipe());
    let mut command = daemon(&world, &daemons(world.dir.path())[0], port);
    command.env("LBCTL_LOG", "trace").stderr(writer).stdout(Stdio::null());
    let mut serve = Daemon::start(&mut command);
    // The pipe is the child's alone, so that reading it ends.
    drop(command);
    let counted = eventually("lines to be dropped and counted", || {
        // Each connection is some lines.
        (0..500).for_each(|_| drop(TcpStream::connect(("127.0.0.1", port))));
        let metrics = http_get(port, "/metrics")?;
        let mut lines = metrics.lines();
        let count = lines.find_map(|line| line.strip_prefix("lbctl_log_lines_dropped_total "))?;
        count.parse::<u64>().ok().filter(|count| *count > 0)
    });
    let (heard, hears) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(reader).lines().map_while(Result::ok) {
            if line.contains("nobody read them in time dropped=") {
                _ = heard.send(line).is_ok();
            }
        }
    });
    let text = hears.recv_timeout(DEADLINE).expect("the line that says how many");
    let (_, told) = text.split_once("nobody read them in time dropped=").expect("the line");
    let digits: String = told.chars().take_while(char::is_ascii_digit).collect();
    assert!(digits.parse::<u64>().unwrap() >= counted, "{counted} were counted, {digits} told");
    serve.ends_by_one_signal();
}

const CHILD: &str = "LBCTL_TEST_CHILD";

#[test]
#[ignore = "is started as a child by another test"]
fn child_that_panics() {
    if std::env::var(CHILD).as_deref() != Ok("panics") {
        return;
    }
    lbctl::daemon::telemetry::report_panics();
    assert!(std::thread::spawn(|| panic!("on purpose")).join().is_err());
}

#[test]
fn a_panic_is_told_and_waits_for_nobody_who_reads_it() {
    let start = |stderr: Stdio| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["attacks::child_that_panics", "--exact", "--ignored", "--nocapture"]);
        command.env(CHILD, "panics").stdout(Stdio::null()).stderr(stderr).spawn().unwrap()
    };
    let (_reader, writer) = full_pipe();
    let mut child = Daemon(start(writer.into()));
    let ended = eventually("the child to end", || child.0.try_wait().unwrap());
    assert!(ended.success());
    let output = start(Stdio::piped()).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("panicked at") && said.contains("on purpose"), "{said}");
}

#[test]
fn a_command_that_fails_ends_although_nobody_reads_why() {
    let (_reader, writer) = full_pipe();
    let mut command = Command::new(lbctl());
    command.args(["config", "check", "/no/such/file"]).stderr(writer).stdout(Stdio::null());
    let mut check = Daemon::start(&mut command);
    let ended = eventually("the command to end", || check.0.try_wait().unwrap());
    assert_eq!(ended.code(), Some(78));
}

#[test]
fn a_service_manager_that_does_not_read_holds_nobody_up_and_hears_it_later() {
    let world = World::sqlite();
    let path = world.dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"full", &path).is_ok() {}
    let (port, words) = (free_port(), &daemons(world.dir.path())[0]);
    let start = || {
        let mut command = daemon(&world, words, port);
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "300000");
        Daemon::start(command.stderr(Stdio::null()))
    };
    let mut serve = start();
    wait_until_alive(port);
    serve.ends_by_one_signal();
    let mut serve = start();
    wait_until_alive(port);
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut heard = [0; 64];
    let mut wait_for = |wanted: &[u8]| loop {
        let len = manager.recv(&mut heard).unwrap();
        if heard[..len].starts_with(wanted) {
            return;
        }
    };
    wait_for(b"READY=1");
    wait_for(b"WATCHDOG=1");
    wait_for(b"WATCHDOG=1");
    serve.ends_by_one_signal();
    wait_for(b"STOPPING=1");
}

fn fifo(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

#[test]
fn a_pipe_that_nobody_writes_to_is_no_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = fifo(folder.path(), "lbctl.toml");
    let output = Command::new(lbctl()).arg("--config").arg(&path).args(["config", "show"]).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("lbctl.toml: it has not ended within 5s"), "{said}");
}

#[test]
fn a_file_that_becomes_a_pipe_leaves_a_daemon_with_its_old_settings() {
    let (world, port) = (World::sqlite(), free_port());
    let path = world.dir.path().join("lbctl.toml");
    std::fs::write(&path, "").unwrap();
    let mut command = daemon(&world, &daemons(world.dir.path())[0], port);
    command.arg("--config").arg(&path);
    let mut serve = Process::start("serve", world.dir.path(), &mut command);
    wait_until_alive(port);
    std::fs::remove_file(&path).unwrap();
    fifo(world.dir.path(), "lbctl.toml");
    serve.signal("HUP");
    serve.wait_for_log("SIGHUP received");
    assert!(is_alive(port));
    serve.wait_for_log("the old settings go on");
    serve.signal("TERM");
    assert_eq!(serve.wait().code(), Some(0));
}

/// A file of the store's that is missing, or a pipe in its place, is waited for by what goes on for
/// ever and is an error for what does not.
#[test]
fn what_is_missing_of_the_store_is_waited_for_by_daemons_alone() {
    let world = World::sqlite();
    let missing = world.dir.path().join("ca.pem");
    let pipe = fifo(world.dir.path(), "pipe");
    for (option, path, why) in [
        ("ca", &missing, "No such file"),
        ("ca", &pipe, "not a regular file"),
        ("password-file", &pipe, "not a regular file"),
    ] {
        let url = format!("etcds://me@127.0.0.1:1/x?{option}={}", path.display());
        for words in &daemons(world.dir.path())[1..] {
            let port = free_port();
            let mut command = Command::new(lbctl());
            command.args(words).args(["--store", &url, "--admin", &format!("127.0.0.1:{port}")]);
            let mut daemon = Process::start("daemon", world.dir.path(), &mut command);
            eventually(&format!("/readyz to say {why}; {}", daemon.tail()), || {
                let ready = http_get(port, "/readyz")?;
                (ready.contains("503") && ready.contains(why)).then_some(())
            });
            daemon.signal("TERM");
            assert_eq!(daemon.wait().code(), Some(0));
            let mut once = Command::new(lbctl());
            let output = once.args(words).args(["--store", &url, "--once"]).output().unwrap();
            assert_eq!(output.status.code(), Some(78));
        }
    }
}

#[test]
fn a_file_of_the_store_s_that_comes_later_is_taken() {
    let world = World::sqlite();
    let (ca, port) = (world.dir.path().join("ca.pem"), free_port());
    let url = format!("etcds://127.0.0.1:1/x?ca={}", ca.display());
    let mut command = Command::new(lbctl());
    command.args(&daemons(world.dir.path())[1]).args(["--store", &url]);
    command.args(["--admin", &format!("127.0.0.1:{port}")]);
    let daemon = Process::start("discover", world.dir.path(), &mut command);
    let says = |why: &str| {
        eventually(&format!("/readyz to say {why}; {}", daemon.tail()), || {
            http_get(port, "/readyz")?.contains(why).then_some(())
        });
    };
    says("opening the store: ");
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&ca, made.cert.pem()).unwrap();
    says("web: store: ");
}

/// As a process that was killed in the middle of a write leaves it.
#[test]
fn a_half_written_state_file_is_gone_after_the_next_start() {
    let world = World::sqlite();
    let half = world.dir.path().join(".server-state.lbctl-aB3xY9");
    std::fs::write(&half, "1\n# be_id be_na").unwrap();
    let state = world.dir.path().join("server-state");
    let words = &daemons(world.dir.path())[2];
    let mut command = daemon(&world, words, free_port());
    command.arg("--dump-state").arg(&state);
    let mut sync = Process::start("sync", world.dir.path(), &mut command);
    sync.wait_for_log("removed a half-written state file");
    assert!(!half.exists() && world.dir.path().join("list.yaml").exists());
}

#[test]
fn the_wrapped_program_is_given_none_of_lbctl_s_settings() {
    let world = World::sqlite();
    let args = ["register", "web", "10.0.0.1:80", "--", "env"];
    let mut command = world.command(&args);
    command.env("LBCTL_STORE_PASSWORD", "hunter2").env("LBCTL_ANYTHING", "x").env("MINE", "y");
    // A password for SQLite is a mistake.
    command.env_remove("LBCTL_STORE_PASSWORD").env("LBCTL_REGISTER_ID", "hunter2");
    let output = command.output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(shown.contains("MINE=y") && !shown.contains("LBCTL_"), "{shown}");
}

#[test]
fn as_process_one_it_ends_orphans() {
    let Some(unshare) = program("unshare") else { return };
    let world = World::sqlite();
    let words = &daemons(world.dir.path())[0];
    let namespace = ["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"];
    let is_allowed = Command::new(&unshare).args(namespace).arg("true").status().unwrap().success();
    if !is_allowed {
        eprintln!("skipped: this host does not let tests have a PID namespace");
        return;
    }
    // They end when the shell has become lbctl: a shell would wait for them.
    let orphan = "(sleep 1 & sleep 2 & :); exec \"$0\" \"$@\"";
    let wrapped = ["register", "web", "10.0.0.1:80", "--", "sh", "-c"];
    let inside = "(sleep 0.3 &); sleep 0.1; until [ -e gone ]; do sleep 0.1; done";
    let register: Vec<String> =
        wrapped.iter().chain(&[inside]).map(|word| (*word).to_owned()).collect();
    for words in [words, &register] {
        let mut command = Command::new(&unshare);
        command.args(namespace).args(["sh", "-c", orphan]).arg(lbctl());
        command.args(["--store", &world.url]).args(words).current_dir(world.dir.path());
        if words[0] == "serve" {
            command.args(["--admin", "off"]);
        }
        let process = Process::start("one", world.dir.path(), &mut command);
        let one = eventually("the first process of the namespace", || child_of(process.id()));
        eventually(&format!("an orphan; {}", process.tail()), || {
            children_of(one).iter().any(|(_, state)| state == "Z").then_some(())
        });
        eventually(&format!("no orphan to be left; {}", process.tail()), || {
            children_of(one).iter().all(|(_, state)| state != "Z").then_some(())
        });
        _ = Command::new("kill").args(["-KILL", &one.to_string()]).status().unwrap();
    }
}

fn child_of(parent: u32) -> Option<u32> {
    children_of(parent).first().map(|(pid, _)| *pid)
}

/// The children of a process, with their states (proc(5)).
fn children_of(parent: u32) -> Vec<(u32, String)> {
    let pids = std::fs::read_dir("/proc").unwrap();
    let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let child = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit(')').next()?.split_whitespace();
        let state = fields.next()?.to_owned();
        (fields.next()? == parent.to_string()).then_some((pid, state))
    };
    pids.filter_map(child).collect()
}

/// `timeout` sends SIGTERM to its child and to the group that both are in.
#[test]
fn the_echo_of_a_signal_is_no_second_one() {
    let (world, port) = (World::sqlite(), free_port());
    let words = &daemons(world.dir.path())[0];
    let mut serve = Process::start("serve", world.dir.path(), &mut daemon(&world, words, port));
    wait_until_alive(port);
    // The log is written beside the work: it may say this after the admin port answers.
    serve.wait_for_log("QUIT listening=");
    let log = serve.log();
    let (_, rest) = log.split_once("QUIT listening=").unwrap();
    let address = rest.split_whitespace().next().unwrap().to_owned();
    let mut client = TcpStream::connect(&address).unwrap();
    client.write_all(b"WHY\n").unwrap();
    client.read_exact(&mut [0; 3]).unwrap();
    serve.signal("TERM");
    serve.wait_for_log("a second signal ends at once");
    serve.signal("TERM");
    drop(client);
    assert_eq!(serve.wait().code(), Some(0));
}
