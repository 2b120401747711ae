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
}

impl Change {
    /// Whether it is about this setting, or one of this section.
    pub fn is_of(&self, path: &str) -> bool {
        is_within(&self.path, path)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".into());
        write!(f, "{} is {}, was {}", self.path, shown(&self.after), shown(&self.before))
    }
}

/// What differs between two readings, in the order of the second.
pub fn changes(before: &[Effective], after: &[Effective]) -> Vec<Change> {
    let (old, new) = (values(before), values(after));
    let gone = before.iter().filter(|e| !new.contains_key(e.path.as_str()));
    let paths = after.iter().chain(gone).map(|effective| &effective.path);
    let value = |all: &HashMap<&str, Option<&String>>, path: &str| {
        all.get(path).copied().flatten().cloned()
    };
    let change = |path: &String| Change {
        path: path.clone(),
        before: value(&old, path),
        after: value(&new, path),
    };
    paths.map(change).filter(|change| change.before != change.after).collect()
}

/// The first of a path, should there be several.
fn values(all: &[Effective]) -> HashMap<&str, Option<&String>> {
    all.iter().rev().map(|e| (e.path.as_str(), e.value.as_ref())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;

    fn effective(values: &[(&str, &str)]) -> Vec<Effective> {
        let effective = |(path, value): &(&str, &str)| Effective {
            path: (*path).to_owned(),
            value: Some((*value).to_owned()),
            written: None,
            origin: Origin::Default,
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
}
