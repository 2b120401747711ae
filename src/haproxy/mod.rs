//! HAProxy's Runtime API: addresses of its sockets, typed commands, matched replies and the state
//! it reports. Facts and texts follow the management guide, section 9.3.

mod command;
mod observed;
mod socket;

pub use command::{AdminState, Command, ServerRef};
pub use observed::{AdminFlags, Observed, ObservedServer, ProcessInfo};
pub use socket::{SocketAddress, SocketAddressError};
