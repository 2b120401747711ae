//! Looks at HAProxy's servers all the time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lbctl::daemon::{OwnedTask, spawn_owned};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::support::haproxy::Server;

const PERIOD: Duration = Duration::from_millis(4);

/// Notes each server that takes traffic at an address that its slot never had, and each that is up
/// where nothing listens.
#[derive(Debug)]
pub struct Witness {
    state: Arc<Mutex<State>>,
    _task: OwnedTask<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Every address that a slot's entry ever had.
    may: BTreeMap<String, BTreeSet<String>>,
    dead: BTreeSet<String>,
    saw: BTreeSet<String>,
    looks: u64,
}

impl Witness {
    pub fn start(haproxy: PathBuf, dead: Vec<SocketAddr>) -> Self {
        let dead = dead.iter().map(SocketAddr::to_string).collect();
        let state = Arc::new(Mutex::new(State { dead, ..State::default() }));
        let shared = state.clone();
        let task = spawn_owned(async move {
            loop {
                if let Ok(Some(text)) = timeout(Duration::from_secs(5), look(&haproxy)).await {
                    shared.lock().unwrap().judge(&Server::read_all(&text));
                }
                sleep(PERIOD).await;
            }
        });
        Self { state, _task: task }
    }

    /// From now on a slot's server may have this address.
    pub fn may(&self, slot: u32, address: &str) {
        let mut state = self.state.lock().unwrap();
        state.may.entry(format!("srv{slot}")).or_default().insert(address.to_owned());
    }

    /// What should never have been.
    pub fn saw(&self) -> Vec<String> {
        self.state.lock().unwrap().saw.iter().cloned().collect()
    }

    pub fn looks(&self) -> u64 {
        self.state.lock().unwrap().looks
    }
}

impl State {
    fn judge(&mut self, servers: &[Server]) {
        self.looks += 1;
        for server in servers.iter().filter(|server| server.state() == "ready") {
            let (name, address) = (server.get("srv_name"), server.address());
            if !self.may.get(name).is_some_and(|may| may.contains(&address)) {
                self.saw.insert(format!("{name} was ready at {address}"));
            }
            if server.is_up() && server.weight() > 0 && self.dead.contains(&address) {
                self.saw.insert(format!("{name} was up at {address}, where nothing listens"));
            }
        }
    }
}

async fn look(haproxy: &Path) -> Option<String> {
    let mut stream = UnixStream::connect(haproxy).await.ok()?;
    stream.write_all(b"show servers state app\n").await.ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.ok()?;
    (reply.ends_with("\n\n")).then_some(reply)
}
