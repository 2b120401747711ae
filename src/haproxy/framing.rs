//! Where one reply ends and the next begins.
//!
//! In interactive mode a prompt follows each reply: after every one up to 3.1 and on the master,
//! after the last one of a line from 3.2 on, where an empty line ends the others. Looking for both
//! reads all of them, and also replies that lack the newline that would make the empty line.

use super::versions::LINE_TOO_LONG;

/// Splits a stream into the replies to one line of commands.
#[derive(Debug)]
pub(super) struct Framer {
    prompt: Vec<u8>,
    expected: usize,
    replies: Vec<String>,
    /// Lines of the reply that has not ended.
    open: Option<Vec<u8>>,
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
        while let Some(end) = memchr::memchr(b'\n', chunk) {
            let (line, rest) = chunk.split_at(end);
            chunk = &rest[1..];
            if self.rest.is_empty() {
                self.line(line);
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(line);
                self.line(&whole);
            }
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
            self.end();
            line = rest;
        }
        if line.is_empty() {
            self.open.get_or_insert_default();
            return self.end();
        }
        self.line_too_long |= line.starts_with(LINE_TOO_LONG);
        match &mut self.open {
            Some(open) => {
                open.push(b'\n');
                open.extend_from_slice(line);
            }
            None => self.open = Some(line.to_vec()),
        }
    }

    /// Ends the open reply, where there is one.
    fn end(&mut self) {
        let text = |open| match String::from_utf8(open) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        };
        self.replies.extend(self.open.take().map(text));
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
            self.end();
            return Progress::Done;
        }
        Progress::More
    }
}

/// The replies to `show version; set server … weight 3; set server … weight 500; del server …; show
/// version; set server nope/…`, as each version sends them.
#[cfg(test)]
pub(super) mod samples {
    /// Of 2.6.12, whose reply to `del server` lacks its newline.
    pub const V2_6: &str = "2.6.12-1+deb12u4\n\n> \n> Absolute weight can only be between 0 and 256 \
         inclusive.\n\n> Server deleted.\n> 2.6.12-1+deb12u4\n\n> No such server.\n\n> ";
    /// Of 3.0.11.
    pub const V3_0: &str = "3.0.11-1+deb13u3\n\n> \n> Absolute weight can only be between 0 and 256 \
         inclusive.\n\n> Server deleted.\n\n> 3.0.11-1+deb13u3\n\n> No such server.\n\n> ";
    /// Of 3.2.26, and of 3.4.7 but for the number.
    pub const V3_2: &str = "3.2.26-1\n\n\nAbsolute weight can only be between 0 and 256 \
         inclusive.\n\nServer deleted.\n\n3.2.26-1\n\nNo such server.\n\n> ";

    /// Each with the replies that it is to be read as.
    pub const ALL: [(&str, [&str; 6]); 3] = [
        (V2_6, replies("2.6.12-1+deb12u4")),
        (V3_0, replies("3.0.11-1+deb13u3")),
        (V3_2, replies("3.2.26-1")),
    ];

    const fn replies(version: &str) -> [&str; 6] {
        let absolute = "Absolute weight can only be between 0 and 256 inclusive.";
        [version, "", absolute, "Server deleted.", version, "No such server."]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::samples::{V2_6, V3_2};
    use super::*;

    const LIMIT: usize = 10_000;

    fn split(prompt: &str, text: &str, expected: usize, chunk: usize) -> (Progress, Vec<String>) {
        let mut framer = Framer::new(prompt, expected, LIMIT);
        let mut progress = Progress::More;
        for chunk in text.as_bytes().chunks(chunk) {
            assert_eq!(progress, Progress::More, "it ended before the text did");
            progress = framer.push(chunk);
        }
        (progress, framer.into_replies())
    }

    #[test]
    fn the_replies_of_every_version_are_told_apart_however_they_arrive() {
        for (text, expected) in samples::ALL {
            for chunk in 1..text.len() {
                let (progress, replies) = split("> ", text, 6, chunk);
                assert_eq!(progress, Progress::Done, "{text:?} in chunks of {chunk}");
                assert_eq!(replies, expected, "chunks of {chunk}");
            }
        }
    }

    #[test]
    fn a_master_prompts_with_the_worker_it_talks_to() {
        let text = "1\n# be_id be_name\n3 web\n\n15900> No such server.\n15900> \n15900> ";
        let (progress, replies) = split("15900> ", text, 3, 7);
        assert_eq!(progress, Progress::Done);
        assert_eq!(replies, ["1\n# be_id be_name\n3 web", "No such server.", ""]);
    }

    #[test]
    fn a_last_reply_without_its_newline_ends_at_the_prompt() {
        assert_eq!(split("> ", "Server deleted.\n> ", 1, 3).1, ["Server deleted."]);
    }

    #[test]
    fn a_reply_that_has_not_ended_is_waited_for() {
        let expected = 6;
        for cut in 1..V2_6.len() {
            let mut framer = Framer::new("> ", expected, LIMIT);
            assert_eq!(framer.push(&V2_6.as_bytes()[..cut]), Progress::More, "cut at {cut}");
        }
    }

    #[test]
    fn more_replies_than_commands_are_seen() {
        assert_eq!(split("> ", V3_2, 3, 1000).0, Progress::TooMany);
    }

    #[test]
    fn a_refused_line_is_seen_though_one_reply_stands_for_all() {
        let text = "The command line is too big for the buffer size. Please change 'tune.bufsize' \
             in the configuration to use a bigger command.\n\n> ";
        assert_eq!(split("> ", text, 200, 1000).0, Progress::LineTooLong);
    }

    #[test]
    fn a_stream_without_end_is_cut_off() {
        let mut framer = Framer::new("> ", 1, LIMIT);
        let ended = (0..LIMIT).find(|_| framer.push(b"xxxxxxxx") == Progress::TooLarge);
        assert_eq!(ended, Some(LIMIT / 8));
    }

    proptest! {
        #[test]
        fn what_was_sent_is_what_is_read(
            replies in proptest::collection::vec(
                proptest::collection::vec("[a-z0-9#'.,][a-z0-9 .>]{0,12}", 0..4), 1..12),
            dialect in 0..3u8, chunk in 1usize..40,
        ) {
            let replies: Vec<String> = replies.into_iter().map(|lines| lines.join("\n")).collect();
            let mut text = String::new();
            for (n, reply) in replies.iter().enumerate() {
                let last = n + 1 == replies.len();
                text += reply;
                // Dialect 2 loses the newline of every message, as up to 2.9.
                text += match (reply.is_empty(), dialect) {
                    (true, _) | (false, 2) => "\n",
                    (false, _) => "\n\n",
                };
                text += if last || dialect != 1 { "> " } else { "" };
            }
            let (progress, read) = split("> ", &text, replies.len(), chunk);
            prop_assert_eq!(progress, Progress::Done);
            prop_assert_eq!(read, replies);
        }

        #[test]
        fn garbage_never_panics(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..20),
            expected in 0usize..5,
        ) {
            let mut framer = Framer::new("> ", expected, LIMIT);
            for chunk in chunks {
                framer.push(&chunk);
            }
        }
    }
}
