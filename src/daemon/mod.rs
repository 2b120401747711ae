//! How a daemon lives and dies: tasks whose end means something, two-stage shutdown, readiness with
//! reasons, backoff that logs turns and not tries, telemetry and the admin HTTP server.

mod admin;
mod backoff;
mod hosts;
mod log_writer;
mod notify;
mod open_files;
mod readiness;
mod reload;
mod run;
mod settings;
mod status;
mod tasks;
pub mod telemetry;

pub use backoff::{Backoff, Health};
pub use open_files::raise_open_files;
pub use readiness::{Gate, Readiness};
pub use reload::Reload;
pub use run::{Context, run, until_signal};
pub use settings::{AdminAddress, DaemonArgs, Options};
pub use status::StatusBoard;
pub use tasks::{OwnedTask, Tasks, spawn_owned};
