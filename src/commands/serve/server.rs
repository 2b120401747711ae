//! The listening socket, and what all connections share.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::clients::{Clients, Listing};
use super::cluster::Others;
use super::connection::{self, PROBE_TIME};
use super::protocol::Command;
use super::settings::Limits;
use crate::daemon::{Backoff, Health};
use crate::metrics::{Counter, Counters, Gauges};
use crate::model::EndpointId;

/// Connections that the kernel may hold ready; it cuts this down to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// How many refused clients are told why at the same time; beyond that they are just closed.
const REFUSALS: usize = 64;

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    pub id: EndpointId,
    pub clients: Clients,
    pub others: watch::Receiver<Others>,
    /// A SIGHUP may change them.
    pub limits: watch::Receiver<Limits>,
    pub proxy_protocol: bool,
    pub metrics: Metrics,
    /// Gone once the server no longer accepts.
    pub listener: Weak<TcpListener>,
    /// The last look at all clients, and when it began.
    pub looked: Mutex<Option<(Instant, Listing)>>,
}

impl Shared {
    /// The reply to `WHO`: this server's two lines, then the cluster's.
    pub async fn who(&self) -> (Bytes, String) {
        let listing = self.look().await;
        let all = self.others.borrow().line(listing.count);
        (listing.lines, all)
    }
}

impl Shared {
    /// Looks at all clients, which is work for each of them: those who have asked before a look began
    /// share it, however many they are.
    async fn look(&self) -> Listing {
        let asked = Instant::now();
        let mut looked = self.looked.lock().await;
        if let Some((began, listing)) = &*looked
            && *began > asked
        {
            return listing.clone();
        }
        let began = Instant::now();
        self.accepted().await;
        self.clients.settled(PROBE_TIME * 2).await;
        let listing = self.clients.listing();
        *looked = Some((began, listing.clone()));
        listing
    }
}

/// How often `WHO` looks, a millisecond apart, for connections that are still to be accepted: half
/// a second is enough for ten thousand at once.
const ACCEPT_LOOKS: u32 = 500;

