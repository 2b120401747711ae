//! HAProxy's Runtime API: addresses of its sockets, typed commands, matched replies and the state
//! it reports. Facts and texts follow the management guide, section 9.3.

mod client;
mod command;
mod connection;
mod error;
mod framing;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod observe;
mod observed;
mod old_workers;
mod parse;
mod reply;
mod socket;
mod versions;

pub use client::{Client, Session, Timeouts};
pub use command::{AdminState, Command, ServerRef};
pub use error::{Error, ParseError, Result};
pub use observed::{AdminFlags, Features, Glance, Glances, Observed, ObservedServer, ProcessInfo};
pub use reply::{CommandResult, Rejection, RejectionKind};
pub use socket::{AbstractName, SocketAddress, SocketAddressError};
pub use versions::ADDRESS_SETTLES;
