use super::{Kind, Reader, Setting};
use crate::daemon::telemetry::{LogFormat, LogLevel};

/// How and how much is logged: `log.format` and `log.level`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogSettings {
    pub format: LogFormat,
    pub level: LogLevel,
}

impl LogSettings {
    pub fn read(reader: &mut Reader) -> Self {
        Self {
            format: reader.get("log.format", LogFormat::default()),
            level: reader.get("log.level", LogLevel::default()),
        }
    }
}

/// Settings that are one of a few words.
macro_rules! choice_setting {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            const KINDS: &'static [Kind] = &[Kind::Text];

            fn parse(text: &str) -> Result<Self, String> {
                super::setting::parse_choice(text)
            }

            fn show(&self) -> String {
                super::setting::show_choice(self)
            }
        }
    )*};
}

choice_setting!(LogFormat, LogLevel);
