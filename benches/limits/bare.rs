//! The barest client of HAProxy's Runtime API: it writes lines of commands and reads the replies,
//! and neither checks nor remembers anything.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// An interactive connection.
#[derive(Debug)]
pub struct Bare(UnixStream);

/// As long as lbctl's own lines.
const LINE: usize = 12 * 1024;

impl Bare {
    pub fn connect(socket: &Path) -> Self {
        let mut bare = Self(UnixStream::connect(socket).unwrap());
        bare.0.write_all(b"prompt\n").unwrap();
        bare.read(0);
        bare
    }

    /// The reply to one command.
    pub fn ask(&mut self, command: &str) -> String {
        self.0.write_all(format!("{command}\n").as_bytes()).unwrap();
        self.read(1)
    }

    /// Sends commands, joined to lines.
    pub fn send(&mut self, commands: &[String]) {
        let (mut line, mut count) = (String::with_capacity(LINE), 0);
        for command in commands {
            if line.len() + command.len() >= LINE {
                self.flush(&mut line, &mut count);
            }
            line.push_str(command);
            line.push(';');
            count += 1;
        }
        self.flush(&mut line, &mut count);
    }

    fn flush(&mut self, line: &mut String, count: &mut usize) {
        if line.pop().is_some() {
            line.push('\n');
            self.0.write_all(line.as_bytes()).unwrap();
            self.read(*count);
        }
        line.clear();
        *count = 0;
    }

    /// Reads so many replies and the prompt behind them.
    fn read(&mut self, replies: usize) -> String {
        let mut text = Vec::with_capacity(64 * 1024);
        let mut chunk = [0; 64 * 1024];
        while !(text.ends_with(b"> ") && ended(&text) >= replies) {
            let len = self.0.read(&mut chunk).unwrap();
            assert!(len > 0, "HAProxy hung up after {:?}", String::from_utf8_lossy(&text));
            text.extend_from_slice(&chunk[..len]);
        }
        String::from_utf8(text).unwrap()
    }
}

/// Each reply ends with an empty line, and a prompt may stand before any.
fn ended(text: &[u8]) -> usize {
    let lines = text.split(|byte| *byte == b'\n');
    let whole = lines.map(|line| line.strip_prefix(b"> ").unwrap_or(line));
    whole.filter(|line| line.is_empty()).count() - 1
}

/// One command over a connection of its own.
pub fn alone(socket: &Path, command: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(format!("{command}\n").as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}
