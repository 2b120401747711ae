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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// What the server says arrives after this time.
    Open { delay: Duration },
    /// Nothing listens, and every connection is closed.
    Cut,
    /// Connections stay, and not a byte passes, as behind a firewall that forgot them.
    Frozen,
}

const OPEN: Mode = Mode::Open { delay: Duration::ZERO };

/// What clients have sent into a frozen proxy.
type Held = Arc<Mutex<Vec<u8>>>;

impl Proxy {
    pub async fn start(target: u16) -> Self {
        let port = free_port();
        let (mode, modes) = watch::channel(OPEN);
        let held = Held::default();
        let task = spawn_owned(run(port, target, modes, held.clone()));
        let proxy = Self { port, mode, held, _task: task };
        proxy.wait_until_connects(true).await;
        proxy
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub async fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
        self.wait_until_connects(false).await;
    }

    pub fn freeze(&self) {
        self.held.lock().unwrap().clear();
        self.mode.send_replace(Mode::Frozen);
    }

    /// Whether clients have sent this text since the freeze. It arrives when that ends.
    pub fn holds(&self, text: &str) -> bool {
        let held = self.held.lock().unwrap();
        held.windows(text.len()).any(|part| part == text.as_bytes())
    }

    /// Lets every answer arrive this much later, while requests pass at once.
    pub fn delay_answers(&self, delay: Duration) {
        self.mode.send_replace(Mode::Open { delay });
    }

    /// Ends a cut, a freeze or a delay.
    pub async fn mend(&self) {
        self.mode.send_replace(OPEN);
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
        modes.wait_for(|mode| *mode != Mode::Cut).await.unwrap();
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

async fn until_cut(mut modes: watch::Receiver<Mode>) {
    modes.wait_for(|mode| *mode == Mode::Cut).await.unwrap();
}

async fn forward(client: TcpStream, target: u16, modes: watch::Receiver<Mode>, held: Held) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    tokio::select! {
        () = pump(client_in, server_out, modes.clone(), Some(held)) => {}
        () = pump(server_in, client_out, modes, None) => {}
    }
}

/// One direction: requests where `held` notes them, else answers, which may be delayed.
async fn pump(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    modes: watch::Receiver<Mode>,
    held: Option<Held>,
) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let answers = held.is_none();
    tokio::join!(take(from, sender, modes.clone(), held), give(receiver, to, modes, answers));
}

async fn take(
    mut from: OwnedReadHalf,
    sender: mpsc::UnboundedSender<(Instant, Vec<u8>)>,
    modes: watch::Receiver<Mode>,
    held: Option<Held>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        if let (Some(held), Mode::Frozen) = (&held, *modes.borrow()) {
            held.lock().unwrap().extend_from_slice(&buffer[..len]);
        }
        if sender.send((Instant::now(), buffer[..len].to_vec())).is_err() {
            return;
        }
    }
}

async fn give(
    mut receiver: mpsc::UnboundedReceiver<(Instant, Vec<u8>)>,
    mut to: OwnedWriteHalf,
    mut modes: watch::Receiver<Mode>,
    answers: bool,
) {
    while let Some((came, bytes)) = receiver.recv().await {
        let Ok(mode) = modes.wait_for(|mode| *mode != Mode::Frozen).await.map(|mode| *mode) else {
            return;
        };
        if let Mode::Open { delay } = mode
            && answers
        {
            sleep_until(came + delay).await;
        }
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
