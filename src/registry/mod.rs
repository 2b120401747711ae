//! Servers that announce themselves: writing a registration, leaving, and reading a registry.
//!
//! A registration is one key, `registry/<backend>/<id>`, on a lease of the process that wrote it:
//! it vanishes with the process. Leaving is said first (`leaving: true`), so that the server is
//! drained before it goes.

mod connect;
mod departure;
mod listing;
mod registrar;

pub use connect::{open_patiently, open_ready};
pub use departure::{Departure, departure};
pub use listing::{Registrations, Unreadable, read, read_all};
pub use registrar::{Left, Registrar, RegistrarState, Until};
