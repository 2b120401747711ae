//! A socket between sync-haproxy and HAProxy: it stops at a given command, and sees to it that what
//! sync-haproxy sends is in a safe order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use lbctl::daemon::{OwnedTask, spawn_owned};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Forwards from a socket of its own to HAProxy's.
#[derive(Debug)]
pub struct Tap {
    path: PathBuf,
    state: Arc<Mutex<State>>,
    _task: OwnedTask<()>,
}

/// A point in a conversation that was stopped for; dropping it cuts the connection.
#[derive(Debug)]
pub struct Held {
    go_on: oneshot::Sender<()>,
}

impl Held {
    /// Forwards what was held.
    pub fn go_on(self) {
        // A client that gave up has nobody to go on with.
        _ = self.go_on.send(()).is_ok();
    }
}

#[derive(Debug, Default)]
struct State {
    armed: Option<Armed>,
    /// When each pass that has ended began.
    passes: Vec<Instant>,
    /// Commands that were sent in an order that harms.
    harm: Vec<String>,
}

#[derive(Debug)]
struct Armed {
    /// How many commands still pass.
    commands: usize,
    /// Stop between two commands of a line, which then never comes to its end.
    splits: bool,
    point: mpsc::UnboundedSender<Held>,
}

impl Tap {
    pub fn start(dir: &Path, haproxy: PathBuf) -> Self {
        let path = dir.join("tap.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let state = Arc::<Mutex<State>>::default();
        let task = spawn_owned(run(listener, haproxy, state.clone()));
        Self { path, state, _task: task }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stops once after so many commands, whatever connections they come on.
    pub fn stop_after(&self, commands: usize, splits: bool) -> mpsc::UnboundedReceiver<Held> {
        let (point, stopped) = mpsc::unbounded_channel();
        self.state.lock().unwrap().armed = Some(Armed { commands, splits, point });
        stopped
    }

    /// How many passes began after `since` and have ended.
    pub fn passes_since(&self, since: Instant) -> usize {
        self.state.lock().unwrap().passes.iter().filter(|began| **began > since).count()
    }

    pub fn harm(&self) -> Vec<String> {
        self.state.lock().unwrap().harm.clone()
    }
}

async fn run(listener: UnixListener, haproxy: PathBuf, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        while connections.try_join_next().is_some() {}
        let (haproxy, state) = (haproxy.clone(), state.clone());
        connections.spawn(async move {
            let began = Instant::now();
            let Ok(server) = UnixStream::connect(haproxy).await else { return };
            let conversation = Arc::<Mutex<Conversation>>::default();
            let (client_in, client_out) = client.into_split();
            let (server_in, server_out) = server.into_split();
            tokio::select! {
                () = commands(client_in, server_out, &state, &conversation) => {}
                () = replies(server_in, client_out, &conversation) => {}
            }
            let conversation = conversation.lock().unwrap();
            let mut state = state.lock().unwrap();
            state.harm.extend(conversation.harm.iter().cloned());
            if conversation.is_pass {
                state.passes.push(began);
            }
        });
    }
}

async fn commands(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: &Mutex<State>,
    conversation: &Mutex<Conversation>,
) {
    let mut heard: Vec<u8> = Vec::new();
    loop {
        while let Some(end) = heard.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = heard.drain(..=end).collect();
            let line = String::from_utf8(line).unwrap();
            let commands: Vec<&str> = line.trim_end().split(';').collect();
            let point = take_point(state, commands.len());
            let Some((before, Armed { splits, point, .. })) = point else {
                conversation.lock().unwrap().sent(&commands);
                if to.write_all(line.as_bytes()).await.is_err() {
                    return;
                }
                continue;
            };
            let first = if splits { commands[..before].join(";") } else { String::new() };
            if !first.is_empty() {
                conversation.lock().unwrap().sent(&commands[..before]);
                let part = format!("{first}\n");
                _ = to.write_all(part.as_bytes()).await.is_ok();
            }
            let (go_on, told) = oneshot::channel();
            // A test that waits no longer has its point passed over.
            _ = point.send(Held { go_on }).is_ok();
            if told.await.is_err() {
                return;
            }
            assert!(first.is_empty(), "a line that was split cannot go on");
            conversation.lock().unwrap().sent(&commands);
            if to.write_all(line.as_bytes()).await.is_err() {
                return;
            }
        }
        if !matches!(from.read_buf(&mut heard).await, Ok(1..)) {
            return;
        }
    }
}

/// The armed point and how many of the next commands come before it, where it is among them.
fn take_point(state: &Mutex<State>, commands: usize) -> Option<(usize, Armed)> {
    let mut state = state.lock().unwrap();
    let armed = state.armed.as_mut()?;
    if armed.commands >= commands {
        armed.commands -= commands;
        return None;
    }
    let before = armed.commands;
    state.armed.take().map(|armed| (before, armed))
}

async fn replies(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    conversation: &Mutex<Conversation>,
) {
    let mut heard: Vec<u8> = Vec::new();
    loop {
        let mut chunk = Vec::with_capacity(16 * 1024);
        if !matches!(from.read_buf(&mut chunk).await, Ok(1..)) {
            return;
        }
        heard.extend_from_slice(&chunk);
        while let Some(end) = heard.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = heard.drain(..=end).collect();
            conversation.lock().unwrap().heard(String::from_utf8_lossy(&line).trim_end());
        }
        if to.write_all(&chunk).await.is_err() {
            return;
        }
    }
}

/// One connection: what sync-haproxy knows of each server by what it was told on it.
#[derive(Debug, Default)]
struct Conversation {
    is_pass: bool,
    servers: BTreeMap<String, Known>,
    harm: Vec<String>,
}

#[derive(Debug)]
struct Known {
    in_maint: bool,
    /// The address that was set and has not been shown since.
    unseen: Option<String>,
}

impl Conversation {
    fn heard(&mut self, line: &str) {
        let fields: Vec<&str> = line.split(' ').collect();
        if fields.len() < 19 || fields[1] != "app" {
            return;
        }
        let mask: u32 = fields[6].parse().unwrap();
        let shown = format!("{}:{}", fields[4], fields[18]);
        let before = self.servers.remove(fields[3]);
        let unseen = before.and_then(|known| known.unseen).filter(|address| *address != shown);
        self.servers.insert(fields[3].to_owned(), Known { in_maint: mask & 0x23 != 0, unseen });
    }

    fn sent(&mut self, commands: &[&str]) {
        for command in commands {
            self.is_pass |= command.contains("show servers state");
            let words: Vec<&str> = command.split(' ').collect();
            let (["set", "server", server, what, value]
            | ["set", "server", server, what, value, ..]) = words[..]
            else {
                continue;
            };
            let Some(known) = self.servers.get_mut(server.trim_start_matches("app/")) else {
                continue;
            };
            match (what, value) {
                ("addr", value) if !known.in_maint => {
                    self.harm
                        .push(format!("{command} ({value}) under a server that is not in maint"));
                }
                ("addr", value) => known.unseen = Some(format!("{value}:{}", words[6])),
                ("state", "maint") => known.in_maint = true,
                ("state", _) => {
                    if let Some(address) = &known.unseen {
                        self.harm.push(format!("{command} before the address {address} showed"));
                    }
                    known.in_maint = false;
                }
                _ => {}
            }
        }
    }
}
