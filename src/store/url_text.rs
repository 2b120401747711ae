//! The percent-coding and the query of a store URL.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The options behind `?`, each to be taken once.
#[derive(Debug, Default)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    /// Splits a text at its first `?`.
    pub(super) fn split(text: &str) -> Result<(&str, Self), String> {
        let Some((place, options)) = text.split_once('?') else {
            return Ok((text, Self::default()));
        };
        let mut found = BTreeMap::new();
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option
                .split_once('=')
                .ok_or_else(|| format!("the option {option:?} has no value"))?;
            if found.insert(name.to_owned(), decode(value)?).is_some() {
                return Err(format!("the option {name} is there twice"));
            }
        }
        Ok((place, Self(found)))
    }

    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// Refuses what was not taken.
    pub(super) fn finish(self, known: &[&str]) -> Result<(), String> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("unknown option {name} (there are {})", known.join(", "))),
        }
    }
}

/// Resolves `%40` and the like.
pub(super) fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .ok_or("a `%` is not followed by two hexadecimal digits: write a plain one as %25")?;
        bytes.push(byte);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 when decoded".into())
}

/// Escapes what would end a part of a URL.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '%' | '?' | '&' | '@' | ':' | '#' | ' ') || c.is_control() {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a String cannot fail.
                _ = write!(out, "%{byte:02X}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(text in any::<String>()) {
            prop_assert_eq!(decode(&encode(&text)).unwrap(), text);
        }
    }

    #[test]
    fn a_control_character_of_two_bytes_is_two_escapes() {
        assert_eq!(encode("a\u{85}b"), "a%C2%85b");
    }

    #[test]
    fn a_broken_escape_is_refused() {
        for bad in ["%", "a%4", "%zz", "%+1", "%ff"] {
            assert!(decode(bad).is_err(), "{bad} was accepted");
        }
    }
}
