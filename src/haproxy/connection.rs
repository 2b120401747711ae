use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use super::framing::{Framer, Progress};
use super::versions::{LEAST_LINE, MAX_LINE};
use super::{Error, ProcessInfo, Result, SocketAddress, Timeouts, parse};

/// An interactive connection to one worker, over a stats socket or through its master.
pub(super) struct Connection {
    address: SocketAddress,
    stream: Pin<Box<dyn Stream>>,
    exchange: Duration,
    prompt: String,
    state: State,
    lines: LineLimit,
    /// What was read last.
    chunk: Vec<u8>,
}

/// How long a line may be; every connection of one client shares what was learnt of it.
#[derive(Debug, Clone)]
pub(super) struct LineLimit(Arc<AtomicUsize>);

impl Default for LineLimit {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(MAX_LINE)))
    }
}

impl LineLimit {
    fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Half of what was too long from now on; false where that is no less than before, or too little.
    pub fn halve(&self, too_long: usize) -> bool {
        let half = too_long / 2;
        let shorter = |limit| (half >= LEAST_LINE && half < limit).then_some(half);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, shorter).is_ok()
    }
}

/// What a connection is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was sent yet: interactive mode is off.
    New,
    /// The next line may be sent.
    Idle,
    /// In the middle of an exchange, or after one that failed: what comes next answers nothing.
    Unusable,
}

trait Stream: AsyncRead + AsyncWrite + Send + Sync {}

impl<T: AsyncRead + AsyncWrite + Send + Sync> Stream for T {}

impl Connection {
    /// Connects and, on a master, picks its current worker. A stats socket is greeted together with
    /// the first question.
    pub async fn open(
        address: &SocketAddress,
        timeouts: Timeouts,
        lines: LineLimit,
    ) -> Result<Self> {
        if matches!(address, SocketAddress::Master(_)) {
            let mut connection = Self::greeted(address, timeouts).await?;
            let ProcessInfo { pid, .. } = connection.process_by("@1 show info").await?;
            connection.pick_worker(pid).await?;
            return Ok(Self { lines, ..connection });
        }
        Ok(Self { lines, ..Self::connected(address, timeouts).await? })
    }

    /// Connects to a master and picks one of its workers, such as one of before a reload.
    pub async fn open_worker(master: &SocketAddress, timeouts: Timeouts, pid: u32) -> Result<Self> {
        let mut connection = Self::greeted(master, timeouts).await?;
        connection.pick_worker(pid).await?;
        Ok(connection)
    }

    /// Connects and turns interactive mode on; what is sent to a master is for the master itself.
    pub async fn greeted(address: &SocketAddress, timeouts: Timeouts) -> Result<Self> {
        let mut connection = Self::connected(address, timeouts).await?;
        connection.greet().await?;
        Ok(connection)
    }

    async fn connected(address: &SocketAddress, timeouts: Timeouts) -> Result<Self> {
        Ok(Self {
            address: address.clone(),
            stream: connect(address, timeouts.connect).await?,
            exchange: timeouts.exchange,
            prompt: WORKER_PROMPT.to_owned(),
            state: State::New,
            lines: LineLimit::default(),
            chunk: Vec::with_capacity(CHUNK),
        })
    }

    pub fn address(&self) -> &SocketAddress {
        &self.address
    }

    /// What `show info` says.
    pub async fn process(&mut self) -> Result<ProcessInfo> {
        self.process_by("show info").await
    }

    /// Sends commands joined to lines and answers as many replies, in order. After an error the
    /// connection is of no more use.
    ///
    /// The first ones may reach what is no HAProxy, or its master: they must change nothing there.
    pub async fn ask(&mut self, commands: &[String]) -> Result<Vec<String>> {
        let mut replies = Vec::with_capacity(commands.len());
        for line in lines(commands, self.lines.bytes())? {
            let progress = Progressed { before: replies.len(), commands: commands.len() };
            replies.extend(self.ask_line(&line, progress).await?);
        }
        Ok(replies)
    }

