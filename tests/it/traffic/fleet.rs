//! A HAProxy with everything that feeds it, and clients.

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lbctl::model::{SlotRecord, SlotState, Timestamp, keys};
use lbctl::store::{self, SharedStore};
use tempfile::TempDir;
use tokio::task::block_in_place;

use super::client::{Clients, Kind, Tally};
use crate::support::haproxy::{Backend, Haproxy, Options, Version};
use crate::support::{Process, eventually_async, lbctl};

/// More than are ever held, drain and rest at once.
const SLOTS: u32 = 24;

const CHECK: &str = "check inter 200ms rise 2 fall 2";

/// A busy machine fails no check: nothing here hangs, and a refused connection is seen at once.
const PATIENT: &str = "timeout check 5s";

/// The table of servers that register themselves, and the one that is read from a file.
pub const REGISTERED: &str = "registered";
pub const LISTED: &str = "listed";

/// How a fleet is set up.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub version: Version,
    /// Talk to HAProxy through its master.
    pub through_master: bool,
    /// New workers take the listening sockets over from the old ones.
    pub seamless: bool,
}

/// Three backends: `plain` (TCP) and `dynamic` (HTTP, servers are added and deleted) of servers that
/// register themselves, `http` of those in a file. Two copies of discover, one sync-haproxy.
pub struct Fleet {
    pub dir: TempDir,
    pub url: String,
    pub store: SharedStore,
    pub haproxy: Haproxy,
    discovers: [Mutex<Process>; 2],
    sync: Process,
    clients: [Clients; 3],
    dynamic: Clients,
    /// Servers that end leave what an old worker may know of them behind.
    reloads: AtomicBool,
}

impl Fleet {
    /// On the store at `url`, or a database file of its own.
    pub async fn start(setup: Setup, url: Option<String>) -> Option<Self> {
        let backends = [
            Backend::new("plain", SLOTS).server(CHECK).line(PATIENT).loaded(),
            Backend::new("http", SLOTS).http().server(CHECK).line(PATIENT).loaded(),
            Backend::new("dynamic", 0).http().line(PATIENT),
        ];
        let mut options = Options::new(backends).master().on(setup.version);
        if setup.seamless {
            options = options
                .global("stats socket unix@seamless.sock level operator expose-fd listeners");
        }
        let haproxy = block_in_place(|| Haproxy::start(options))?;
        let dir = TempDir::with_prefix("lbctl-traffic-").unwrap();
        let url =
            url.unwrap_or_else(|| format!("sqlite:{}", dir.path().join("lbctl.db").display()));
        let store = store::open(&url.parse().unwrap()).await.unwrap();
        let file = dir.path().join("listed.json");
        std::fs::write(&file, "[]").unwrap();
        std::fs::write(dir.path().join(CONFIG), configuration(&file, &haproxy, setup)).unwrap();
        let discovers = [0, 1].map(|copy| Mutex::new(start_discover(dir.path(), &url, copy)));
        let sync = start(dir.path(), &url, "sync-haproxy", 0);
        let clients =
            [(Kind::Fresh, "http", 60), (Kind::Kept, "http", 80), (Kind::Session, "plain", 4)]
                .map(|(kind, backend, rate)| Clients::new(kind, haproxy.frontend(backend), rate));
        let dynamic = Clients::new(Kind::Kept, haproxy.frontend("dynamic"), 20);
        let fleet = Self {
            dir,
            url,
            store,
            haproxy,
            discovers,
            sync,
            clients,
            dynamic,
            reloads: AtomicBool::new(false),
        };
        Some(fleet)
    }

    pub fn go_on(&self) {
        self.clients.iter().chain([&self.dynamic]).for_each(Clients::go_on);
    }

    /// What clients saw since the last time.
    pub fn take(&self) -> Tally {
        let mut tally = Tally::default();
        for clients in self.clients.iter().chain([&self.dynamic]) {
            tally.add(clients.take());
        }
        tally
    }

    /// The servers that a table holds in other states than rest.
    pub async fn held(&self, table: &str) -> store::Result<Vec<SlotRecord>> {
        let listing = self.store.list(&keys::slots(&table.parse().unwrap())).await?;
        let records = listing.entries.iter().map(|e| serde_json::from_slice(&e.value).unwrap());
        Ok(records.filter(|record: &SlotRecord| record.state != SlotState::Rest).collect())
    }

    /// Waits until so many servers of a backend take traffic.
    pub async fn wait_for_serving(&self, backend: &str, count: usize) {
        let what = format!("{count} servers of {backend} to serve\n{}", self.say());
        eventually_async(&what, async || {
            let servers = block_in_place(|| self.haproxy.servers(backend));
            let serving = servers.iter().filter(|s| s.state() == "ready" && s.is_up()).count();
            (serving >= count).then_some(())
        })
        .await;
    }

