use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use super::framing::{Framer, Progress};
use super::versions::MAX_LINE;
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
        let mut connection = Self::greeted(address, timeouts).await?;
        if matches!(address, SocketAddress::Master(_)) {
            let ProcessInfo { pid, .. } = connection.process_by("@1 show info").await?;
            connection.pick_worker(pid).await?;
        }
        Ok(connection)
    }

    /// Connects to a master and picks one of its workers, such as one of before a reload.
    pub async fn open_worker(master: &SocketAddress, timeouts: Timeouts, pid: u32) -> Result<Self> {
        let mut connection = Self::greeted(master, timeouts).await?;
        connection.pick_worker(pid).await?;
        Ok(connection)
    }

    /// Connects and turns interactive mode on; what is sent to a master is for the master itself.
    pub async fn greeted(address: &SocketAddress, timeouts: Timeouts) -> Result<Self> {
        let stream = connect(address, timeouts.connect).await?;
        let prompt = WORKER_PROMPT.to_owned();
        let exchange = timeouts.exchange;
        let mut connection = Self { address: address.clone(), stream, exchange, prompt };
        connection.greet().await?;
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
        parse::process(reply).map_err(|error| Error::Malformed { address, command, error })
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

    /// Sends everything that follows to one worker alone. The master closes the connection when it
    /// reloads, and a worker's id never names its successor.
    async fn pick_worker(&mut self, pid: u32) -> Result<()> {
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
            let address = || self.address.clone();
            said.extend_from_slice(&chunk);
            if chunk.is_empty() && said.is_empty() {
                return Err(Error::Closed { address: address(), answered: 0, sent: 1 });
            }
            match heard(&said) {
                Heard::Prompt(prompt) => return Ok(prompt),
                Heard::Start if !chunk.is_empty() => {}
                Heard::Start | Heard::Other => {
                    return Err(Error::NotHaproxy { address: address(), said: shown(&said) });
                }
            }
        }
    }

    async fn write(&mut self, bytes: &[u8], deadline: Instant) -> Result<()> {
        let written = timeout_at(deadline, self.stream.write_all(bytes)).await;
        let address = self.address.clone();
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Error::Broken { address, error }),
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

/// What a peer has said of its prompt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing but what may come before a prompt's end.
    Start,
    Prompt(String),
    /// What no prompt begins with.
    Other,
}

pub(super) fn heard(said: &[u8]) -> Heard {
    let text = String::from_utf8_lossy(said);
    let line = text.trim_start_matches('\n');
    if line.len() > MAX_PROMPT || line.contains('\n') || said.len() > MAX_GREETING {
        Heard::Other
    } else if line.ends_with("> ") {
        Heard::Prompt(line.to_owned())
    } else {
        Heard::Start
    }
}

/// The beginning of what a peer said.
fn shown(said: &[u8]) -> String {
    String::from_utf8_lossy(said).trim_start_matches('\n').chars().take(MAX_SAID).collect()
}

/// How many of how many commands the lines before this one carried.
#[derive(Debug, Clone, Copy)]
struct Progressed {
    before: usize,
    commands: usize,
}

/// Commands joined by `;`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    text: String,
    commands: usize,
}

/// Joins commands to lines that fit HAProxy's buffer.
pub(super) fn lines(commands: &[String]) -> Result<Vec<Line>> {
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
        Ok(Err(error)) => Err(Error::Connect { address: address.clone(), error }),
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
        Ok(Err(error)) => Err(Error::Broken { address: address.clone(), error }),
        Err(_elapsed) => Err(Error::Timeout { address: address.clone(), step: step(), after }),
    }
}

