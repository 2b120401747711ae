//! How a command fails: what its user reads and what the shell sees.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::process::ExitCode;

use crate::text::lines;

/// What a failure means to whoever started the command; the numbers are the process's exit codes
/// (69, 75 and 78 follow `sysexits.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Anything that has no code of its own.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The store or HAProxy is unavailable.
    Unavailable = 69,
    /// Another process won a race; trying again is the remedy.
    Race = 75,
    /// The configuration is wrong.
    Config = 78,
    /// Ended at once by a second SIGINT.
    Interrupted = 130,
    /// Ended at once by a second SIGTERM.
    Terminated = 143,
}

/// The result of running a command.
pub type CommandResult<T = ()> = Result<T, CommandError>;

/// A failure with its exit code and what to do about it.
#[derive(Debug)]
pub struct CommandError {
    kind: Kind,
    source: anyhow::Error,
    hints: Vec<String>,
    exit_code: Option<u8>,
}

impl CommandError {
    pub fn new(kind: Kind, source: impl Into<anyhow::Error>) -> Self {
        Self { kind, source: source.into(), hints: Vec::new(), exit_code: None }
    }

    /// A failure of the given kind from a sentence fragment.
    pub fn msg(kind: Kind, message: impl Into<String>) -> Self {
        Self::new(kind, anyhow::Error::msg(message.into()))
    }

    /// A wrong command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::msg(Kind::Usage, message)
    }

    /// Ends with the exit code of a wrapped command; nothing is printed.
    pub fn exit_code_of_child(code: u8) -> Self {
        let mut error = Self::msg(Kind::Failed, "");
        error.exit_code = Some(code);
        error
    }

    /// Adds a line that says what to do.
    #[must_use]
    pub fn hint(mut self, text: impl Into<String>) -> Self {
        self.hints.push(text.into());
        self
    }

    /// Puts a step in front of the cause.
    #[must_use]
    pub fn context(mut self, text: impl Into<String>) -> Self {
        self.source = self.source.context(text.into());
        self
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit_code.unwrap_or(self.kind as u8))
    }

    /// What is printed on stderr: the error, its causes, then the hints; empty for a child's code.
    pub fn report(&self) -> String {
        if self.exit_code.is_some() {
            return String::new();
        }
        let mut text = format!("error: {}\n", self.source);
        for cause in self.source.chain().skip(1) {
            // Writing to a String cannot fail.
            _ = writeln!(text, "caused by: {cause}");
        }
        for hint in &self.hints {
            _ = writeln!(text, "hint: {hint}");
        }
        // HAProxy's, etcd's and everybody's stored words are among them.
        lines(&text)
    }
}

impl From<anyhow::Error> for CommandError {
    fn from(source: anyhow::Error) -> Self {
        Self::new(Kind::Failed, source)
    }
}

impl From<std::io::Error> for CommandError {
    fn from(source: std::io::Error) -> Self {
        Self::new(Kind::Failed, source)
    }
}

/// An error with its causes in one line, each said once: what HTTP clients say themselves is
/// "dispatch failure" or "client error" and little else.
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let said = source.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_causes_and_hints_and_nothing_a_terminal_would_obey() {
        let cause = anyhow::Error::msg("it said \u{1b}[2J").context("no answer");
        let error = CommandError::new(Kind::Unavailable, cause).hint("start it");
        let report = error.report();
        assert_eq!(report, "error: no answer\ncaused by: it said \\u{1b}[2J\nhint: start it\n");
    }

    #[test]
    fn a_failed_connection_is_said_once() {
        let address = "/run/h.sock".parse().unwrap();
        let error = std::io::Error::other("refused");
        let error = crate::haproxy::Error::Connect { address, error };
        let report = CommandError::new(Kind::Unavailable, error).report();
        assert_eq!(report, "error: cannot connect to HAProxy at /run/h.sock: refused\n");
    }

    #[test]
    fn causes_are_said_once() {
        let inner = std::io::Error::other("connection refused");
        let outer = std::io::Error::other(Wrapped(inner));
        assert_eq!(chain(&outer), "dispatch failure: connection refused");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("dispatch failure")]
    struct Wrapped(#[source] std::io::Error);
}
