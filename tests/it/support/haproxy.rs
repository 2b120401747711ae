//! A real HAProxy as a child process, and small servers to put behind it.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lbctl::haproxy::SocketAddress;
use tempfile::TempDir;

use super::{Process, eventually, free_port};

/// The versions that are supported, each with what sets it apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Version {
    #[default]
    V2_6,
    V3_0,
    V3_2,
    V3_4,
}

impl Version {
    pub const ALL: [Self; 4] = [Self::V2_6, Self::V3_0, Self::V3_2, Self::V3_4];

    pub fn name(self) -> &'static str {
        match self {
            Self::V2_6 => "2.6",
            Self::V3_0 => "3.0",
            Self::V3_2 => "3.2",
            Self::V3_4 => "3.4",
        }
    }

    /// The program that `deploy/haproxy-versions.sh` has made ready, or the one that
    /// `LBCTL_TEST_HAPROXY_3_2` and the like name.
    pub fn program(self) -> Option<PathBuf> {
        let cached = cache().join("haproxy").join(self.name()).join("haproxy");
        super::program_at(&format!("haproxy-{}", self.name()), [cached])
    }
}

/// Where the set-up of the tests keeps what it fetches.
fn cache() -> PathBuf {
    let named = std::env::var_os("LBCTL_TEST_CACHE").map(PathBuf::from);
    let user = || std::env::var_os("XDG_CACHE_HOME").map(|dir| Path::new(&dir).join("lbctl"));
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/lbctl");
    named.or_else(user).unwrap_or_else(home)
}

/// Makes a test of each function, once for every version: `v3_2::name`.
macro_rules! on_every_haproxy {
    ($($name:ident),* $(,)?) => {
        $crate::support::haproxy::on_every_haproxy!(v2_6 V2_6 v3_0 V3_0 v3_2 V3_2 v3_4 V3_4; [$($name)*]);
    };
    ($($module:ident $version:ident)*; $names:tt) => {
        $($crate::support::haproxy::on_every_haproxy!(@one $module $version $names);)*
    };
    (@one $module:ident $version:ident [$($name:ident)*]) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    super::$name($crate::support::haproxy::Version::$version).await;
                }
            )*
        }
    };
}

pub(crate) use on_every_haproxy;

/// What to start.
#[derive(Debug, Clone)]
pub struct Options {
    pub version: Version,
    /// Master-worker mode with a master CLI.
    pub master: bool,
    /// The level of the stats sockets: `admin`, `operator` or `user`.
    pub level: &'static str,
    /// Further lines of the `global` section.
    pub global: String,
    pub backends: Vec<Backend>,
}

impl Options {
    /// One process and an admin socket.
    pub fn new(backends: impl IntoIterator<Item = Backend>) -> Self {
        let backends = backends.into_iter().collect();
        let (version, global) = (Version::default(), String::new());
        Self { version, master: false, level: "admin", global, backends }
    }

    pub fn on(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    pub fn master(mut self) -> Self {
        self.master = true;
        self
    }

    pub fn level(mut self, level: &'static str) -> Self {
        self.level = level;
        self
    }

    pub fn global(mut self, line: &str) -> Self {
        self.global.push_str(&format!("  {line}\n"));
        self
    }
}

/// One backend with a frontend of its own.
#[derive(Debug, Clone)]
pub struct Backend {
    pub name: String,
    /// Places of its `server-template`; 0 for a backend that is filled by `add server`.
    pub slots: u32,
    /// Servers are named with this and a number.
    pub prefix: String,
    pub mode: &'static str,
    pub balance: &'static str,
    /// Words behind each server: `check inter 100ms`.
    pub server: String,
    /// Each place has a name that HAProxy loads an address for.
    pub loaded: bool,
    pub lines: String,
}

impl Backend {
    /// A TCP backend of `slots` disabled places `s1…`, without checks.
    pub fn new(name: &str, slots: u32) -> Self {
        Self {
            name: name.to_owned(),
            slots,
            prefix: "s".to_owned(),
            mode: "tcp",
            balance: "roundrobin",
            server: String::new(),
            loaded: false,
            lines: String::new(),
        }
    }

    pub fn checked(mut self) -> Self {
        self.server = "check inter 100ms rise 2 fall 2".to_owned();
        self
    }

    /// The places are loaded from the state file at every start.
    pub fn loaded(mut self) -> Self {
        self.loaded = true;
        self.line("load-server-state-from-file global")
    }

