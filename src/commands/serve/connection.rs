//! One connection, from its first byte to its last.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::clients::{Line, Seat};
use super::protocol::{Command, Framer};
use super::proxy::{self, Header, Source};
use super::server::Shared;

/// A silent connection is a client once it has stayed this long. A load balancer's probe connects
/// and closes at once, far within it; a person who connects and watches is still counted.
pub(super) const PROBE_TIME: Duration = Duration::from_millis(250);

/// How long a PROXY header may take.
const HEADER_TIME: Duration = Duration::from_secs(5);

/// How long a client may leave a reply unread before it is cut off.
const WRITE_TIME: Duration = Duration::from_secs(20);

/// How long a refused client may take to read why.
const LINGER_TIME: Duration = Duration::from_millis(500);

/// Replies are gathered up to here, then sent.
const BATCH_LEN: usize = 4096;

/// What a read came to.
enum Pulled {
    Nothing,
    End,
    Commands(Vec<Command>),
}

/// Serves a connection to its end.
pub(super) async fn serve(
    shared: Arc<Shared>,
    stream: TcpStream,
    peer: SocketAddr,
    seat: Seat,
) -> Result<()> {
    // Replies are one write each, so waiting to fill a packet gains nothing.
    stream.set_nodelay(true)?;
    let line = Arc::new(Line::new(stream));
    let mut connection =
        Connection { shared, line, peer, seat, framer: Framer::default(), out: Vec::new() };
    if connection.shared.proxy_protocol && Box::pin(connection.header()).await?.is_break() {
        return Ok(());
    }
    connection.commands().await
}

/// Tells a client why it is not served, and gives it the time to read that.
pub(super) async fn refuse(stream: TcpStream, sentence: &str) {
    let told = async {
        write(&stream, sentence.as_bytes()).await?;
        linger(&stream).await
    };
    if let Ok(Err(error)) = timeout(LINGER_TIME, told).await {
        tracing::debug!(%error, "a refused client was gone already");
    }
}

struct Connection {
    shared: Arc<Shared>,
    /// Dropped after the seat, so that who is out of the listing is seen to be gone.
    seat: Seat,
    line: Arc<Line>,
    peer: SocketAddr,
    framer: Framer,
    out: Vec<u8>,
}

impl Connection {
    /// Reads the PROXY header, and answers what commands came with it.
    async fn header(&mut self) -> Result<ControlFlow<()>> {
        let deadline = Instant::now() + HEADER_TIME;
        let mut start = Vec::new();
        loop {
            match proxy::header(&start) {
                Header::Incomplete => {}
                Header::Complete { len, source } => {
                    match source {
                        Source::Client(address) => self.peer = address,
                        Source::Unknown => {}
                        Source::Local => self.seat.excuse(),
                    }
                    if start.len() > len {
                        self.seat.join(self.peer, &self.line);
                    }
                    let commands = self.framed(&start[len..]);
                    return self.answer_all(commands).await;
                }
                Header::Invalid(problem) => return self.no_header(&problem).await,
            }
            let mut chunk = [0; 256];
            let len = match timeout_at(deadline, read(&self.line.stream, &mut chunk)).await {
                Ok(len) => len?,
                Err(_elapsed) => return self.no_header("it did not come in time").await,
            };
            if len == 0 {
                return Ok(ControlFlow::Break(()));
            }
            start.extend_from_slice(&chunk[..len]);
        }
    }

    async fn no_header(&self, problem: &str) -> Result<ControlFlow<()>> {
        self.shared.metrics.refused_header.inc();
        let text = format!("a PROXY protocol header is needed: {problem}\n");
        write(&self.line.stream, text.as_bytes()).await?;
        linger_briefly(&self.line.stream).await;
        Err(Error::new(ErrorKind::InvalidData, text))
    }

