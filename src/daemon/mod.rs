//! How a daemon lives and dies: tasks whose end means something, two-stage shutdown, readiness with
//! reasons, backoff that logs turns and not tries, telemetry and the admin HTTP server.

mod admin;
mod backoff;
mod health;
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
mod ticks;

pub use backoff::Backoff;
pub use health::{Health, Healths};
pub use open_files::raise_open_files;
pub use readiness::{Gate, Readiness};
pub use reload::Reload;
pub use run::{Context, run, until_signal};
pub use settings::{AdminAddress, DaemonArgs, Options};
pub use status::StatusBoard;
pub use tasks::{OwnedTask, Tasks, spawn_owned};
pub use ticks::last_tick;