    pub fn http(mut self) -> Self {
        self.mode = "http";
        self
    }

    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = prefix.to_owned();
        self
    }

    pub fn server(mut self, words: &str) -> Self {
        self.server = words.to_owned();
        self
    }

    pub fn balance(mut self, algorithm: &'static str) -> Self {
        self.balance = algorithm;
        self
    }

    pub fn line(mut self, line: &str) -> Self {
        self.lines.push_str(&format!("  {line}\n"));
        self
    }
}

/// A running HAProxy, ended on drop.
#[derive(Debug)]
pub struct Haproxy {
    process: Process,
    program: PathBuf,
    dir: TempDir,
    options: Options,
    ports: Vec<u16>,
    stats_port: u16,
}

impl Haproxy {
    /// Starts it and waits until it answers; `None` where it is not there.
    pub fn start(options: Options) -> Option<Self> {
        let program = options.version.program()?;
        let dir = tempfile::Builder::new().prefix("lbctl-haproxy").tempdir().unwrap();
        let ports: Vec<u16> = options.backends.iter().map(|_| free_port()).collect();
        let stats_port = free_port();
        std::fs::write(
            dir.path().join(CONFIG),
            configuration(dir.path(), &options, &ports, stats_port),
        )
        .unwrap();
        let process = spawn(&program, dir.path(), options.master);
        let haproxy = Self { process, program, dir, options, ports, stats_port };
        haproxy.wait_for_answers();
        Some(haproxy)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its last log lines.
    pub fn tail(&self) -> String {
        self.process.tail()
    }

    /// What it logged of requests and sessions that did not go well, with how they ended.
    pub fn failures(&self) -> String {
        let log = self.process.log();
        log.lines().filter(|line| line.contains(" front-")).collect::<Vec<_>>().join("\n")
    }

    /// Where the frontend of a backend listens.
    pub fn frontend(&self, backend: &str) -> SocketAddr {
        let index = self.options.backends.iter().position(|b| b.name == backend).unwrap();
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[index]))
    }

    pub fn socket_path(&self) -> PathBuf {
        self.dir().join("stats.sock")
    }

    pub fn unix(&self) -> SocketAddress {
        SocketAddress::Unix(self.socket_path())
    }

    pub fn tcp(&self) -> SocketAddress {
        SocketAddress::Tcp { host: "127.0.0.1".to_owned(), port: self.stats_port }
    }

    pub fn master(&self) -> SocketAddress {
        assert!(self.options.master, "started without the master CLI");
        SocketAddress::Master(Box::new(SocketAddress::Unix(self.dir().join("master.sock"))))
    }

    /// The file that is loaded at start where `load-server-state-from-file` says so.
    pub fn state_file(&self) -> PathBuf {
        self.dir().join("servers.state")
    }

    /// The whole answer to one command line, or `None` where nothing answers.
    pub fn try_raw(&self, line: &str) -> Option<String> {
        ask(&self.socket_path(), line)
    }

    pub fn raw(&self, line: &str) -> String {
        self.try_raw(line)
            .unwrap_or_else(|| panic!("no reply to {line:?}\n{}", self.process.tail()))
    }

    /// The worker's process id, as it says itself.
    pub fn pid(&self) -> u32 {
        self.try_pid().unwrap_or_else(|| panic!("no Pid\n{}", self.process.tail()))
    }

    /// Rows of `show servers state` for a backend, by column name.
    pub fn servers(&self, backend: &str) -> Vec<Server> {
        Server::read_all(&self.raw(&format!("show servers state {backend}")))
    }

    pub fn server(&self, backend: &str, name: &str) -> Server {
        let servers = self.servers(backend);
        let found = servers.iter().find(|s| s.get("srv_name") == name);
        found.unwrap_or_else(|| panic!("no {name} in {servers:?}")).clone()
    }

    /// Loads the configuration anew (master mode) and waits for the new worker.
    pub fn reload(&self) {
        let before = self.pid();
        self.process.signal("USR2");
        eventually(&format!("a new worker\n{}", self.process.tail()), || {
            self.try_pid().filter(|pid| *pid != before)
        });
        self.wait_for_answers();
    }

    /// `kill -9` of every process of it.
    pub fn kill(&mut self) {
        let worker = self.try_pid();
        self.process.kill();
        if let Some(pid) = worker.filter(|_| self.options.master) {
            // The worker may have ended with its master.
            _ = Command::new("kill").args(["-9", &pid.to_string()]).output().unwrap();
            eventually("the worker to end", || {
                (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
            });
        }
    }

    /// Starts it after [`Self::kill`], with everything that was set at run time lost.
    pub fn start_again(&mut self) {
        self.write_configuration();
        self.process = spawn(&self.program, self.dir.path(), self.options.master);
        self.wait_for_answers();
    }

    /// What to change before [`Self::start_again`], or [`Self::write_configuration`] and a reload.
    pub fn options(&mut self) -> &mut Options {
        &mut self.options
    }

    /// Writes the configuration file; a reload reads it.
    pub fn write_configuration(&self) {
        let text = configuration(self.dir(), &self.options, &self.ports, self.stats_port);
        std::fs::write(self.dir().join(CONFIG), text).unwrap();
    }

    fn try_pid(&self) -> Option<u32> {
        let info = self.try_raw("show info")?;
        info.lines().find_map(|line| line.strip_prefix("Pid: "))?.parse().ok()
    }

    /// The worker answers before its master takes signals, so that both are asked.
    fn answers(&self) -> bool {
        let master = || ask(&self.dir().join("master.sock"), "show proc\nquit");
        self.try_pid().is_some() && (!self.options.master || master().is_some())
    }

    fn wait_for_answers(&self) {
        let log = self.dir().join("haproxy.log");
        let started = Instant::now();
        while !self.answers() {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(started.elapsed() < super::DEADLINE, "HAProxy does not answer:\n{}", said());
            std::thread::yield_now();
        }
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        // A master that is killed outright could leave its workers behind for a while.
        if self.options.master && self.process.is_running() {
            self.process.signal("TERM");
            let started = Instant::now();
            while self.process.is_running() && started.elapsed() < Duration::from_secs(5) {
                std::thread::yield_now();
            }
        }
    }
}

