//! Settings from defaults < TOML file < `LBCTL_*` environment < flags, with every mistake reported
//! at once.
//!
//! Each command reads its settings by path, such as `discover.interval`; the environment's name for
//! it is `LBCTL_DISCOVER_INTERVAL`. Members of lists of tables (`discover.backends[0].name`) come
//! from the file alone.

mod file;
mod globals;
mod reader;
mod setting;

pub use globals::Globals;
pub use reader::{ConfigError, Effective, Flags, Origin, Reader};
pub use setting::{Kind, Secret, Setting};

/// The top-level tables a file may have.
pub const SECTIONS: &[&str] =
    &["store", "log", "admin", "serve", "register", "discover", "sync-haproxy", "status", "demo"];