    /// Reloads HAProxy. Servers of `dynamic` cannot be in a state file, so that none of its clients
    /// come meanwhile.
    pub async fn reload(&self) {
        self.reloads.store(true, Ordering::SeqCst);
        self.dynamic.pause().await;
        block_in_place(|| self.haproxy.reload());
    }

    pub async fn go_on_after_reloads(&self) {
        self.wait_for_serving("dynamic", 3).await;
        self.dynamic.go_on();
    }

    /// Whether an old worker may still have sessions.
    pub fn is_reloading(&self) -> bool {
        self.reloads.load(Ordering::SeqCst)
    }

    pub fn reloads_are_over(&self) {
        self.reloads.store(false, Ordering::SeqCst);
    }

    /// `kill -9` of one copy of discover, and another one in its place a while later.
    pub async fn replace_discover(&self, copy: usize, after: Duration) {
        self.discovers[copy].lock().unwrap().kill();
        tokio::time::sleep(after).await;
        let name = format!("discover-{copy}");
        let started = |log: &str| log.matches("following").count() + log.matches("leading").count();
        let log = || std::fs::read_to_string(self.dir.path().join(format!("{name}.log"))).unwrap();
        let before = started(&log());
        *self.discovers[copy].lock().unwrap() = start_discover(self.dir.path(), &self.url, copy);
        eventually_async(&format!("{name} to take part again"), async || {
            (started(&log()) > before).then_some(())
        })
        .await;
    }

    pub fn say(&self) -> String {
        let [a, b] = self.discovers.each_ref().map(|d| d.lock().unwrap().tail());
        format!("{a}\n{b}\n{}\n{}", self.sync.tail(), self.haproxy.tail())
    }

    /// What happened around a moment, and what HAProxy says of requests that failed.
    pub fn say_around(&self, moment: Timestamp) -> String {
        let before = moment - Duration::from_secs(1);
        let seconds = [before, moment].map(|moment| moment.to_string()[..SECOND].to_owned());
        let [a, b] = self.discovers.each_ref().map(|d| d.lock().unwrap().log());
        let mut said = String::new();
        for (name, log) in [("discover-0", a), ("discover-1", b), ("sync-haproxy", self.sync.log())]
        {
            said.push_str(&format!("--- {name} said around {moment}:\n"));
            let near = |line: &&str| seconds.iter().any(|second| line.starts_with(second));
            log.lines().filter(near).for_each(|line| said.push_str(&format!("{line}\n")));
        }
        format!("{said}--- HAProxy said of requests that failed:\n{}", self.haproxy.failures())
    }
}

const CONFIG: &str = "lbctl.toml";

/// How much of a timestamp says the second.
const SECOND: usize = "2026-01-01T00:00:00".len();

fn configuration(file: &Path, haproxy: &Haproxy, setup: Setup) -> String {
    let socket = if setup.through_master { haproxy.master() } else { haproxy.unix() };
    let (file, dump) = (file.display(), haproxy.state_file());
    let dump = dump.display();
    format!(
        r#"
[discover]
ttl = "3s"
admin = "off"
slots = {SLOTS}
min-weight = 1
max-weight = 100
weight-step = 33
weight-interval = "1s"
rest = "1s"
drain-deadline = "2m"
max-drop-percent = 100
drop-window = "1s"
[[discover.backends]]
name = "{REGISTERED}"
source = "registry"
[[discover.backends]]
name = "{LISTED}"
source = "file:{file}"
[sync-haproxy]
admin = "off"
name = "lb1"
socket = "{socket}"
dump-state = "{dump}"
[[sync-haproxy.backends]]
backend = "plain"
from = "{REGISTERED}"
[[sync-haproxy.backends]]
backend = "dynamic"
from = "{REGISTERED}"
mode = "dynamic"
server-options = "{CHECK}"
[[sync-haproxy.backends]]
backend = "http"
from = "{LISTED}"
"#
    )
}

fn start_discover(dir: &Path, url: &str, copy: usize) -> Process {
    start(dir, url, "discover", copy)
}

fn start(dir: &Path, url: &str, daemon: &str, copy: usize) -> Process {
    let mut command = Command::new(lbctl());
    command.args(["--store", url, daemon, "--config"]).arg(dir.join(CONFIG));
    if let Ok(filter) = std::env::var("LBCTL_TEST_LOG") {
        command.env("LBCTL_LOG", filter);
    }
    Process::start(&format!("{daemon}-{copy}"), dir, &mut command)
}
