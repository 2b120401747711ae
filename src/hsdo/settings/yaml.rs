//! YAML as texts and maps: HSDO's file, and the one setting that is a map.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A value as HSDO's settings are.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// A scalar; empty for null.
    Text(String),
    /// A `true` or `false` without quotes, which is no text to HSDO.
    Bool(bool),
    Map(Vec<Entry>),
    /// What no setting of HSDO is.
    List,
}

/// Without the texts: a password may be among them.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text"),
            Self::Bool(_) => f.write_str("Bool"),
            Self::Map(entries) => f.debug_list().entries(entries).finish(),
            Self::List => f.write_str("List"),
        }
    }
}

/// A member of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub line: usize,
    pub value: Value,
}

/// What is wrong with a text, and in which line.
#[derive(Debug, PartialEq, Eq)]
pub struct SyntaxError {
    pub line: usize,
    pub message: String,
}

/// Reads a text, of which JSON is a kind. An empty one is an empty text.
pub fn parse(text: &str) -> Result<Value, SyntaxError> {
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().and_then(|location| usize::try_from(location.line()).ok());
        SyntaxError { line: line.unwrap_or(1), message: error.to_string() }
    })
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seen;
        impl<'de> Visitor<'de> for Seen {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number, true, false or a map")
            }

            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.to_owned()))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
                Ok(Value::Text(number.to_string()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
                Ok(Value::Text(number.to_string()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
                Ok(Value::Text(number.to_string()))
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Text(String::new()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    let line = usize::try_from(key.referenced.line()).unwrap_or(0);
                    entries.push(Entry { key: key.value, line, value: map.next_value()? });
                }
                Ok(Value::Map(entries))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                while seq.next_element::<Value>()?.is_some() {}
                Ok(Value::List)
            }
        }
        deserializer.deserialize_any(Seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn scalars_are_texts_and_keys_know_their_lines() {
        let parsed =
            parse("# c\na: 1\nb: \"x\"\nc: True\nd:\n  e: 0.5\n\nf:\ng: [1, 2]\n").unwrap();
        let Value::Map(entries) = parsed else { panic!("{parsed:?}") };
        let lines: Vec<_> = entries.iter().map(|e| (e.key.as_str(), e.line)).collect();
        assert_eq!(lines, [("a", 2), ("b", 3), ("c", 4), ("d", 5), ("f", 8), ("g", 9)]);
        let values: Vec<_> = entries.into_iter().map(|e| e.value).collect();
        assert_eq!(values[..3], [text("1"), text("x"), Value::Bool(true)]);
        let inner = vec![Entry { key: "e".into(), line: 6, value: text("0.5") }];
        assert_eq!(values[3..], [Value::Map(inner), text(""), Value::List]);
    }

    #[test]
    fn json_is_read_and_nothing_is_an_empty_text() {
        let json = parse(r#"{"web": {"baseName": "srv", "serverPort": "80"}}"#).unwrap();
        assert!(matches!(json, Value::Map(entries) if entries[0].key == "web"));
        for nothing in ["", " \n", "# soon\n", "~"] {
            assert_eq!(parse(nothing), Ok(text("")), "{nothing:?}");
        }
    }

    #[test]
    fn what_is_hostile_is_an_error() {
        let deep = "[".repeat(100_000);
        let doubled = |n| format!("a{}: &a{} [*a{n}, *a{n}, *a{n}, *a{n}]\n", n + 1, n + 1);
        let laughs: String = (0..30).map(doubled).collect();
        let laughs = format!("a0: &a0 [x]\n{laughs}");
        for bad in
            [deep.as_str(), &laughs, "a: 1\na: 2\n", "a: 1\n---\nb: 2\n", "a: 'x\n", "? [a]\n: b\n"]
        {
            let start: String = bad.chars().take(20).collect();
            let error = parse(bad).expect_err(&start);
            assert!(error.line > 0 && !error.message.is_empty(), "{error:?}");
        }
    }
}