fn ask(socket: &Path, line: &str) -> Option<String> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(format!("{line}\n").as_bytes()).ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    (!reply.is_empty()).then_some(reply)
}

const CONFIG: &str = "haproxy.cfg";

fn configuration(dir: &Path, options: &Options, ports: &[u16], stats_port: u16) -> String {
    let Options { level, global, backends, .. } = options;
    let mut text = format!(
        "global\n  stats socket {socket} level {level}\n  \
         stats socket ipv4@127.0.0.1:{stats_port} level {level}\n  \
         log stdout format raw local0\n  server-state-file {state}\n{global}\
         defaults\n  log global\n  option dontlog-normal\n  timeout connect 2s\n  timeout client 60s\n  timeout server 60s\n",
        socket = dir.join("stats.sock").display(),
        state = dir.join("servers.state").display(),
    );
    for (backend, port) in backends.iter().zip(ports) {
        write_backend(&mut text, backend, *port);
    }
    text
}

fn write_backend(text: &mut String, backend: &Backend, port: u16) {
    let Backend { name, slots, prefix, mode, balance, server, loaded, lines } = backend;
    write!(
        text,
        "frontend front-{name}\n  mode {mode}\n  option {mode}log\n  bind 127.0.0.1:{port}\n  default_backend {name}\n\
         backend {name}\n  mode {mode}\n  balance {balance}\n{lines}"
    )
    .unwrap();
    if *slots > 0 {
        let (address, last) = match loaded {
            true => ("unused.invalid", "init-addr last,127.0.0.1"),
            false => ("127.0.0.1", ""),
        };
        writeln!(text, "  server-template {prefix} {slots} {address}:9 {server} {last} disabled")
            .unwrap();
    }
}

fn spawn(program: &Path, dir: &Path, master: bool) -> Process {
    let mut command = Command::new(program);
    command.current_dir(dir).arg("-f").arg(dir.join(CONFIG));
    if master {
        command
            .arg("-W")
            .arg("-S")
            .arg(format!("{},level,admin", dir.join("master.sock").display()));
    } else {
        command.arg("-db");
    }
    Process::start("haproxy", dir, &mut command)
}

/// One row of `show servers state`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server(std::collections::BTreeMap<String, String>);

