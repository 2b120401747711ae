use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use super::framing::{Framer, Progress};
use super::{Error, ProcessInfo, Result, SocketAddress, Timeouts, parse};

/// An interactive connection to one worker, over a stats socket or through its master.
pub(super) struct Connection {
    address: SocketAddress,
    stream: Pin<Box<dyn Stream>>,
    exchange: Duration,
    prompt: String,
}

trait Stream: AsyncRead + AsyncWrite + Send + Sync {}

impl<T: AsyncRead + AsyncWrite + Send + Sync> Stream for T {}

impl Connection {
    /// Connects, turns interactive mode on and, on a master, picks its current worker.
    pub async fn open(address: &SocketAddress, timeouts: Timeouts) -> Result<Self> {
        let stream = connect(address, timeouts.connect).await?;
        let prompt = WORKER_PROMPT.to_owned();
        let exchange = timeouts.exchange;
        let mut connection = Self { address: address.clone(), stream, exchange, prompt };
        connection.greet().await?;
        if matches!(address, SocketAddress::Master(_)) {
            connection.pick_worker().await?;
        }
        Ok(connection)
    }

    pub fn address(&self) -> &SocketAddress {
        &self.address
    }

    /// What `show info` says.
    pub async fn process(&mut self) -> Result<ProcessInfo> {
        self.process_by("show info").await
    }

    /// Sends commands joined to lines and answers as many replies, in order.
    pub async fn ask(&mut self, commands: &[String]) -> Result<Vec<String>> {
        let mut replies = Vec::with_capacity(commands.len());
        for line in lines(commands)? {
            let deadline = Instant::now() + self.exchange;
            let progress = Progressed { before: replies.len(), commands: commands.len() };
            replies.extend(self.ask_line(&line, deadline, progress).await?);
        }
        Ok(replies)
    }

    async fn process_by(&mut self, command: &str) -> Result<ProcessInfo> {
        let replies = self.ask(&[command.to_owned()]).await?;
        let reply = replies.first().map_or("", String::as_str);
        let (address, command) = (self.address.clone(), command.to_owned());
        parse::process(reply).map_err(|source| Error::Malformed { address, command, source })
    }

    async fn ask_line(
        &mut self,
        line: &Line,
        deadline: Instant,
        so_far: Progressed,
    ) -> Result<Vec<String>> {
        self.write(format!("{}\n", line.text).as_bytes(), deadline).await?;
        let mut framer = Framer::new(&self.prompt, line.commands, MAX_REPLIES);
        let address = || self.address.clone();
        loop {
            let answered = so_far.before + framer.answered();
            let counted =
                || format!("answer ({answered} of {} commands answered)", so_far.commands);
            let chunk = read(&mut self.stream, &self.address, deadline, self.exchange, counted);
            let chunk = chunk.await?;
            if chunk.is_empty() {
                return Err(Error::Closed {
                    address: address(),
                    answered,
                    sent: so_far.before + line.commands,
                });
            }
            match framer.push(&chunk) {
                Progress::More => {}
                Progress::Done => return Ok(framer.into_replies()),
                Progress::TooMany => return Err(Error::TooManyReplies { address: address() }),
                Progress::TooLarge => {
                    return Err(Error::ReplyTooLarge { address: address(), limit: MAX_REPLIES });
                }
                Progress::LineTooLong => {
                    let bytes = line.text.len();
                    return Err(Error::LineTooLong { address: address(), bytes });
                }
            }
        }
    }

    /// Turns interactive mode on; the prompt that comes back tells what is at the other end.
    async fn greet(&mut self) -> Result<()> {
        let deadline = Instant::now() + self.exchange;
        self.write(b"prompt\n", deadline).await?;
        let said = self.read_prompt(deadline).await?;
        let is_master = said.trim_start().starts_with("master");
        match &self.address {
            SocketAddress::Master(_) if is_master => self.prompt = said.trim_start().to_owned(),
            SocketAddress::Master(_) => return Err(Error::IsNotMaster(self.address.clone())),
            _ if is_master => return Err(Error::IsMaster(self.address.clone())),
            _ => {}
        }
        Ok(())
    }

    /// Sends everything that follows to the current worker alone. The master closes the connection
    /// when it reloads, and a worker's id never names its successor.
    async fn pick_worker(&mut self) -> Result<()> {
        let ProcessInfo { pid, .. } = self.process_by("@1 show info").await?;
        let deadline = Instant::now() + self.exchange;
        self.write(format!("@!{pid}\n").as_bytes(), deadline).await?;
        let prompt = format!("{pid}> ");
        if self.read_prompt(deadline).await? != prompt {
            return Err(Error::NoWorker { address: self.address.clone(), pid });
        }
        self.prompt = prompt;
        Ok(())
    }