    /// Turns interactive mode on where it is not; from then on it is known what is at the other end.
    pub async fn greet(&mut self) -> Result<()> {
        if self.state != State::New {
            return Ok(());
        }
        let deadline = self.begin(GREETING).await?;
        self.read_greeting(deadline, 1).await?;
        self.end_of_prompt()
    }

    async fn process_by(&mut self, command: &str) -> Result<ProcessInfo> {
        let replies = self.ask(&[command.to_owned()]).await?;
        let reply = replies.first().map_or("", String::as_str);
        let (address, command) = (self.address.clone(), command.to_owned());
        parse::process(reply).map_err(|error| Error::Malformed { address, command, error })
    }

    async fn ask_line(&mut self, line: &Line, so_far: Progressed) -> Result<Vec<String>> {
        let is_new = self.state == State::New;
        let greeting = if is_new { GREETING } else { "" };
        let deadline = self.begin(&format!("{greeting}{}\n", line.text)).await?;
        if is_new {
            self.read_greeting(deadline, so_far.before + line.commands).await?;
        }
        let mut framer = Framer::new(&self.prompt, line.commands, MAX_REPLIES);
        loop {
            let address = || self.address.clone();
            match framer.push(&self.chunk) {
                Progress::More => {}
                Progress::Done => {
                    self.state = State::Idle;
                    return Ok(framer.into_replies());
                }
                Progress::TooMany => return Err(Error::TooManyReplies { address: address() }),
                Progress::TooLarge => {
                    return Err(Error::ReplyTooLarge { address: address(), limit: MAX_REPLIES });
                }
                Progress::LineTooLong => {
                    let bytes = line.text.len();
                    return Err(Error::LineTooLong { address: address(), bytes });
                }
            }
            let answered = so_far.before + framer.answered();
            let counted =
                || format!("answer ({answered} of {} commands answered)", so_far.commands);
            self.read(deadline, counted).await?;
            if self.chunk.is_empty() {
                let (address, sent) = (self.address.clone(), so_far.before + line.commands);
                return Err(Error::Closed { address, answered, sent });
            }
        }
    }

    /// Reads up to the prompt that answers the greeting, which tells what is at the other end, and
    /// leaves what came behind it to be read.
    async fn read_greeting(&mut self, deadline: Instant, sent: usize) -> Result<()> {
        let (prompt, said) = self.read_prompt(deadline, sent).await?;
        let address = || self.address.clone();
        let is_master = prompt.starts_with("master");
        match &self.address {
            SocketAddress::Master(_) if is_master => self.prompt = prompt,
            SocketAddress::Master(_) => return Err(Error::IsNotMaster(address())),
            _ if is_master => return Err(Error::IsMaster(address())),
            _ if prompt == WORKER_PROMPT => {}
            _ => return Err(Error::NotHaproxy { address: address(), said: shown(&said) }),
        }
        Ok(())
    }

    /// Sends everything that follows to one worker alone. The master closes the connection when it
    /// reloads, and a worker's id never names its successor.
    async fn pick_worker(&mut self, pid: u32) -> Result<()> {
        let deadline = self.begin(&format!("@!{pid}\n")).await?;
        let prompt = format!("{pid}> ");
        if self.read_prompt(deadline, 1).await?.0 != prompt {
            return Err(Error::NoWorker { address: self.address.clone(), pid });
        }
        self.prompt = prompt;
        self.end_of_prompt()
    }

    /// Ends an exchange that a prompt alone answers.
    fn end_of_prompt(&mut self) -> Result<()> {
        if !self.chunk.is_empty() {
            return Err(Error::TooManyReplies { address: self.address.clone() });
        }
        self.state = State::Idle;
        Ok(())
    }

