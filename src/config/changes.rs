use std::collections::HashMap;
use std::fmt;

use super::Effective;
use super::reader::is_within;

/// A setting that has another value than at the reading before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub path: String,
    /// `None`: it was not set.
    pub before: Option<String>,
    pub after: Option<String>,
    /// It is a secret, or has one in it, that differs.
    masked: bool,
}

impl Change {
    /// Whether it is about this setting, or one of this section.
    pub fn is_of(&self, path: &str) -> bool {
        is_within(&self.path, path)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.masked && self.before == self.after {
            return write!(f, "{} changed (its value is masked)", self.path);
        }
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".into());
        write!(f, "{} is {}, was {}", self.path, shown(&self.after), shown(&self.before))
    }
}

/// What differs between two readings, in the order of the second.
pub fn changes(before: &[Effective], after: &[Effective]) -> Vec<Change> {
    let (old, new) = (values(before), values(after));
    let (old_secrets, new_secrets) = (secrets(before), secrets(after));
    let secret = |all: &HashMap<&str, u64>, path: &str| all.get(path).copied();
    let gone = before.iter().filter(|e| !new.contains_key(e.path.as_str()));
    let paths = after.iter().chain(gone).map(|effective| &effective.path);
    let value = |all: &HashMap<&str, Option<&String>>, path: &str| {
        all.get(path).copied().flatten().cloned()
    };
    let change = |path: &String| Change {
        path: path.clone(),
        before: value(&old, path),
        after: value(&new, path),
        masked: secret(&old_secrets, path) != secret(&new_secrets, path),
    };
    let changed = |change: &Change| change.masked || change.before != change.after;
    paths.map(change).filter(changed).collect()
}

/// The first of a path, should there be several.
fn values(all: &[Effective]) -> HashMap<&str, Option<&String>> {
    all.iter().rev().map(|e| (e.path.as_str(), e.value.as_ref())).collect()
}

/// What stands for masked values.
fn secrets(all: &[Effective]) -> HashMap<&str, u64> {
    all.iter().rev().filter_map(|e| Some((e.path.as_str(), e.secret?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Origin, Secret};

    fn effective(values: &[(&str, &str)]) -> Vec<Effective> {
        let effective = |(path, value): &(&str, &str)| Effective {
            path: (*path).to_owned(),
            value: Some((*value).to_owned()),
            written: None,
            origin: Origin::Default,
            secret: None,
        };
        values.iter().map(effective).collect()
    }

    #[test]
    fn what_comes_goes_or_differs_is_a_change_and_nothing_else() {
        let before = effective(&[("a.x", "1"), ("a.y", "1"), ("a.z", "1")]);
        let after = effective(&[("a.new", "1"), ("a.x", "1"), ("a.y", "2")]);
        let shown: Vec<String> = changes(&before, &after).iter().map(Change::to_string).collect();
        assert_eq!(shown, ["a.new is 1, was not set", "a.y is 2, was 1", "a.z is not set, was 1"]);
        let all = changes(&before, &after);
        assert!(all[0].is_of("a") && all[0].is_of("a.new") && !all[0].is_of("a.ne"));
    }

    #[test]
    fn a_masked_value_that_differs_is_a_change_that_shows_nothing() {
        let secret = |text: &str| {
            let (password, url) = (Secret::new(text), format!("etcd://me:{text}@h/x"));
            let url: crate::store::StoreUrl = url.parse().unwrap();
            [
                Effective::new("a.password", Some(&password), Origin::Default),
                Effective::new("a.url", Some(&url), Origin::Default),
            ]
        };
        let shown: Vec<String> =
            changes(&secret("one"), &secret("two")).iter().map(Change::to_string).collect();
        let said = |path| format!("{path} changed (its value is masked)");
        assert_eq!(shown, [said("a.password"), said("a.url")]);
        assert_eq!(changes(&secret("one"), &secret("one")), []);
    }
}
