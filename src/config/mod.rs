//! Settings from defaults < another program's settings, where asked for < TOML file < `LBCTL_*`
//! environment < flags, with every mistake reported at once.
//!
//! Each command reads its settings by path, such as `discover.interval`; the environment's name for
//! it is `LBCTL_DISCOVER_INTERVAL`. Members of lists of tables (`discover.backends[0].name`) come
//! from the file alone.

mod changes;
mod document;
mod globals;
mod layer;
mod logging;
mod reader;
mod setting;
mod source;
#[cfg(test)]
mod tests;
mod unknown;
mod write;

pub use changes::{Change, changes};
pub use document::DEFAULT_FILE;
pub use globals::Globals;
pub use layer::Layer;
#[cfg(test)]
pub(crate) use layer::NoteKind;
pub use logging::{LogFormat, LogLevel, LogSettings};
pub use reader::{ConfigError, Reader};
pub use setting::{Kind, Secret, Setting, parse_choice, show_choice};
pub(crate) use setting::{choice_setting, describe, from_str_setting};
pub(crate) use source::named;
pub use source::{Effective, FlagText, Flags, Origin, Place};
pub use unknown::nearest;
pub use write::as_toml;

/// How the settings of one command are read.
#[derive(Debug, Clone, Copy)]
pub struct SettingsOf {
    /// Its table in the file; `None` where what it cannot do without comes from its flags alone.
    pub section: Option<&'static str>,
    pub read: fn(&mut Reader),
}

/// The top-level tables a file may have.
pub const SECTIONS: &[&str] = &["store", "log", "serve", "register", "discover", "sync-haproxy"];