impl Server {
    /// The rows of a whole reply.
    pub fn read_all(text: &str) -> Vec<Self> {
        let mut lines = text.lines().skip(1);
        let header = lines.next().unwrap_or_else(|| panic!("{text}")).trim_start_matches("# ");
        let columns: Vec<String> = header.split(' ').map(str::to_owned).collect();
        lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                Self(columns.iter().cloned().zip(line.split(' ').map(str::to_owned)).collect())
            })
            .collect()
    }

    pub fn get(&self, column: &str) -> &str {
        self.0.get(column).unwrap_or_else(|| panic!("no column {column} in {:?}", self.0))
    }

    /// `127.0.0.1:80`.
    pub fn address(&self) -> String {
        format!("{}:{}", self.get("srv_addr"), self.get("srv_port"))
    }

    pub fn weight(&self) -> u32 {
        self.get("srv_uweight").parse().unwrap()
    }

    /// `ready`, `drain` or `maint`.
    pub fn state(&self) -> &'static str {
        let mask: u32 = self.get("srv_admin_state").parse().unwrap();
        match mask {
            m if m & 0x23 != 0 => "maint",
            m if m & 0x18 != 0 => "drain",
            _ => "ready",
        }
    }

    /// It takes traffic as far as its checks go.
    pub fn is_up(&self) -> bool {
        self.get("srv_op_state") == "2"
    }
}

/// A server on loopback that says its name: a line for each line over TCP, the body over HTTP.
#[derive(Debug)]
pub struct NamedServer {
    address: SocketAddr,
    state: Arc<ServerState>,
}

#[derive(Debug)]
struct ServerState {
    name: String,
    healthy: AtomicBool,
    /// Requests and lines that were answered, health checks not among them.
    answered: AtomicU64,
    stop: AtomicBool,
}

impl NamedServer {
    /// On a free port of `ip`, which may be any of 127.0.0.0/8.
    pub fn start(name: &str, ip: &str) -> Self {
        Self::start_at(name, &format!("{ip}:0"))
    }

    pub fn start_at(name: &str, address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(ServerState {
            name: name.to_owned(),
            healthy: AtomicBool::new(true),
            answered: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let shared = shared.clone();
                // A client that goes away is not this server's failure.
                std::thread::spawn(move || stream.map(|s| shared.answer(s).is_ok()));
            }
        });
        Self { address, state }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What `GET /health` answers from now on: 200 or 503.
    pub fn set_healthy(&self, healthy: bool) {
        self.state.healthy.store(healthy, Ordering::SeqCst);
    }

    /// Requests and lines that were answered, health checks not among them.
    pub fn answered(&self) -> u64 {
        self.state.answered.load(Ordering::SeqCst)
    }
}

impl Drop for NamedServer {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        _ = TcpStream::connect(self.address).is_ok();
    }
}

impl ServerState {
    fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 {
            if line.starts_with("GET ") || line.starts_with("OPTIONS ") {
                return self.answer_http(&line, &mut reader, stream);
            }
            self.answered.fetch_add(1, Ordering::SeqCst);
            (&stream).write_all(format!("{}\n", self.name).as_bytes())?;
            line.clear();
        }
        Ok(())
    }

    fn answer_http(
        &self,
        request: &str,
        reader: &mut BufReader<TcpStream>,
        mut stream: TcpStream,
    ) -> std::io::Result<()> {
        let mut header = String::new();
        while reader.read_line(&mut header)? > 0 && !header.trim().is_empty() {
            header.clear();
        }
        let health = request.contains(" /health");
        let status =
            if health && !self.healthy.load(Ordering::SeqCst) { "503 No" } else { "200 OK" };
        if !health {
            self.answered.fetch_add(1, Ordering::SeqCst);
        }
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
            self.name.len(),
            self.name
        )
    }
}

/// A client of a [`NamedServer`] that holds its session until it is dropped.
#[derive(Debug)]
pub struct Client(BufReader<TcpStream>);

impl Client {
    pub fn connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The server's name; empty where the connection was closed instead.
    pub fn ask(&mut self) -> std::io::Result<String> {
        self.ask_for("who")
    }

    /// The first line of the answer to a command.
    pub fn ask_for(&mut self, command: &str) -> std::io::Result<String> {
        self.0.get_mut().write_all(format!("{command}\n").as_bytes())?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// One question over a connection of its own; `None` where nothing answers.
    pub fn ask_once(address: SocketAddr) -> Option<String> {
        Self::connect(address).ok()?.ask().ok().filter(|name| !name.is_empty())
    }

    /// The body of `GET /` over a connection of its own; `None` for any status but 200.
    pub fn get(address: SocketAddr) -> Option<String> {
        let mut client = Self::connect(address).ok()?;
        client.0.get_mut().write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut reply = String::new();
        client.0.read_to_string(&mut reply).ok()?;
        let (head, body) = reply.split_once("\r\n\r\n")?;
        head.contains(" 200 ").then(|| body.to_owned())
    }
}