    /// Reads up to a prompt, with nothing but newlines before it, and leaves what came behind it to
    /// be read. Answers the prompt, and all that was said.
    async fn read_prompt(&mut self, deadline: Instant, sent: usize) -> Result<(String, Vec<u8>)> {
        let mut said = Vec::new();
        loop {
            self.read(deadline, || "answer in interactive mode".to_owned()).await?;
            let address = || self.address.clone();
            said.extend_from_slice(&self.chunk);
            if self.chunk.is_empty() && said.is_empty() {
                return Err(Error::Closed { address: address(), answered: 0, sent });
            }
            match heard(&said) {
                Heard::Prompt { prompt, end } => {
                    self.chunk.clear();
                    self.chunk.extend_from_slice(&said[end..]);
                    return Ok((prompt, said));
                }
                Heard::Start if !self.chunk.is_empty() => {}
                Heard::Start | Heard::Other => {
                    return Err(Error::NotHaproxy { address: address(), said: shown(&said) });
                }
            }
        }
    }

    /// Sends what begins an exchange, and answers when the exchange has to be over.
    async fn begin(&mut self, text: &str) -> Result<Instant> {
        let address = self.address.clone();
        if std::mem::replace(&mut self.state, State::Unusable) == State::Unusable {
            let error = std::io::Error::other("what was asked before is not fully answered");
            return Err(Error::Broken { address, error });
        }
        self.chunk.clear();
        let deadline = Instant::now() + self.exchange;
        match timeout_at(deadline, self.stream.write_all(text.as_bytes())).await {
            Ok(Ok(())) => Ok(deadline),
            Ok(Err(error)) => Err(Error::Broken { address, error }),
            Err(_elapsed) => {
                Err(Error::Timeout { address, step: "read".into(), after: self.exchange })
            }
        }
    }