impl Shared {
    /// Waits until the kernel has no connection ready that was not accepted, for a while: without
    /// file descriptors left, that would be for ever.
    async fn accepted(&self) {
        for _ in 0..ACCEPT_LOOKS {
            match self.listener.upgrade() {
                Some(listener) if is_readable(&listener) => {}
                _ => return,
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn is_readable(listener: &TcpListener) -> bool {
    let mut polled = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

static CLIENTS: Gauges<0> =
    Gauges::new("lbctl_serve_clients", "Clients connected to this server", []);
static CLUSTER_CLIENTS: Gauges<0> = Gauges::new(
    "lbctl_serve_cluster_clients",
    "Clients connected to all servers, as last known",
    [],
);
static COMMANDS: Counters<1> =
    Counters::new("lbctl_serve_commands", "Commands answered, by command", ["command"]);
static CONNECTIONS: Counters<0> =
    Counters::new("lbctl_serve_connections", "Connections accepted, health probes among them", []);
static REFUSED: Counters<1> =
    Counters::new("lbctl_serve_refused", "Connections refused, by reason", ["reason"]);

/// Handles of the counters, looked up once.
#[derive(Debug)]
pub struct Metrics {
    commands: [Counter; Command::ALL.len()],
    accepted: Counter,
    refused_full: Counter,
    pub refused_header: Counter,
}

impl Metrics {
    pub fn new() -> Self {
        Self {
            commands: Command::ALL.map(|command| COMMANDS.with([command.as_str()])),
            accepted: CONNECTIONS.get(),
            refused_full: REFUSED.with(["max_clients"]),
            refused_header: REFUSED.with(["proxy_header"]),
        }
    }

    pub fn count(&self, command: Command) {
        if let Some(at) = Command::ALL.iter().position(|c| *c == command) {
            self.commands[at].inc();
        }
    }
}

/// How many clients there are: here, and everywhere if that is known.
pub fn set_gauges(own: usize, all: Option<u64>) {
    CLIENTS.get().set(own as f64);
    if let Some(all) = all {
        CLUSTER_CLIENTS.get().set(all as f64);
    }
}

/// Listens on the first address that a host name has. Port 0 takes a free one.
pub async fn listen(host: &str, port: u16, keepalive: Duration) -> anyhow::Result<TcpListener> {
    use anyhow::Context as _;
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let wanted = || format!("cannot listen on host {host}, port {port}");
    let address = lookup_host((name, port)).await.with_context(wanted)?.next();
    let address = address.with_context(|| format!("host {host} has no address"))?;
    let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
    // A port in TIME_WAIT from this server's last run is free.
    socket.set_reuseaddr(true)?;
    notice_dead_peers(&socket, keepalive).with_context(wanted)?;
    socket.bind(address).with_context(wanted)?;
    socket.listen(BACKLOG).with_context(wanted)
}

/// A host that dies or is cut off says nothing: its clients count until the kernel has asked for
/// them in vain. Accepted connections inherit this from the listening socket (tcp(7)).
fn notice_dead_peers(socket: &TcpSocket, within: Duration) -> std::io::Result<()> {
    let interval = probe_interval(within);
    socket.set_keepalive(true)?;
    sockopt::set_tcp_keepidle(socket, within - interval * PROBES)?;
    sockopt::set_tcp_keepintvl(socket, interval)?;
    sockopt::set_tcp_keepcnt(socket, PROBES)?;
    // While a reply is not acknowledged, the kernel asks nothing and sends it again: for a quarter
    // of an hour without this.
    let millis = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(socket, millis)?;
    Ok(())
}

/// How often a silent peer is asked for before it is given up.
const PROBES: u32 = 3;

/// Half of the time goes to the probes. The kernel counts in whole seconds.
fn probe_interval(within: Duration) -> Duration {
    Duration::from_secs((within.as_secs() / u64::from(2 * PROBES)).max(1))
}

/// The connections, and how they are ended.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    connections: TaskTracker,
    refusals: Arc<Semaphore>,
    closing: CancellationToken,
}

impl Server {
    pub fn new(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
            connections: TaskTracker::new(),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            closing: CancellationToken::new(),
        }
    }

    /// Accepts until `stop` is cancelled, then closes the listening socket.
    pub async fn accept(&self, listener: Arc<TcpListener>, stop: &CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
        let mut health = Health::new("accepting connections");
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    health.succeeded();
                    self.admit(stream, peer);
                }
                // The client went away while it waited; the next one is fine.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                // Out of file descriptors or memory: the connection stays in the queue.
                Err(error) => {
                    health.failed(&error);
                    backoff.wait().await;
                }
            }
        }
    }

    /// Lets the clients finish, then closes those that are left.
    pub async fn finish(&self, grace: Duration) {
        self.connections.close();
        let left = self.connections.len();
        if left > 0 {
            tracing::info!(connections = left, "letting the connected clients finish");
        }
        if tokio::time::timeout(grace, self.connections.wait()).await.is_err() {
            let left = self.connections.len();
            tracing::info!(connections = left, "closing the clients that are left");
            self.closing.cancel();
            self.connections.wait().await;
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        self.shared.metrics.accepted.inc();
        let max_clients = self.shared.limits.borrow().max_clients;
        let Some(seat) = self.shared.clients.admit(max_clients) else {
            return self.refuse(stream, max_clients);
        };
        let (shared, closing) = (self.shared.clone(), self.closing.clone());
        self.connections.spawn(async move {
            let served = tokio::select! {
                () = closing.cancelled() => return,
                served = connection::serve(shared, stream, peer, seat) => served,
            };
            if let Err(error) = served {
                tracing::debug!(%peer, %error, "a connection broke");
            }
        });
    }

    fn refuse(&self, stream: TcpStream, max: usize) {
        self.shared.metrics.refused_full.inc();
        tracing::debug!(max, "a client was refused: the server is full");
        if let Ok(permit) = self.refusals.clone().try_acquire_owned() {
            let sentence = format!("too many clients: at most {max}, try again later\n");
            self.connections.spawn(async move {
                connection::refuse(stream, &sentence).await;
                drop(permit);
            });
        }
    }
}
