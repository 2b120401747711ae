use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::Random;

/// Where VXLAN's datagrams go, on either side.
pub(super) const PORT: u16 = 4789;

/// The kernel's timers send the probes of hundreds of connections at once: only what a link is told
/// to lose gets lost. In bytes.
const ROOM: usize = 16 << 20;

/// Behind the VXLAN header stands the frame, which begins with the address of its receiver.
const RECEIVER: std::ops::Range<usize> = 8..14;

/// One direction between two hosts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    pub cut: bool,
    /// How many frames of a hundred get lost.
    pub loss: u8,
    pub delay: Duration,
}

impl Link {
    pub const CUT: Self = Self { cut: true, loss: 0, delay: Duration::ZERO };

    pub fn lossy(loss: u8) -> Self {
        Self { loss, ..Self::default() }
    }

    pub fn slow(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }
}

/// A host's hardware address.
pub(super) fn mac(host: usize) -> String {
    mac_bytes(host).map(|byte| format!("{byte:02x}")).join(":")
}

fn mac_bytes(host: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, super::number(host)]
}

/// Passes frames on between the hosts until it is dropped.
pub(super) struct Relay {
    links: Links,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    /// What gets lost; with the test it says how to have it again.
    _random: Random,
}

/// By sender and receiver.
type Links = Arc<Mutex<Vec<Vec<Link>>>>;

impl Relay {
    /// One socket at each address, in the caller's namespace.
    pub(super) fn start(addresses: impl Iterator<Item = Ipv4Addr>) -> Self {
        let addresses: Vec<Ipv4Addr> = addresses.collect();
        let count = addresses.len();
        let links = Arc::new(Mutex::new(vec![vec![Link::default(); count]; count]));
        let (stop, shared) = (CancellationToken::new(), links.clone());
        let stopped = stop.clone();
        let mut random = Random::new();
        let losses = addresses.iter().map(|_| random.rng.fork()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = relay(addresses, shared, losses) => {}
                    () = stopped.cancelled() => {}
                }
            });
        });
        Self { links, stop, thread: Some(thread), _random: random }
    }

    pub(super) fn set(&self, from: usize, to: usize, link: Link) {
        self.links.lock().unwrap()[from][to] = link;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().is_none_or(|thread| thread.join().is_ok());
        assert!(ended || std::thread::panicking(), "the relay failed");
    }
}

type Frame = (Instant, Vec<u8>);

async fn relay(addresses: Vec<Ipv4Addr>, links: Links, losses: Vec<fastrand::Rng>) {
    let mut sockets = Vec::new();
    for address in addresses {
        let socket = UdpSocket::bind((address, PORT)).await.unwrap();
        sockopt::set_socket_recv_buffer_size_force(&socket, ROOM).unwrap();
        sockets.push(Arc::new(socket));
    }
    let mut tasks = JoinSet::new();
    for ((from, socket), losses) in sockets.iter().enumerate().zip(losses) {
        let queues = (0..sockets.len()).map(|to| {
            let (queue, frames) = unbounded_channel();
            let host = super::side_address(to);
            tasks.spawn(deliver(frames, sockets[to].clone(), host));
            queue
        });
        let queues = queues.collect();
        tasks.spawn(accept(from, socket.clone(), queues, links.clone(), losses));
    }
    if let Some(ended) = tasks.join_next().await {
        panic!("a part of the relay ended: {ended:?}");
    }
}

async fn accept(
    from: usize,
    socket: Arc<UdpSocket>,
    queues: Vec<UnboundedSender<Frame>>,
    links: Links,
    mut losses: fastrand::Rng,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // A host that is going away says so in errors.
        let Ok(len) = socket.recv(&mut buffer).await else { continue };
        let frame = &buffer[..len];
        for (to, queue) in queues.iter().enumerate() {
            let link = links.lock().unwrap()[from][to];
            let passes = !link.cut && losses.u8(..100) >= link.loss;
            if from != to && is_for(frame, to) && passes {
                // The receiver lives as long as this task.
                _ = queue.send((Instant::now() + link.delay, frame.to_vec())).is_ok();
            }
        }
    }
}

/// Whether a frame is for this host: for it alone or for all of them.
fn is_for(frame: &[u8], host: usize) -> bool {
    let receiver = frame.get(RECEIVER).unwrap_or_default();
    receiver == mac_bytes(host) || receiver.first().is_some_and(|first| first & 1 == 1)
}

/// In order, also where the delay has just become shorter.
async fn deliver(mut frames: UnboundedReceiver<Frame>, socket: Arc<UdpSocket>, host: Ipv4Addr) {
    while let Some((due, frame)) = frames.recv().await {
        // The timer would make a millisecond of no delay at all.
        if due > Instant::now() {
            tokio::time::sleep_until(due).await;
        }
        // A lost frame is sent again, as everywhere.
        _ = socket.send_to(&frame, (host, PORT)).await.is_ok();
    }
}