const WORKER_PROMPT: &str = "> ";
/// The replies to one line: the state of a hundred thousand servers is 13 MB.
const MAX_REPLIES: usize = 64 * 1024 * 1024;
const MAX_PROMPT: usize = 64;
/// A prompt and the newlines before it.
const MAX_GREETING: usize = 1024;
const MAX_SAID: usize = 120;
const CHUNK: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::net::UnixListener;

    use super::*;
    use crate::daemon::spawn_owned;

    /// Says `said` to the first client, line by line of its own, and then closes or stays.
    async fn against(said: &'static str, stay: bool) -> Error {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let _server = spawn_owned(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = [0; 1024];
            for part in said.split_inclusive('|') {
                assert!(stream.read(&mut heard).await.unwrap() > 0);
                stream.write_all(part.trim_end_matches('|').as_bytes()).await.unwrap();
            }
            if stay {
                std::future::pending::<()>().await;
            }
        });
        let exchange = Duration::from_millis(if stay { 200 } else { 10_000 });
        let timeouts = Timeouts { exchange, ..Timeouts::default() };
        let conversation = async {
            let mut connection = Connection::open(&SocketAddress::Unix(path), timeouts).await?;
            connection.ask(&["show version".to_owned(), "show info".to_owned()]).await
        };
        conversation.await.unwrap_err()
    }

    #[tokio::test]
    async fn whatever_is_not_haproxy_is_told_so() {
        for said in ["HTTP/1.1 400 Bad Request\r\n\r\n", "you sent: prompt\nnext", "no newline"] {
            let error = against(said, false).await;
            assert!(matches!(error, Error::NotHaproxy { .. }), "{said:?}: {error:?}");
            assert!(error.remedy().unwrap().contains("stats socket"));
        }
        assert!(matches!(against("", false).await, Error::Closed { .. } | Error::Broken { .. }));
    }

    #[tokio::test]
    async fn a_master_is_not_taken_for_a_stats_socket() {
        for said in ["master> ", "\nmaster> ", "master[ReloadFailed]> "] {
            assert!(matches!(against(said, true).await, Error::IsMaster(_)), "{said:?}");
        }
    }

    #[tokio::test]
    async fn an_end_in_the_middle_of_a_reply_says_how_much_was_answered() {
        for said in ["\n> |2.6.12\n\n> Name: HAP", "\n> |2.6.12\n\n> Name: HAProxy\nVersion: 2\n"] {
            let error = against(said, false).await;
            assert!(matches!(error, Error::Closed { answered: 1, sent: 2, .. }), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_silent_or_stuck_peer_is_given_up() {
        for said in ["", "\n|", "\n> |2.6.12\n\n> Name: HAP"] {
            let error = against(said, true).await;
            assert!(matches!(error, Error::Timeout { .. }), "{said:?}: {error:?}");
        }
        let stuck = against("\n> |2.6.12\n\n> Name: HAP", true).await.to_string();
        assert!(stuck.contains("1 of 2 commands answered"), "{stuck}");
    }

    #[tokio::test]
    async fn replies_that_nobody_asked_for_are_an_error() {
        let error = against("\n> |a\n\n> b\n\n> c\n\n> ", true).await;
        assert!(matches!(error, Error::TooManyReplies { .. }), "{error:?}");
    }

    #[test]
    fn a_peer_that_sends_newlines_without_end_is_given_up() {
        assert_eq!(heard(b"\n\n15900> "), Heard::Prompt("15900> ".into()));
        assert_eq!(heard(&[b'\n'; MAX_GREETING]), Heard::Start);
        assert_eq!(heard(&[b'\n'; MAX_GREETING + 1]), Heard::Other);
    }

    #[test]
    fn a_text_that_is_not_one_command_is_refused() {
        let long = "x".repeat(MAX_LINE + 1);
        for command in ["", " ", "a;b", "a\\b", "a\nb", "a\r", "a\0", "set map x <<", &long] {
            let error = lines(&[command.to_owned()]).unwrap_err();
            assert!(matches!(error, Error::BadCommand { .. }), "{command:?}");
        }
    }

    proptest! {
        #[test]
        fn lines_carry_every_command_in_order_and_fit_the_buffer(
            lengths in proptest::collection::vec(1usize..=MAX_LINE, 0..30),
        ) {
            let commands: Vec<String> = lengths.iter().map(|length| "x".repeat(*length)).collect();
            let lines = lines(&commands).unwrap();
            prop_assert!(lines.iter().all(|line| line.text.len() <= MAX_LINE));
            let counted = |line: &Line| line.text.split(';').count();
            prop_assert!(lines.iter().all(|line| counted(line) == line.commands));
            let joined: Vec<String> =
                lines.iter().flat_map(|line| line.text.split(';').map(str::to_owned)).collect();
            prop_assert_eq!(joined, commands);
            // No two neighbours would have fitted one line.
            let fitted = |pair: &[Line]| pair[0].text.len() + pair[1].text.split(';').next().unwrap().len() < MAX_LINE;
            prop_assert!(!lines.windows(2).any(fitted));
        }
    }
}
