//! Entries as text: one JSON object a line for programs, a short look for people.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::store::{Entry, Key, MAX_VALUE_LEN};
use crate::text::one_line;

/// A line of an export: text as it is, anything else in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    pub key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
}

/// An entry with all that the store knows of it.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    #[serde(flatten)]
    line: Line,
    created: u64,
    modified: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
}

impl Line {
    pub(super) fn of(entry: &Entry) -> Self {
        let (value, value_base64) = match std::str::from_utf8(&entry.value) {
            Ok(text) => (Some(text.to_owned()), None),
            Err(_) => (None, Some(BASE64.encode(&entry.value))),
        };
        Self { key: entry.key.to_string(), value, value_base64 }
    }

    fn parse(text: &[u8]) -> Result<(Key, Vec<u8>), String> {
        let line: Self = serde_json::from_slice(text).map_err(|error| describe(&error))?;
        let key: Key = line.key.parse().map_err(|error| format!("{error}"))?;
        let value = match (line.value, line.value_base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(text)) => BASE64
                .decode(text.as_bytes())
                .map_err(|error| format!("value_base64 of {key:?} is not base64: {error}"))?,
            (Some(_), Some(_)) => {
                return Err(format!("{:?} has both value and value_base64", key.as_str()));
            }
            (None, None) => {
                return Err(format!("{:?} has neither value nor value_base64", key.as_str()));
            }
        };
        if value.len() > MAX_VALUE_LEN {
            return Err(format!(
                "the value of {:?} is {} bytes; at most {MAX_VALUE_LEN} are allowed",
                key.as_str(),
                value.len()
            ));
        }
        Ok((key, value))
    }
}

impl Shown {
    pub(super) fn of(entry: &Entry) -> Self {
        Self {
            line: Line::of(entry),
            created: entry.created.0,
            modified: entry.modified.0,
            lease: entry.lease.map(|lease| lease.to_string()),
        }
    }
}

/// Reads a whole export; or answers every bad line, with its number.
pub(super) fn parse_all(text: &[u8]) -> Result<BTreeMap<Key, Vec<u8>>, Vec<String>> {
    let mut entries = BTreeMap::new();
    let mut lines: BTreeMap<Key, usize> = BTreeMap::new();
    let mut problems = Vec::new();
    for (number, text) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        if text.trim_ascii().is_empty() {
            continue;
        }
        match Line::parse(text) {
            Err(problem) => problems.push(format!("line {number}: {problem}")),
            Ok((key, value)) => {
                if let Some(first) = lines.insert(key.clone(), number) {
                    problems.push(format!("line {number}: {key:?} is in line {first} already"));
                }
                entries.insert(key, value);
            }
        }
    }
    if problems.is_empty() { Ok(entries) } else { Err(problems) }
}

/// The beginning of a value in one line, without anything that a terminal would obey.
pub(super) fn preview(value: &[u8]) -> String {
    const LONGEST: usize = 60;
    let Ok(text) = std::str::from_utf8(value) else {
        return format!("({} of binary data)", super::bytes(value.len()));
    };
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => one_line(&text[..end]).into_owned() + "…",
        None => one_line(text).into_owned(),
    }
}

/// serde_json counts the lines of its own input, which is one line.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    format!("{text} (column {})", error.column())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::store::Revision;

    fn entry(key: &str, value: Vec<u8>) -> Entry {
        let revision = Revision(1);
        let key = key.parse().unwrap();
        Entry { key, value: Bytes::from(value), created: revision, modified: revision, lease: None }
    }

    proptest! {
        #[test]
        fn any_value_comes_back(values in prop::collection::vec(any::<Vec<u8>>(), 0..8)) {
            let mut text = String::new();
            let mut wanted = BTreeMap::new();
            for (number, value) in values.into_iter().enumerate() {
                let entry = entry(&format!("k/{number}\u{e4}\""), value.clone());
                text += &(serde_json::to_string(&Line::of(&entry)).unwrap() + "\n");
                wanted.insert(entry.key, value);
            }
            prop_assert_eq!(parse_all(text.as_bytes()), Ok(wanted));
        }
    }

    #[test]
    fn every_bad_line_is_said_with_its_number() {
        let text = [
            r#"{"key":"a","value":"1"}"#,
            "",
            "nonsense",
            r#"{"key":"","value":"1"}"#,
            r#"{"key":"b"}"#,
            r#"{"key":"b","value":"","value_base64":""}"#,
            r#"{"key":"b","value_base64":"%%"}"#,
            r#"{"key":"a","value":"2"}"#,
            r#"{"key":"b","value":"","lease":1}"#,
        ];
        let problems = parse_all(text.join("\n").as_bytes()).unwrap_err();
        let numbers: Vec<&str> = problems.iter().map(|p| p.split(':').next().unwrap()).collect();
        let wanted: Vec<String> = (3..=9).map(|n| format!("line {n}")).collect();
        assert_eq!(numbers, wanted, "{problems:#?}");
        assert!(parse_all(b"{\"key\":\"a\",\"value\":\"\xff\"}").is_err());
    }

    #[test]
    fn a_preview_is_one_harmless_line() {
        assert_eq!(preview(b"a\nb\x1b[31m"), r"a\nb\u{1b}[31m");
        assert_eq!(preview(&[0xff; 3]), "(3 bytes of binary data)");
        assert_eq!(preview("\u{e4}".repeat(100).as_bytes()).chars().count(), 61);
    }
}
