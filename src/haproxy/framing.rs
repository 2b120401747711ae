//! Where one reply ends and the next begins.
//!
//! In interactive mode a prompt follows each reply: after every one up to 3.1 and on the master,
//! after the last one of a line from 3.2 on, where an empty line ends the others. Looking for both
//! reads all of them, and also the replies to `add server` and `del server` up to 2.9, some of which
//! lack the newline that would make the empty line (6219a58d2).

/// Splits a stream into the replies to one line of commands.
#[derive(Debug)]
pub(super) struct Framer {
    prompt: Vec<u8>,
    expected: usize,
    replies: Vec<String>,
    /// Lines of the reply that has not ended.
    open: Option<String>,
    /// Bytes after the last newline.
    rest: Vec<u8>,
    bytes: usize,
    limit: usize,
    line_too_long: bool,
}

/// How far a stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    Done,
    /// There are more replies than commands.
    TooMany,
    TooLarge,
    /// HAProxy took none of the line, which does not fit its buffer.
    LineTooLong,
}

impl Framer {
    /// `limit` is the size in bytes that all replies together may have.
    pub fn new(prompt: &str, expected: usize, limit: usize) -> Self {
        Self {
            prompt: prompt.as_bytes().to_vec(),
            expected,
            replies: Vec::with_capacity(expected),
            open: None,
            rest: Vec::new(),
            bytes: 0,
            limit,
            line_too_long: false,
        }
    }

    pub fn push(&mut self, chunk: &[u8]) -> Progress {
        self.bytes = self.bytes.saturating_add(chunk.len());
        if self.bytes > self.limit {
            return Progress::TooLarge;
        }
        let mut chunk = chunk;
        while let Some(end) = chunk.iter().position(|byte| *byte == b'\n') {
            let mut line = std::mem::take(&mut self.rest);
            line.extend_from_slice(&chunk[..end]);
            chunk = &chunk[end + 1..];
            self.line(&line);
        }
        self.rest.extend_from_slice(chunk);
        self.progress()
    }

    /// The replies that have ended so far.
    pub fn answered(&self) -> usize {
        self.replies.len()
    }

    pub fn into_replies(self) -> Vec<String> {
        self.replies
    }

    fn line(&mut self, line: &[u8]) {
        let mut line = line;
        if let Some(rest) = line.strip_prefix(self.prompt.as_slice()) {
            self.replies.extend(self.open.take());
            line = rest;
        }
        if line.is_empty() {
            self.replies.push(self.open.take().unwrap_or_default());
            return;
        }
        self.line_too_long |= line.starts_with(LINE_TOO_LONG);
        let text = String::from_utf8_lossy(line);
        match &mut self.open {
            Some(open) => {
                open.push('\n');
                open.push_str(&text);
            }
            None => self.open = Some(text.into_owned()),
        }
    }

    fn progress(&mut self) -> Progress {
        if self.line_too_long {
            return Progress::LineTooLong;
        }
        if self.replies.len() > self.expected {
            return Progress::TooMany;
        }
        let ended = self.replies.len() + usize::from(self.open.is_some());
        if self.rest == self.prompt && ended == self.expected {
            self.replies.extend(self.open.take());
            return Progress::Done;
        }
        Progress::More
    }
}

/// 3.2 and later measure the whole line, earlier ones each command.
const LINE_TOO_LONG: &[u8] = b"The command line is too big for the buffer size";
