use std::time::Duration;

use super::{RejectionKind, SocketAddress};

/// The result of a conversation with HAProxy.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a conversation with HAProxy failed. What one command was answered is a [`super::Rejection`].
///
/// Logs and reports have room for one line, so that each says its cause itself and has no `source`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot connect to HAProxy at {address}: {error}")]
    Connect { address: SocketAddress, error: std::io::Error },
    #[error("HAProxy at {address} did not {step} within {after:?}")]
    Timeout { address: SocketAddress, step: String, after: Duration },
    /// Early end of a stream; commands whose replies are missing may have been carried out.
    #[error("HAProxy at {address} closed the connection: {answered} of {sent} commands answered")]
    Closed { address: SocketAddress, answered: usize, sent: usize },
    #[error("the connection to HAProxy at {address} broke: {error}")]
    Broken { address: SocketAddress, error: std::io::Error },
    #[error("{address} does not speak HAProxy's Runtime API: it said {said:?}")]
    NotHaproxy { address: SocketAddress, said: String },
    #[error("{0} is HAProxy's master CLI")]
    IsMaster(SocketAddress),
    #[error("{0} is a stats socket, not HAProxy's master CLI")]
    IsNotMaster(SocketAddress),
    #[error("the worker {pid} went away while {address} was asked for it")]
    NoWorker { address: SocketAddress, pid: u32 },
    #[error("the process {pid} at {address} is stopping")]
    Stopping { address: SocketAddress, pid: u32 },
    #[error("HAProxy at {address} says that a line of {bytes} bytes is too long")]
    LineTooLong { address: SocketAddress, bytes: usize },
    #[error("the command {command:?} is {problem}")]
    BadCommand { command: String, problem: &'static str },
    #[error("a reply of HAProxy at {address} is over {limit} bytes")]
    ReplyTooLarge { address: SocketAddress, limit: usize },
    #[error("HAProxy at {address} sent more replies than it was sent commands")]
    TooManyReplies { address: SocketAddress },
    #[error("HAProxy at {address} refused {command:?}: {reply}")]
    Refused { address: SocketAddress, command: String, reply: String, kind: RejectionKind },
    #[error("HAProxy at {address} answered {command:?} in an unknown form: {error}")]
    Malformed { address: SocketAddress, command: String, error: ParseError },
}

/// A reply that does not read as its command's manual says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, {shown:?}: {problem}")]
pub struct ParseError {
    /// Counted from 1.
    pub line: usize,
    /// The line, cut to a length that is safe to print.
    pub shown: String,
    pub problem: String,
}

impl Error {
    /// Trying again later may help: HAProxy is away, restarting or overloaded.
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. }
                | Self::Timeout { .. }
                | Self::Closed { .. }
                | Self::Broken { .. }
                | Self::NoWorker { .. }
                | Self::Stopping { .. }
        )
    }

    /// What to do about it, in a sentence fragment.
    pub fn remedy(&self) -> Option<String> {
        use std::io::ErrorKind;
        let text = match self {
            Self::Connect { address, error } => match (error.kind(), address) {
                (ErrorKind::PermissionDenied, _) => "run lbctl as a user who may write to the \
                     socket, or add `mode 660 group GROUP` to HAProxy's `stats socket` line"
                    .to_owned(),
                (ErrorKind::NotFound | ErrorKind::ConnectionRefused, address) => {
                    format!("start HAProxy with {}", configuration_of(address))
                }
                _ => return None,
            },
            Self::Timeout { .. } => "see whether HAProxy is overloaded, and whether \
                 `stats maxconn` (10 connections) is used up"
                .to_owned(),
            Self::NotHaproxy { address, .. } => {
                format!("name the address that HAProxy has in {}", configuration_of(address))
            }
            Self::IsMaster(address) => format!("write it as `master:{address}`"),
            Self::IsNotMaster(SocketAddress::Master(address)) => format!("write it as `{address}`"),
            Self::LineTooLong { .. } => {
                "remove `tune.bufsize` from HAProxy's `global` section, or set it to 16384 or more"
                    .to_owned()
            }
            Self::Refused { kind, .. } => return kind.remedy_without_command(),
            _ => return None,
        };
        Some(text)
    }
}

/// The part of HAProxy's configuration, or of its command line, that makes an address answer.
fn configuration_of(address: &SocketAddress) -> String {
    match address {
        SocketAddress::Unix(_) | SocketAddress::Abstract(_) => {
            format!("`stats socket {address} level admin` in `global`")
        }
        SocketAddress::Tcp { port, .. } => {
            format!("`stats socket ipv4@127.0.0.1:{port} level admin` in `global`")
        }
        SocketAddress::Master(address) => format!("`haproxy -W -S {address}`"),
    }
}
