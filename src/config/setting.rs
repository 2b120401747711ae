use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::model;

/// The TOML types a setting may be written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Integer,
    Float,
    Bool,
    /// A list of texts; in the environment and in flags, separated by commas.
    List,
}

impl Kind {
    pub(super) fn wanted(self) -> &'static str {
        match self {
            Self::Text => "a text in quotes",
            Self::Integer => "a whole number",
            Self::Float => "a number",
            Self::Bool => "true or false",
            Self::List => "a list of texts",
        }
    }
}

/// A value that a setting can have: the file, the environment and flags all go through its text.
pub trait Setting: Sized {
    /// How it may be written in TOML, the preferred way first.
    const KINDS: &'static [Kind];

    fn parse(text: &str) -> Result<Self, String>;

    /// As `config show` prints it; a secret answers [`MASK`].
    fn show(&self) -> String;

    /// What differs between two values, also where [`Self::show`] masks that. Never printed.
    fn identity(&self) -> String {
        self.show()
    }

    /// As it is written in TOML; `None` for what has a secret in it.
    fn write(&self) -> Option<String> {
        let shown = self.show();
        match Self::KINDS.first() {
            _ if shown.contains(MASK) => None,
            Some(Kind::Integer | Kind::Float | Kind::Bool) => Some(shown),
            _ => Some(toml::Value::String(shown).to_string()),
        }
    }
}

/// What is shown in place of a secret.
pub const MASK: &str = "***";

/// Settings that are read by `FromStr` and shown by `Display`.
macro_rules! from_str_setting {
    ($($type:ty: $kinds:expr;)*) => {$(
        impl $crate::config::Setting for $type {
            const KINDS: &'static [$crate::config::Kind] = &$kinds;

            fn parse(text: &str) -> Result<Self, String> {
                text.parse().map_err(|error| $crate::config::describe::<$type>(text, &error))
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

pub(crate) use from_str_setting;

/// The parse error of std types says neither the text nor what was expected.
pub(crate) fn describe<T>(text: &str, error: &dyn fmt::Display) -> String {
    let wanted = match std::any::type_name::<T>() {
        "bool" => "true or false",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number of 0 or more",
        name if name.ends_with("SocketAddr") => "an IP:PORT",
        name if name.ends_with("IpAddr") => "an IP address",
        // The project's own types explain themselves.
        _ => return error.to_string(),
    };
    format!("{text:?} is not {wanted}")
}

from_str_setting! {
    bool: [Kind::Bool];
    u16: [Kind::Integer];
    u32: [Kind::Integer];
    u64: [Kind::Integer];
    usize: [Kind::Integer];
    String: [Kind::Text];
    IpAddr: [Kind::Text];
    SocketAddr: [Kind::Text];
    model::BackendName: [Kind::Text];
    model::CandidateId: [Kind::Text];
    model::EndpointId: [Kind::Text];
    model::HaproxyName: [Kind::Text];
    model::Label: [Kind::Text];
    model::ServerAddress: [Kind::Text];
    model::Weight: [Kind::Integer];
}

impl Setting for f64 {
    const KINDS: &'static [Kind] = &[Kind::Float, Kind::Integer];

    fn parse(text: &str) -> Result<Self, String> {
        let number: Option<Self> = text.parse().ok();
        // Infinities and "not a number" satisfy no range check that a setting could have.
        number.filter(|n| n.is_finite()).ok_or_else(|| format!("{text:?} is not a number"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for PathBuf {
    const KINDS: &'static [Kind] = &[Kind::Text];

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("is an empty path".into()) } else { Ok(text.into()) }
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Setting for Duration {
    const KINDS: &'static [Kind] = &[Kind::Text, Kind::Integer];

    fn parse(text: &str) -> Result<Self, String> {
        model::parse_duration(text)
    }

    fn show(&self) -> String {
        model::format_duration(*self)
    }
}

impl<T: Setting> Setting for Vec<T> {
    const KINDS: &'static [Kind] = &[Kind::List];

    fn parse(text: &str) -> Result<Self, String> {
        match text.contains(ITEM_END) {
            true => text.split_terminator(ITEM_END).map(T::parse).collect(),
            false => text
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(T::parse)
                .collect(),
        }
    }

    fn show(&self) -> String {
        self.iter().map(T::show).collect::<Vec<_>>().join(",")
    }

    fn identity(&self) -> String {
        self.iter().map(|item| item.identity() + "\u{1f}").collect()
    }

    fn write(&self) -> Option<String> {
        let items: Vec<String> = self.iter().map(T::write).collect::<Option<_>>()?;
        Some(format!("[{}]", items.join(", ")))
    }
}

/// Ends each item of a list from the file, so that an item may have a comma in it.
const ITEM_END: char = '\u{1f}';

pub(super) fn join<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    items.into_iter().flat_map(|item| [item, "\u{1f}"]).collect()
}

/// Settings that are one of a few words.
macro_rules! choice_setting {
    ($($type:ty),*) => {$(
        impl $crate::config::Setting for $type {
            const KINDS: &'static [$crate::config::Kind] = &[$crate::config::Kind::Text];

            fn parse(text: &str) -> Result<Self, String> {
                $crate::config::parse_choice(text)
            }

            fn show(&self) -> String {
                $crate::config::show_choice(self)
            }
        }
    )*};
}

pub(crate) use choice_setting;

/// Reads a setting that is one of a few words.
pub fn parse_choice<T: clap::ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| {
        let choices: Vec<String> = T::value_variants().iter().map(show_choice).collect();
        format!("{text:?} is none of {}", choices.join(", "))
    })
}

/// Writes such a setting as [`parse_choice`] reads it.
pub fn show_choice<T: clap::ValueEnum>(choice: &T) -> String {
    choice.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself: for the peer it is meant for and nobody else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl Setting for Secret {
    const KINDS: &'static [Kind] = &[Kind::Text];

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        MASK.into()
    }

    fn identity(&self) -> String {
        self.0.clone()
    }
}
