use std::net::SocketAddr;
use std::sync::Arc;

use lbctl::daemon::{OwnedTask, spawn_owned};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A server on loopback that costs little: it says its name for each line over TCP, and as the body
/// of each HTTP request over connections that stay open. It ends with every connection, as a process
/// does, when it is dropped.
#[derive(Debug)]
pub struct LightServer {
    address: SocketAddr,
    _task: OwnedTask<()>,
}

impl LightServer {
    pub async fn start(name: &str, address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let task = spawn_owned(serve(listener, name.into()));
        Ok(Self { address, _task: task })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn serve(listener: TcpListener, name: Arc<str>) {
    // Dropping the set closes every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(answer(stream, name.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(mut stream: TcpStream, name: Arc<str>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut heard = Vec::with_capacity(1024);
    loop {
        while let Some((length, http)) = request(&heard) {
            let reply = match http {
                true => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len()),
                false => format!("{name}\n"),
            };
            stream.write_all(reply.as_bytes()).await?;
            heard.drain(..length);
        }
        if stream.read_buf(&mut heard).await? == 0 {
            return Ok(());
        }
    }
}

/// How long the first whole request is, and whether it is one of HTTP.
fn request(heard: &[u8]) -> Option<(usize, bool)> {
    if heard.starts_with(b"GET ") {
        let end = heard.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
        return Some((end + 4, true));
    }
    let end = heard.iter().position(|byte| *byte == b'\n')?;
    Some((end + 1, false))
}
