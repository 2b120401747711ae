use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use lbctl::daemon::{OwnedTask, spawn_owned};

use super::{eventually_async, free_port};

/// A way to a server that a test can break: a port on loopback that forwards to another one.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    mode: watch::Sender<Mode>,
    held: Held,
    _task: OwnedTask<()>,
}

/// What happens to what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Open,
    /// Nothing listens, and every connection is closed.
    Cut,
    /// Connections stay, and not a byte passes, as behind a firewall that forgot them.
    Frozen,
    /// Requests pass, and no answer does.
    Mute,
    /// Everything arrives so much later.
    Slow(Duration),
    /// Every answer arrives so much later, while requests pass at once.
    Late(Duration),
    /// A connection is closed once so many more bytes have passed this way.
    Torn(Way, usize),
}

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Request,
    Answer,
}

impl Mode {
    fn stops(self, way: Way) -> bool {
        self == Self::Frozen || (self == Self::Mute && way == Way::Answer)
    }

    fn delay(self, way: Way) -> Duration {
        match self {
            Self::Slow(time) => time,
            Self::Late(time) if way == Way::Answer => time,
            _ => Duration::ZERO,
        }
    }
}

/// What clients have sent into a frozen proxy.
type Held = Arc<Mutex<Vec<u8>>>;

impl Proxy {
    pub async fn start(target: u16) -> Self {
        let port = free_port();
        let (mode, modes) = watch::channel(Mode::Open);
        let held = Held::default();
        let task = spawn_owned(run(port, target, modes, held.clone()));
        let proxy = Self { port, mode, held, _task: task };
        proxy.wait_until_connects(true).await;
        proxy
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes what happens, also to open connections, without a wait for it.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    pub async fn cut(&self) {
        self.set(Mode::Cut);
        self.wait_until_connects(false).await;
    }

    pub fn freeze(&self) {
        self.held.lock().unwrap().clear();
        self.set(Mode::Frozen);
    }

    /// Whether clients have sent this text since the freeze. It arrives when that ends.
    pub fn holds(&self, text: &str) -> bool {
        let held = self.held.lock().unwrap();
        held.windows(text.len()).any(|part| part == text.as_bytes())
    }

    /// Ends whatever was wrong.
    pub async fn mend(&self) {
        self.set(Mode::Open);
        self.wait_until_connects(true).await;
    }

    async fn wait_until_connects(&self, wanted: bool) {
        eventually_async("the proxy to change its mode", || async {
            let connects = TcpStream::connect(("127.0.0.1", self.port)).await.is_ok();
            (connects == wanted).then_some(())
        })
        .await;
    }
}

async fn run(port: u16, target: u16, mut modes: watch::Receiver<Mode>, held: Held) {
    loop {
        if modes.wait_for(|mode| *mode != Mode::Cut).await.is_err() {
            return;
        }
        let listener = eventually_async("the proxy's port", || async {
            TcpListener::bind(("127.0.0.1", port)).await.ok()
        })
        .await;
        // Dropping the set closes every connection.
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (client, _) = accepted.unwrap();
                    connections.spawn(forward(client, target, modes.clone(), held.clone()));
                }
                _ = connections.join_next(), if !connections.is_empty() => {}
                _ = until_cut(modes.clone()) => break,
            }
        }
    }
}

/// Or until the proxy has gone.
async fn until_cut(mut modes: watch::Receiver<Mode>) {
    _ = modes.wait_for(|mode| *mode == Mode::Cut).await.is_ok();
}

async fn forward(client: TcpStream, target: u16, modes: watch::Receiver<Mode>, held: Held) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    tokio::select! {
        () = pump(Way::Request, client_in, server_out, modes.clone(), held.clone()) => {}
        () = pump(Way::Answer, server_in, client_out, modes, held) => {}
    }
}

/// One direction. What comes while earlier bytes still wait is taken at once, so that a delay does
/// not add up.
async fn pump(
    way: Way,
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    modes: watch::Receiver<Mode>,
    held: Held,
) {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::select! {
        () = async {
            take(way, from, sender, modes.clone(), held).await;
            // What was taken is still given.
            std::future::pending::<()>().await;
        } => {}
        () = give(way, receiver, to, modes.clone()) => {}
    }
}

async fn take(
    way: Way,
    mut from: OwnedReadHalf,
    sender: mpsc::UnboundedSender<(Instant, Vec<u8>)>,
    modes: watch::Receiver<Mode>,
    held: Held,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        if (way, *modes.borrow()) == (Way::Request, Mode::Frozen) {
            held.lock().unwrap().extend_from_slice(&buffer[..len]);
        }
        if sender.send((Instant::now(), buffer[..len].to_vec())).is_err() {
            return;
        }
    }
}

async fn give(
    way: Way,
    mut receiver: mpsc::UnboundedReceiver<(Instant, Vec<u8>)>,
    mut to: OwnedWriteHalf,
    mut modes: watch::Receiver<Mode>,
) {
    // Bytes that passed since the connection was to be torn.
    let mut passed = 0;
    while let Some((came, bytes)) = receiver.recv().await {
        let Ok(mode) = modes.wait_for(|mode| !mode.stops(way)).await.map(|mode| *mode) else {
            return;
        };
        sleep_until(came + mode.delay(way)).await;
        let left = match mode {
            Mode::Torn(torn, limit) if torn == way => limit.saturating_sub(passed),
            _ => usize::MAX,
        };
        let len = bytes.len().min(left);
        if to.write_all(&bytes[..len]).await.is_err() || left <= bytes.len() {
            return;
        }
        if left != usize::MAX {
            passed += len;
        }
    }
}
