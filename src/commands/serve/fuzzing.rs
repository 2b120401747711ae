//! What a client may send.

use super::protocol::{Command, Framer, MAX_LINE_LEN};
use super::proxy::{Header, header};

/// What follows a PROXY header changes nothing, and no start of one is another.
pub fn proxy_header(data: &[u8]) {
    let whole = header(data);
    match &whole {
        Header::Complete { len, .. } => {
            assert!(*len <= data.len(), "it is longer than what was sent");
            assert_eq!(header(&data[..*len]), whole, "what follows it changes it");
        }
        Header::Incomplete => {
            let claimed = data.get(14..16).filter(|_| data[0] != b'P');
            let len = claimed.map_or(0, |len| u16::from_be_bytes([len[0], len[1]]));
            assert!(len <= 4096, "{len} bytes more would be waited for");
        }
        Header::Invalid(_) => {}
    }
    let cuts = (0..data.len().min(256)).chain([data.len() / 2, data.len().saturating_sub(1)]);
    for cut in cuts.filter(|cut| *cut <= data.len()) {
        match header(&data[..cut]) {
            Header::Incomplete => {}
            Header::Complete { len, source } => {
                assert_eq!(whole, Header::Complete { len, source }, "cut at {cut} it is another");
            }
            Header::Invalid(why) => {
                assert!(matches!(whole, Header::Invalid(_)), "cut at {cut} it is none: {why}");
            }
        }
    }
}

/// Commands are those of the plain reading, line by line, however the bytes arrive. The first byte
/// is the length of a chunk.
pub fn client_lines(data: &[u8]) {
    let Some((chunk, bytes)) = data.split_first() else { return };
    let mut framer = Framer::default();
    let mut found = Vec::new();
    for chunk in bytes.chunks(1 + usize::from(*chunk)) {
        framer.feed(chunk, |command| found.push(command));
    }
    found.extend(framer.finish());
    assert_eq!(found, plainly_read(bytes));
}

fn plainly_read(bytes: &[u8]) -> Vec<Command> {
    let mut commands = Vec::new();
    let mut lines = bytes.split(|byte| *byte == b'\n').peekable();
    while let Some(line) = lines.next() {
        let is_last = lines.peek().is_none();
        if line.len() > MAX_LINE_LEN {
            commands.push(Command::TooLong);
        } else if !is_last || !line.trim_ascii().is_empty() {
            commands.push(Command::of_line(line));
        }
        if commands.last().is_some_and(|command| command.ends()) {
            break;
        }
    }
    commands
}
