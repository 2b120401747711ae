use super::Reader;

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

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// How much is logged; each level has all of those before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// Debug and trace are for this program's own code: its libraries stay a level behind.
    pub(crate) fn directives(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "lbctl=debug,info",
            Self::Trace => "lbctl=trace,debug",
        }
    }
}

super::choice_setting!(LogFormat, LogLevel);
