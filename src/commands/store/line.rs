//! Entries as text: one JSON object a line for programs, a short look for people.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read as _};

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

/// The lines of an export that are none.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct BadLines {
    /// The first of them, each with its number.
    pub first: Vec<String>,
    pub count: usize,
}

impl BadLines {
    /// How many are told one by one.
    pub(super) const TOLD: usize = 20;

    /// How much of a problem, which may quote its line, is told.
    const LONGEST: usize = 300;

    fn add(&mut self, number: usize, problem: &str) {
        self.count += 1;
        if self.first.len() < Self::TOLD {
            let problem: String = problem.chars().take(Self::LONGEST).collect();
            self.first.push(format!("line {number}: {problem}"));
        }
    }
}

/// Over the longest line of an export: a key and a value of which every byte is written as six.
const MAX_LINE_LEN: usize = 2 * 1024 * 1024;

/// How many bytes the keys and values of one import may have together: they are all held in memory,
/// since nothing is written before the last line was read.
const MAX_BYTES: usize = 1024 * 1024 * 1024;

/// Reads a whole export; or answers its bad lines, at the latest when they are too much to hold.
pub(super) fn read_all(
    mut input: impl BufRead,
) -> io::Result<Result<BTreeMap<Key, Vec<u8>>, BadLines>> {
    let mut entries = BTreeMap::new();
    let mut lines: BTreeMap<Key, usize> = BTreeMap::new();
    let (mut bad, mut bytes, mut text) = (BadLines::default(), 0, Vec::new());
    for number in 1.. {
        text.clear();
        let most = MAX_LINE_LEN as u64 + 1;
        if input.by_ref().take(most).read_until(b'\n', &mut text)? == 0 {
            break;
        }
        if text.len() > MAX_LINE_LEN {
            bad.add(number, &format!("it is longer than {MAX_LINE_LEN} bytes"));
            break;
        }
        let text = text.strip_suffix(b"\n").unwrap_or(&text);
        if text.trim_ascii().is_empty() {
            continue;
        }
        match Line::parse(text) {
            Err(problem) => bad.add(number, &problem),
            Ok((key, value)) => {
                bytes += key.as_str().len() + value.len();
                if let Some(first) = lines.insert(key.clone(), number) {
                    bad.add(number, &format!("{key:?} is in line {first} already"));
                }
                entries.insert(key, value);
            }
        }
        if bytes > MAX_BYTES {
            let problem = format!("more than {MAX_BYTES} bytes of keys and values: split it");
            bad.add(number, &problem);
            break;
        }
    }
    Ok(if bad.count == 0 { Ok(entries) } else { Err(bad) })
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
            prop_assert_eq!(read_all(text.as_bytes()).unwrap(), Ok(wanted));
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
        let bad = |text: &[u8]| read_all(text).unwrap().unwrap_err();
        let problems = bad(text.join("\n").as_bytes()).first;
        let numbers: Vec<&str> = problems.iter().map(|p| p.split(':').next().unwrap()).collect();
        let wanted: Vec<String> = (3..=9).map(|n| format!("line {n}")).collect();
        assert_eq!(numbers, wanted, "{problems:#?}");
        assert_eq!(bad(b"{\"key\":\"a\",\"value\":\"\xff\"}").count, 1);
        let many = bad("x\n".repeat(10_000).as_bytes());
        assert_eq!((many.count, many.first.len()), (10_000, BadLines::TOLD));
    }

    #[test]
    fn what_has_no_end_is_read_no_further_than_it_may() {
        let endless = || std::io::BufReader::new(std::io::repeat(b'x'));
        let bad = read_all(endless()).unwrap().unwrap_err();
        assert!(bad.count == 1 && bad.first[0].contains("longer than"), "{bad:?}");
        let value = "\u{1}".repeat(MAX_VALUE_LEN);
        let key = "\u{e4}".repeat(512);
        let longest = serde_json::to_string(&Line::of(&entry(&key, value.clone().into()))).unwrap();
        let read = read_all(longest.as_bytes()).unwrap().unwrap();
        assert_eq!(read.into_values().next(), Some(value.into()));
    }

    #[test]
    fn a_preview_is_one_harmless_line() {
        assert_eq!(preview(b"a\nb\x1b[31m"), r"a\nb\u{1b}[31m");
        assert_eq!(preview(&[0xff; 3]), "(3 bytes of binary data)");
        assert_eq!(preview("\u{e4}".repeat(100).as_bytes()).chars().count(), 61);
    }
}