    /// Reads some bytes, or none at the end of the stream.
    async fn read(&mut self, deadline: Instant, step: impl Fn() -> String) -> Result<()> {
        self.chunk.clear();
        let read = timeout_at(deadline, self.stream.read_buf(&mut self.chunk)).await;
        let address = || self.address.clone();
        match read {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Error::Broken { address: address(), error }),
            Err(_elapsed) => {
                Err(Error::Timeout { address: address(), step: step(), after: self.exchange })
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
    /// The first prompt, and how many bytes there are up to its end.
    Prompt { prompt: String, end: usize },
    /// What no prompt begins with.
    Other,
}

pub(super) fn heard(said: &[u8]) -> Heard {
    let newlines = said.iter().take_while(|byte| **byte == b'\n').count();
    let line = &said[newlines..];
    let found = memchr::memmem::find(line, PROMPT_END).map(|at| at + PROMPT_END.len());
    let prompt = &line[..found.unwrap_or(line.len())];
    if newlines > MAX_NEWLINES || prompt.len() > MAX_PROMPT || prompt.contains(&b'\n') {
        return Heard::Other;
    }
    match (found, std::str::from_utf8(prompt)) {
        (None, _) => Heard::Start,
        (Some(len), Ok(prompt)) => Heard::Prompt { prompt: prompt.to_owned(), end: newlines + len },
        (Some(_), Err(_not_text)) => Heard::Other,
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
pub(super) fn lines(commands: &[String], limit: usize) -> Result<Vec<Line>> {
    let mut lines: Vec<Line> = Vec::new();
    for command in commands {
        check(command)?;
        match lines.last_mut() {
            Some(line) if line.text.len() + 1 + command.len() <= limit => {
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
    let socket = match address {
        SocketAddress::Master(socket) => socket,
        socket => socket,
    };
    let connecting = async {
        let stream: Pin<Box<dyn Stream>> = match socket {
            SocketAddress::Unix(path) => Box::pin(UnixStream::connect(path).await?),
            SocketAddress::Abstract(name) => {
                Box::pin(UnixStream::connect(OsStr::from_bytes(&name.bytes())).await?)
            }
            SocketAddress::Master(_) => return Err(std::io::ErrorKind::InvalidInput.into()),
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

/// Turns interactive mode on.
const GREETING: &str = "prompt\n";
const WORKER_PROMPT: &str = "> ";
/// The replies to one line: the state of a hundred thousand servers is 13 MB.
const MAX_REPLIES: usize = 64 * 1024 * 1024;
/// What every prompt ends with, and has nowhere else.
const PROMPT_END: &[u8] = b"> ";
const MAX_PROMPT: usize = 64;
/// Before a prompt.
const MAX_NEWLINES: usize = 960;
const MAX_SAID: usize = 120;
const CHUNK: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use proptest::prelude::*;
    use tokio::net::UnixListener;

    use super::super::framing::samples;
    use super::*;
    use crate::daemon::spawn_owned;

    /// Says `said` to the first client once it has said something, and then closes or stays.
    async fn against(said: &'static str, stay: bool) -> Error {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let _server = spawn_owned(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = [0; 1024];
            assert!(stream.read(&mut heard).await.unwrap() > 0);
            stream.write_all(said.as_bytes()).await.unwrap();
            if stay {
                std::future::pending::<()>().await;
            }
        });
        let exchange = Duration::from_millis(if stay { 200 } else { 10_000 });
        let timeouts = Timeouts { exchange, ..Timeouts::default() };
        let conversation = async {
            let mut connection =
                Connection::open(&SocketAddress::Unix(path), timeouts, LineLimit::default())
                    .await?;
            connection.ask(&["show version".to_owned(), "show info".to_owned()]).await
        };
        conversation.await.unwrap_err()
    }

    /// To a peer that says these two parts, each read on its own, and closes.
    fn told(first: &'static [u8], second: &'static [u8]) -> Connection {
        over(tokio::io::join(first.chain(second), tokio::io::sink()), Duration::from_secs(10))
    }

    fn over(stream: impl Stream + 'static, exchange: Duration) -> Connection {
        Connection {
            address: "/run/haproxy.sock".parse().unwrap(),
            stream: Box::pin(stream),
            exchange,
            prompt: WORKER_PROMPT.to_owned(),
            state: State::New,
            lines: LineLimit::default(),
            chunk: Vec::new(),
        }
    }

    #[tokio::test]
    async fn wherever_the_greeting_and_the_replies_are_cut_they_are_the_same() {
        for (sample, expected) in samples::ALL {
            let commands = vec!["show version".to_owned(); expected.len()];
            let said: &'static [u8] = format!("\n> {sample}").leak().as_bytes();
            for cut in 0..=said.len() {
                let mut connection = told(&said[..cut], &said[cut..]);
                let replies = connection.ask(&commands).await.unwrap();
                assert_eq!(replies, expected, "cut after {cut} bytes of {sample:?}");
            }
            for end in 0..said.len() {
                let error = told(&said[..end], b"").ask(&commands).await.unwrap_err();
                let known = matches!(error, Error::Closed { .. } | Error::NotHaproxy { .. });
                assert!(known, "{end} bytes of {sample:?}: {error:?}");
            }
        }
    }

    #[tokio::test]
    async fn nothing_is_asked_of_a_peer_whose_last_answer_is_not_whole() {
        let ask = ["show info".to_owned()];
        for said in ["no newline", "\nmaster> ", "\n> Name: HAP", "\n> a\n\n> b\n\n> "] {
            let mut connection = told(said.as_bytes(), b"\n> fine\n\n> ");
            connection.ask(&ask).await.unwrap_err();
            let again = connection.ask(&ask).await.unwrap_err();
            assert!(matches!(again, Error::Broken { .. }), "{said:?}: {again:?}");
            assert!(again.to_string().contains("not fully answered"), "{again}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_comes_too_late_is_nobodys() {
        let ask = ["show info".to_owned()];
        for within in [Duration::from_millis(50), Duration::from_secs(10)] {
            let (own, mut peer) = tokio::io::duplex(1024);
            let mut connection = over(own, within);
            if within < Duration::from_secs(1) {
                let late = connection.ask(&ask).await.unwrap_err();
                assert!(matches!(late, Error::Timeout { .. }), "{late:?}");
            } else {
                assert!(connection.ask(&ask).now_or_never().is_none());
            }
            peer.write_all(b"\n> Name: HAProxy\n\n> ").await.unwrap();
            let again = connection.ask(&ask).await.unwrap_err();
            assert!(matches!(again, Error::Broken { .. }), "{again:?}");
        }
    }

    #[tokio::test]
    async fn the_greeting_and_the_first_question_are_one_exchange() {
        let (own, mut peer) = tokio::io::duplex(1024);
        let mut connection = over(own, Duration::from_secs(10));
        // An exchange of its own would end at the first prompt.
        peer.write_all(b"\n> 2.6.12\n\n> ").await.unwrap();
        assert_eq!(connection.ask(&["show version".to_owned()]).await.unwrap(), ["2.6.12"]);
        drop(connection);
        let mut heard = String::new();
        peer.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "prompt\nshow version\n");
    }

    #[tokio::test]
    async fn a_greeting_is_sent_once_and_a_prompt_alone_answers_it() {
        let mut connection = told(b"\n> ", b"2.6.12\n\n> ");
        connection.greet().await.unwrap();
        connection.greet().await.unwrap();
        assert_eq!(connection.ask(&["show version".to_owned()]).await.unwrap(), ["2.6.12"]);
        let too_much = told(b"\n> 2.6.12\n\n> ", b"").greet().await.unwrap_err();
        assert!(matches!(too_much, Error::TooManyReplies { .. }), "{too_much:?}");
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
        for said in ["\n> 2.6.12\n\n> Name: HAP", "\n> 2.6.12\n\n> Name: HAProxy\nVersion: 2\n"] {
            let error = against(said, false).await;
            assert!(matches!(error, Error::Closed { answered: 1, sent: 2, .. }), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_silent_or_stuck_peer_is_given_up() {
        for said in ["", "\n", "\n> 2.6.12\n\n> Name: HAP"] {
            let error = against(said, true).await;
            assert!(matches!(error, Error::Timeout { .. }), "{said:?}: {error:?}");
        }
        let stuck = against("\n> 2.6.12\n\n> Name: HAP", true).await.to_string();
        assert!(stuck.contains("1 of 2 commands answered"), "{stuck}");
    }

    #[tokio::test]
    async fn replies_that_nobody_asked_for_are_an_error() {
        let error = against("\n> a\n\n> b\n\n> c\n\n> ", true).await;
        assert!(matches!(error, Error::TooManyReplies { .. }), "{error:?}");
    }

    #[test]
    fn a_peer_that_sends_newlines_without_end_is_given_up() {
        let prompt = |said: &[u8], prompt: &str, end| {
            assert_eq!(heard(said), Heard::Prompt { prompt: prompt.into(), end });
        };
        prompt(b"\n\n15900> ", "15900> ", 9);
        prompt(b"\n> Name: x> ", "> ", 3);
        assert_eq!(heard(b"\xff> "), Heard::Other);
        assert_eq!(heard(&[b'\n'; MAX_NEWLINES]), Heard::Start);
        assert_eq!(heard(&[b'\n'; MAX_NEWLINES + 1]), Heard::Other);
    }

    #[test]
    fn a_text_that_is_not_one_command_is_refused() {
        let long = "x".repeat(MAX_LINE + 1);
        for command in ["", " ", "a;b", "a\\b", "a\nb", "a\r", "a\0", "set map x <<", &long] {
            let error = lines(&[command.to_owned()], MAX_LINE).unwrap_err();
            assert!(matches!(error, Error::BadCommand { .. }), "{command:?}");
        }
    }

    proptest! {
        #[test]
        fn lines_carry_every_command_in_order_and_fit_the_buffer(
            lengths in proptest::collection::vec(1usize..=MAX_LINE, 0..30),
        ) {
            let commands: Vec<String> = lengths.iter().map(|length| "x".repeat(*length)).collect();
            let lines = lines(&commands, MAX_LINE).unwrap();
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
