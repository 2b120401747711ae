use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use lbctl::daemon::{OwnedTask, spawn_owned};

use super::{eventually_async, free_port};

/// A way to a server that a test can break: a port on loopback that forwards to another one.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    mode: watch::Sender<Mode>,
    _task: OwnedTask<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    /// Nothing listens, and every connection is closed.
    Cut,
    /// Connections stay, and not a byte passes, as behind a firewall that forgot them.
    Frozen,
}

impl Proxy {
    pub async fn start(target: u16) -> Self {
        let port = free_port();
        let (mode, modes) = watch::channel(Mode::Open);
        let proxy = Self { port, mode, _task: spawn_owned(run(port, target, modes)) };
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
        self.mode.send_replace(Mode::Frozen);
    }

    /// Ends a cut or a freeze.
    pub async fn mend(&self) {
        self.mode.send_replace(Mode::Open);
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

async fn run(port: u16, target: u16, mut modes: watch::Receiver<Mode>) {
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
                    connections.spawn(forward(client, target, modes.clone()));
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

async fn forward(client: TcpStream, target: u16, modes: watch::Receiver<Mode>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    tokio::select! {
        () = pump(client_in, server_out, modes.clone()) => {}
        () = pump(server_in, client_out, modes) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut modes: watch::Receiver<Mode>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(len @ 1..) = from.read(&mut buffer).await else { return };
        if modes.wait_for(|mode| *mode != Mode::Frozen).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}