    /// Reads up to a prompt, with nothing but newlines before it.
    async fn read_prompt(&mut self, deadline: Instant) -> Result<String> {
        let mut said = Vec::new();
        loop {
            let step = || "answer in interactive mode".to_owned();
            let chunk = read(&mut self.stream, &self.address, deadline, self.exchange, step);
            let chunk = chunk.await?;
            said.extend_from_slice(&chunk);
            let text = String::from_utf8_lossy(&said);
            if chunk.is_empty() && said.is_empty() {
                return Err(Error::Closed { address: self.address.clone(), answered: 0, sent: 1 });
            }
            let line = text.trim_start_matches('\n');
            if line.ends_with("> ") && !line.contains('\n') && line.len() <= MAX_PROMPT {
                return Ok(line.to_owned());
            }
            if chunk.is_empty() || line.len() > MAX_PROMPT || line.contains('\n') {
                let said = line.chars().take(MAX_SAID).collect();
                return Err(Error::NotHaproxy { address: self.address.clone(), said });
            }
        }
    }

    async fn write(&mut self, bytes: &[u8], deadline: Instant) -> Result<()> {
        let written = timeout_at(deadline, self.stream.write_all(bytes)).await;
        let address = self.address.clone();
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(Error::Broken { address, source }),
            Err(_elapsed) => {
                Err(Error::Timeout { address, step: "read".into(), after: self.exchange })
            }
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).finish_non_exhaustive()
    }
}

/// How many of how many commands the lines before this one carried.
#[derive(Debug, Clone, Copy)]
struct Progressed {
    before: usize,
    commands: usize,
}

/// Commands joined by `;`.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    text: String,
    commands: usize,
}

/// Joins commands to lines that fit HAProxy's buffer (`tune.bufsize`, 16 KiB) with room to spare:
/// from 3.2 on the whole line must fit it, before that each command.
fn lines(commands: &[String]) -> Result<Vec<Line>> {
    let mut lines: Vec<Line> = Vec::new();
    for command in commands {
        check(command)?;
        match lines.last_mut() {
            Some(line) if line.text.len() + 1 + command.len() <= MAX_LINE => {
                line.text.push(';');
                line.text.push_str(command);
                line.commands += 1;
            }
            _ => lines.push(Line { text: command.clone(), commands: 1 }),
        }
    }
    Ok(lines)
}

/// One command must stay one command, whatever it was made of.
fn check(command: &str) -> Result<()> {
    let problem = if command.trim().is_empty() {
        "empty"
    } else if command.len() > MAX_LINE {
        "longer than a line may be"
    } else if command.contains(|c: char| matches!(c, ';' | '\\') || c.is_control()) {
        "not one command: it has `;`, `\\` or a control character"
    } else if command.contains("<<") {
        "not one line: `<<` would start a payload"
    } else {
        return Ok(());
    };
    Err(Error::BadCommand { command: command.chars().take(MAX_SAID).collect(), problem })
}

async fn connect(address: &SocketAddress, within: Duration) -> Result<Pin<Box<dyn Stream>>> {
    let connecting = async {
        let stream: Pin<Box<dyn Stream>> = match address {
            SocketAddress::Unix(path) | SocketAddress::Master(path) => {
                Box::pin(UnixStream::connect(path).await?)
            }
            SocketAddress::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Box::pin(stream)
            }
        };
        std::io::Result::Ok(stream)
    };
    match tokio::time::timeout(within, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(source)) => Err(Error::Connect { address: address.clone(), source }),
        Err(_elapsed) => Err(Error::Timeout {
            address: address.clone(),
            step: "accept the connection".into(),
            after: within,
        }),
    }
}

/// Some bytes, or none at the end of the stream.
async fn read(
    stream: &mut Pin<Box<dyn Stream>>,
    address: &SocketAddress,
    deadline: Instant,
    after: Duration,
    step: impl Fn() -> String,
) -> Result<Vec<u8>> {
    let mut chunk = Vec::with_capacity(CHUNK);
    match timeout_at(deadline, stream.read_buf(&mut chunk)).await {
        Ok(Ok(_)) => Ok(chunk),
        Ok(Err(source)) => Err(Error::Broken { address: address.clone(), source }),
        Err(_elapsed) => Err(Error::Timeout { address: address.clone(), step: step(), after }),
    }
}

const WORKER_PROMPT: &str = "> ";
const MAX_LINE: usize = 12 * 1024;
/// The replies to one line: the state of a hundred thousand servers is 13 MB.
const MAX_REPLIES: usize = 64 * 1024 * 1024;
const MAX_PROMPT: usize = 64;
const MAX_SAID: usize = 120;
const CHUNK: usize = 16 * 1024;
