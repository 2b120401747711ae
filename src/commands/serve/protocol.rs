//! The protocol as a state machine: bytes in, commands out. No socket, no clock.

/// Longest line in bytes, without its line feed: far over any command, small enough that a client
/// that never ends its line costs nothing.
pub const MAX_LINE_LEN: usize = 512;

/// What a client can ask. A blank line is [`Self::Invalid`], so that pressing Enter shows what
/// there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    Why,
    Who,
    Where,
    Quit,
    /// Anything else, bytes that are no text among them.
    Invalid,
    /// A line over [`MAX_LINE_LEN`]: where it ends is not waited for.
    TooLong,
}

impl Command {
    /// Every command, for metrics.
    pub const ALL: [Self; 6] =
        [Self::Why, Self::Who, Self::Where, Self::Quit, Self::Invalid, Self::TooLong];

    /// The label used in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Why => "why",
            Self::Who => "who",
            Self::Where => "where",
            Self::Quit => "quit",
            Self::Invalid => "invalid",
            Self::TooLong => "too_long",
        }
    }

    /// The reply, where it depends on nothing.
    pub fn fixed_reply(self) -> &'static str {
        match self {
            Self::Why => "42\n",
            Self::Invalid => "invalid command:\n use 'WHY', 'WHO', 'WHERE', 'QUIT'\n",
            Self::TooLong => "line too long: at most 512 bytes\n",
            Self::Who | Self::Where | Self::Quit => "",
        }
    }

    /// Reads one line: any letter case, white space around it does not count.
    pub fn of_line(line: &[u8]) -> Self {
        const WORDS: [(&[u8], Command); 4] = [
            (b"WHY", Command::Why),
            (b"WHO", Command::Who),
            (b"WHERE", Command::Where),
            (b"QUIT", Command::Quit),
        ];
        let word = line.trim_ascii();
        let found = WORDS.iter().find(|(name, _)| word.eq_ignore_ascii_case(name));
        found.map_or(Self::Invalid, |(_, command)| *command)
    }

    /// Whether the connection ends with this command.
    pub fn ends(self) -> bool {
        matches!(self, Self::Quit | Self::TooLong)
    }
}

/// Cuts a byte stream into commands, however it arrives. Holds no memory between whole lines.
#[derive(Debug, Default)]
pub struct Framer {
    /// The start of a line whose end has not come yet; at most [`MAX_LINE_LEN`] bytes.
    partial: Vec<u8>,
    ended: bool,
}

impl Framer {
    /// Takes bytes in and hands out each command they complete. After one that ends the connection
    /// nothing more is handed out.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Command)) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            if self.ended {
                return;
            }
            let command = self.complete(&bytes[..end]);
            self.hand(command, &mut each);
            bytes = &bytes[end + 1..];
        }
        if self.ended {
            return;
        }
        if self.partial.len() + bytes.len() > MAX_LINE_LEN {
            return self.hand(Command::TooLong, &mut each);
        }
        self.partial.extend_from_slice(bytes);
    }

    /// The end of the stream: a last line without its line feed is a command too, since
    /// `printf WHO | nc` is one.
    pub fn finish(&mut self) -> Option<Command> {
        let rest = std::mem::take(&mut self.partial);
        (!rest.trim_ascii().is_empty()).then(|| Command::of_line(&rest))
    }

    fn hand(&mut self, command: Command, each: &mut impl FnMut(Command)) {
        self.ended = command.ends();
        if self.ended {
            self.partial = Vec::new();
        }
        each(command);
    }

    fn complete(&mut self, end: &[u8]) -> Command {
        if self.partial.len() + end.len() > MAX_LINE_LEN {
            return Command::TooLong;
        }
        if self.partial.is_empty() {
            return Command::of_line(end);
        }
        let mut line = std::mem::take(&mut self.partial);
        line.extend_from_slice(end);
        Command::of_line(&line)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn commands(chunks: &[&[u8]]) -> Vec<Command> {
        let mut framer = Framer::default();
        let mut found = Vec::new();
        for chunk in chunks {
            framer.feed(chunk, |command| found.push(command));
        }
        found.extend(framer.finish());
        found
    }

    #[test]
    fn lines_are_commands_in_any_case_with_white_space_and_either_ending() {
        assert_eq!(
            commands(&[b"WHY\nwho\r\n  Where \t\r\nquit\n"]),
            [Command::Why, Command::Who, Command::Where, Command::Quit]
        );
    }

    #[test]
    fn split_commands_are_whole_and_an_unended_last_one_counts() {
        assert_eq!(commands(&[b"W", b"H", b"Y\r", b"\nWHO"]), [Command::Why, Command::Who]);
    }

    #[test]
    fn anything_else_is_invalid() {
        for bad in [&b"\n"[..], b"WHOM\n", b"WH\0\n", b"\xff\xfe\n", b"W HO\n", b"\xe2\x80\xa8\n"] {
            assert_eq!(commands(&[bad]), [Command::Invalid], "{bad:?}");
        }
        assert_eq!(commands(&[b""]), []);
    }

    #[test]
    fn nothing_is_answered_after_a_quit() {
        assert_eq!(commands(&[b"QUIT\nWHY\n", b"WHY\n"]), [Command::Quit]);
    }

    #[test]
    fn a_long_line_ends_the_connection_with_its_end_or_without() {
        let limit = [b' '; MAX_LINE_LEN - 3];
        assert_eq!(commands(&[&limit, b"WHY", b"\n"]), [Command::Why]);
        assert_eq!(commands(&[&limit, b"WHY", b" ", b"\nWHY\n"]), [Command::TooLong]);
        assert_eq!(commands(&[b"WHY\n", &[b'x'; 513]]), [Command::Why, Command::TooLong]);
    }

    fn session() -> impl Strategy<Value = Vec<u8>> {
        let words = ["WHY", "who", "Where", "QUIT", "x", " ", "\r", "\n", "\n", "\r\n", "\u{e9}"];
        let piece = prop_oneof![
            20 => proptest::sample::select(words.to_vec()).prop_map(|w| w.as_bytes().to_vec()),
            3 => proptest::collection::vec(any::<u8>(), 0..8),
            1 => (500usize..520).prop_map(|len| vec![b'W'; len]),
        ];
        proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_split_makes_no_difference(
            bytes in session(), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|i| i.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(commands(&chunks), commands(&[&bytes]));
        }
    }
}