    async fn commands(&mut self) -> Result<()> {
        loop {
            if let Some(why) = self.readable().await? {
                return Box::pin(self.close_with(&why)).await;
            }
            // Boxed, so that an idle client does not hold the room that an answer needs.
            match self.pull()? {
                Pulled::Nothing => {}
                Pulled::End => return Box::pin(self.finish()).await,
                Pulled::Commands(commands) => {
                    if Box::pin(self.answer_all(commands)).await?.is_break() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Reads what is there without waiting: the buffer is on the stack, so that an idle client has
    /// none.
    fn pull(&mut self) -> Result<Pulled> {
        let mut chunk = [0; 1024];
        match self.line.stream.try_read(&mut chunk) {
            Ok(0) => Ok(Pulled::End),
            Ok(len) => {
                self.seat.join(self.peer, &self.line);
                Ok(Pulled::Commands(self.framed(&chunk[..len])))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Pulled::Nothing),
            Err(error) => Err(error),
        }
    }

    fn framed(&mut self, bytes: &[u8]) -> Vec<Command> {
        let mut commands = Vec::new();
        self.framer.feed(bytes, |command| commands.push(command));
        commands
    }

    /// Waits for bytes; answers why there will be none.
    async fn readable(&mut self) -> Result<Option<String>> {
        if !self.seat.is_decided() {
            match timeout(PROBE_TIME, self.line.stream.readable()).await {
                Ok(ready) => return ready.map(|()| None),
                Err(_elapsed) => self.seat.join(self.peer, &self.line),
            }
        }
        let waiting_since = Instant::now();
        let mut limits = self.shared.limits.clone();
        loop {
            let idle = limits.borrow_and_update().idle_timeout;
            tokio::select! {
                ready = self.line.stream.readable() => return ready.map(|()| None),
                () = sleep(idle.saturating_sub(waiting_since.elapsed())), if !idle.is_zero() => {
                    let idle = crate::model::format_duration(idle);
                    return Ok(Some(format!("closed: nothing came for {idle}\n")));
                }
                // Those who wait already are held to a new limit too.
                Ok(()) = limits.changed() => {}
            }
        }
    }

    /// Answers commands in order, and breaks after one that ends the connection.
    async fn answer_all(&mut self, commands: Vec<Command>) -> Result<ControlFlow<()>> {
        let last = commands.last().is_some_and(|command| command.ends());
        self.line.set_answering(true);
        for command in commands {
            self.answer(command).await?;
        }
        self.flush().await?;
        self.line.set_answering(false);
        if !last {
            return Ok(ControlFlow::Continue(()));
        }
        linger_briefly(&self.line.stream).await;
        Ok(ControlFlow::Break(()))
    }

    async fn finish(&mut self) -> Result<()> {
        if let Some(command) = self.framer.finish() {
            self.line.set_answering(true);
            self.answer(command).await?;
        }
        self.flush().await
    }

    async fn answer(&mut self, command: Command) -> Result<()> {
        self.shared.metrics.count(command);
        match command {
            Command::Where => {
                self.out.extend_from_slice(self.shared.id.as_str().as_bytes());
                self.out.push(b'\n');
            }
            Command::Who => {
                let (lines, all) = self.shared.who().await;
                self.send(lines).await?;
                self.out.extend_from_slice(all.as_bytes());
                // Who asks on and on, and reads as fast, lets the others have their turn: the lease
                // is renewed among them.
                tokio::task::yield_now().await;
            }
            other => self.out.extend_from_slice(other.fixed_reply().as_bytes()),
        }
        if self.out.len() >= BATCH_LEN { self.flush().await } else { Ok(()) }
    }

    /// Sends shared bytes without a copy of them for each client that reads slowly.
    async fn send(&mut self, bytes: Bytes) -> Result<()> {
        if bytes.len() < BATCH_LEN {
            self.out.extend_from_slice(&bytes);
            return Ok(());
        }
        self.flush().await?;
        write(&self.line.stream, &bytes).await
    }

    async fn flush(&mut self) -> Result<()> {
        let out = std::mem::take(&mut self.out);
        write(&self.line.stream, &out).await
    }

    async fn close_with(&mut self, sentence: &str) -> Result<()> {
        write(&self.line.stream, sentence.as_bytes()).await?;
        linger_briefly(&self.line.stream).await;
        Ok(())
    }
}

async fn read(stream: &TcpStream, buffer: &mut [u8]) -> Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
}

/// Writes it all, unless the client reads nothing for [`WRITE_TIME`].
async fn write(stream: &TcpStream, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                match timeout(WRITE_TIME, stream.writable()).await {
                    Ok(ready) => ready?,
                    Err(_elapsed) => return Err(ErrorKind::TimedOut.into()),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn linger_briefly(stream: &TcpStream) {
    if let Ok(Err(error)) = timeout(LINGER_TIME, linger(stream)).await {
        tracing::trace!(%error, "the client was gone already");
    }
}

/// Ends the writing side and reads on until the client has closed: closing with unread bytes would
/// reset the connection, and a reply under way would be lost (RFC 1122, section 4.2.2.13).
async fn linger(stream: &TcpStream) -> Result<()> {
    use std::os::fd::AsFd as _;
    rustix::net::shutdown(stream.as_fd(), rustix::net::Shutdown::Write)?;
    let mut chunk = [0; 512];
    while read(stream, &mut chunk).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_cut_off_and_a_slow_one_is_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        // More than the kernel holds for the two sockets.
        let reply = vec![b'x'; 64 << 20];
        let started = Instant::now();
        let slowly = async {
            let mut chunk = vec![0; 1 << 20];
            while started.elapsed() < WRITE_TIME * 2 {
                tokio::time::sleep(WRITE_TIME / 2).await;
                // All that is there: a full window opens only for a good part of it.
                while matches!(client.try_read(&mut chunk), Ok(len) if len > 0) {}
            }
            Instant::now()
        };
        let (cut_off, last_read) = tokio::join!(write(&server, &reply), slowly);
        assert_eq!(cut_off.unwrap_err().kind(), ErrorKind::TimedOut);
        let silent = last_read.elapsed();
        assert!((WRITE_TIME..WRITE_TIME * 2).contains(&silent), "{silent:?}");
    }
}
