use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest key in bytes, without the store's own prefix.
const MAX_KEY_LEN: usize = 1024;

/// A key or prefix that was refused, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key {shown:?} {problem}")]
pub struct KeyError {
    shown: String,
    problem: &'static str,
}

/// A key: parts joined by `/`, UTF-8, up to 1 KiB, no empty part, no control character. Relative to
/// the prefix in the store's URL; a leading `/` is dropped when it is parsed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

impl Key {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part behind the last `/`.
    pub fn last(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, last)| last)
    }
}

/// What keys have in front: whole parts, so that `a` holds `a/b` but neither `ab` nor `a` itself.
/// The root, an empty prefix, holds every key.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(String);

impl Prefix {
    /// Holds every key.
    pub fn root() -> Self {
        Self::default()
    }

    /// From parts that are known to be sound: literals and parsed names.
    pub(crate) fn of<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        Self(parts.into_iter().collect::<Vec<_>>().join("/"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What every key under the prefix starts with, byte for byte: empty for the root.
    pub fn start(&self) -> String {
        if self.0.is_empty() { String::new() } else { format!("{}/", self.0) }
    }

    pub fn contains(&self, key: &Key) -> bool {
        self.strip(key).is_some()
    }

    /// The rest of a key behind this prefix.
    pub fn strip<'k>(&self, key: &'k Key) -> Option<&'k str> {
        if self.0.is_empty() {
            return Some(&key.0);
        }
        key.0.strip_prefix(&self.0)?.strip_prefix('/')
    }

    /// A key under the prefix, from a part that is known to be sound: a literal or a parsed name.
    pub(crate) fn key(&self, part: &str) -> Key {
        Key(format!("{}{part}", self.start()))
    }
}

fn check(text: &str) -> Result<(), KeyError> {
    let fail = |problem| Err(KeyError { shown: text.chars().take(60).collect(), problem });
    if text.is_empty() {
        return fail("is empty");
    }
    if text.len() > MAX_KEY_LEN {
        return fail("is longer than 1024 bytes");
    }
    if text.chars().any(char::is_control) {
        return fail("has a control character");
    }
    if text.split('/').any(str::is_empty) {
        return fail("has an empty part: write it as PART/PART");
    }
    Ok(())
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let text = text.strip_prefix('/').unwrap_or(text);
        check(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Key {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<Key> for String {
    fn from(key: Key) -> String {
        key.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Prefix {
    type Err = KeyError;

    /// `/`, the empty text and a trailing `/` are fine here.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let text = text.strip_prefix('/').unwrap_or(text);
        let text = text.strip_suffix('/').unwrap_or(text);
        if !text.is_empty() {
            check(text)?;
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_whole_parts_only() {
        let prefix: Prefix = "/a".parse().unwrap();
        let held = |key: &str| prefix.contains(&key.parse().unwrap());
        assert!(held("a/b") && held("/a/b/c"));
        assert!(!held("ab") && !held("a") && !held("b/a/b"));
        assert!(Prefix::root().contains(&"a".parse().unwrap()));
    }

    #[test]
    fn malformed_keys_are_refused() {
        for bad in ["", "/", "a//b", "a/", "//a", "a\nb", "a\0", &"x".repeat(1025)] {
            assert!(bad.parse::<Key>().is_err(), "{bad:?} was accepted");
        }
    }
}
