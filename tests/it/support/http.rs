//! As much of an HTTP client as the tests need, at little cost.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request: the body of the answer, which must be 200, and whether the connection stays. `header`
/// is whole lines.
pub async fn get(stream: &mut TcpStream, path: &str, header: &str) -> io::Result<(String, bool)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: app\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| stale_if(true, error))?;
    let mut heard = Vec::with_capacity(512);
    loop {
        if let Some(answer) = parse(&heard)? {
            return Ok(answer);
        }
        match stream.read_buf(&mut heard).await {
            Ok(0) => return Err(stale_if(heard.is_empty(), io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error) => return Err(stale_if(heard.is_empty(), error)),
        }
    }
}

/// Closed before the first byte of an answer.
#[derive(Debug)]
struct Stale(io::Error);

impl std::fmt::Display for Stale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "closed before the answer: {}", self.0)
    }
}

impl std::error::Error for Stale {}

fn stale_if(nothing: bool, error: io::Error) -> io::Error {
    if nothing { io::Error::other(Stale(error)) } else { error }
}

/// Whether a request failed because the connection was closed before a byte of the answer came.
pub fn is_stale(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Stale>())
}

fn parse(heard: &[u8]) -> io::Result<Option<(String, bool)>> {
    let text = String::from_utf8_lossy(heard);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(None) };
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(io::Error::other(head.lines().next().unwrap_or_default().to_owned()));
    }
    let head = head.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(usize::MAX);
    let stays = !head.contains("connection: close");
    Ok((body.len() >= length).then(|| (body.to_owned(), stays)))
}
