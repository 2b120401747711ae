use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use crate::model::GroupName;

/// Which Auto Scaling groups: `ITEM[,ITEM…]`, an item being `[REGION:]NAME` or
/// `[REGION:]tag:KEY=VALUE`. Names are of one group each; groups picked by tags have all the tags
/// that are given for their region. `\,` is a comma and `\\` a backslash of a name or a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsgSpec(Vec<Item>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    region: Option<String>,
    pick: Pick,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pick {
    Name(String),
    Tag(String, String),
}

/// What is asked for in one region.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wish {
    pub names: BTreeSet<String>,
    pub tags: BTreeSet<(String, String)>,
}

impl AsgSpec {
    /// Whether both may have a group in common. Which groups have a tag, nobody knows before.
    pub(in crate::commands::discover) fn may_share_with(&self, other: &Self) -> bool {
        let others = other.by_region();
        self.by_region().iter().any(|(region, wish)| {
            others.get(region).is_some_and(|other| {
                let tagged = !wish.tags.is_empty() || !other.tags.is_empty();
                tagged || !wish.names.is_disjoint(&other.names)
            })
        })
    }

    /// What is asked for, by region; `None` is the usual region.
    pub(super) fn by_region(&self) -> BTreeMap<Option<String>, Wish> {
        let mut wishes: BTreeMap<Option<String>, Wish> = BTreeMap::new();
        for Item { region, pick } in &self.0 {
            let wish = wishes.entry(region.clone()).or_default();
            match pick {
                Pick::Name(name) => _ = wish.names.insert(name.clone()),
                Pick::Tag(key, value) => _ = wish.tags.insert((key.clone(), value.clone())),
            }
        }
        wishes
    }
}

impl FromStr for AsgSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("no Auto Scaling group is named: use asg:NAME or asg:tag:KEY=VALUE".into());
        }
        items(text).iter().map(|item| item.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

/// What stands between the commas, without the backslashes that keep others.
fn items(text: &str) -> Vec<String> {
    let (mut items, mut item) = (Vec::new(), String::new());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some(',' | '\\')) => item.extend(chars.next()),
            (',', _) => items.push(std::mem::take(&mut item)),
            _ => item.push(c),
        }
    }
    items.push(item);
    items
}

/// The text that [`items`] reads back as one item.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace(',', r"\,")
}

impl FromStr for Item {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // No group's name has a colon (Auto Scaling API reference, "CreateAutoScalingGroup").
        let (region, pick) = match text.split_once(':') {
            Some((region, pick)) if region != "tag" => (Some(region.to_owned()), pick),
            _ => (None, text),
        };
        if let Some(region) = &region
            && (region.is_empty() || !region.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'))
        {
            return Err(format!("{region:?} of {text:?} is not a region such as eu-west-1"));
        }
        Ok(Self { region, pick: pick.parse()? })
    }
}

impl FromStr for Pick {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(tag) = text.strip_prefix("tag:") {
            return match tag.split_once('=') {
                Some((key, value)) if !key.is_empty() => Ok(Self::Tag(key.into(), value.into())),
                _ => Err(format!("{text:?} is not tag:KEY=VALUE")),
            };
        }
        let fail = |shown: &str| Err(format!("{shown:?} is not the name of an Auto Scaling group"));
        match text.parse::<GroupName>() {
            Ok(_) if !text.contains(':') => Ok(Self::Name(text.to_owned())),
            _ => fail(&text.chars().take(40).collect::<String>()),
        }
    }
}

impl fmt::Display for AsgSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, Item { region, pick }) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str(",")?;
            }
            if let Some(region) = region {
                write!(f, "{region}:")?;
            }
            match pick {
                Pick::Name(name) => f.write_str(&escaped(name))?,
                Pick::Tag(key, value) => write!(f, "tag:{}={}", escaped(key), escaped(value))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_gathered_by_region() {
        let text = "web-a,eu-west-3:web-b,tag:service=web,eu-west-3:tag:a=b=c,web-a,tag:env=";
        let spec: AsgSpec = text.parse().unwrap();
        assert_eq!(spec.to_string(), text);
        let wishes = spec.by_region();
        let home = &wishes[&None];
        assert_eq!(home.names, ["web-a".to_owned()].into());
        let tag = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(home.tags, [tag("env", ""), tag("service", "web")].into());
        let other = &wishes[&Some("eu-west-3".to_owned())];
        assert_eq!(other.names, ["web-b".to_owned()].into());
        assert_eq!(other.tags, [tag("a", "b=c")].into());
    }

    #[test]
    fn every_name_that_auto_scaling_allows_reads_back() {
        let printable: String = (' '..='~').filter(|c| *c != ':').collect();
        let printable = printable.trim_start();
        let names = [printable, "web a/b", r"a\b", "~#(=&)", &"é".repeat(255)];
        for name in names {
            let text = format!("eu-west-3:{},web", escaped(name));
            let spec: AsgSpec = text.parse().unwrap();
            let names = &spec.by_region()[&Some("eu-west-3".to_owned())].names;
            assert_eq!(names.iter().collect::<Vec<_>>(), [name], "{text}");
            assert_eq!(spec.to_string(), text);
        }
        // What needs no backslash may go without one.
        assert_eq!(r"a\b,c d".parse::<AsgSpec>().unwrap().by_region()[&None].names.len(), 2);
        assert!("x".repeat(256).parse::<AsgSpec>().is_err());
    }

    #[test]
    fn groups_in_common_are_found_out_and_tags_may_have_any() {
        let shares = |one: &str, other: &str| {
            let other = other.parse().unwrap();
            one.parse::<AsgSpec>().unwrap().may_share_with(&other)
        };
        assert!(shares("a,b", "c,b"));
        assert!(!shares("a,b", "c"));
        assert!(!shares("eu-west-1:a", "eu-west-3:a"));
        assert!(shares("a", "tag:x=y"));
        assert!(!shares("eu-west-1:a", "tag:x=y"));
    }

    #[test]
    fn what_names_no_group_is_refused_with_its_text() {
        for (bad, says) in [
            ("", "asg:NAME or asg:tag:KEY=VALUE"),
            ("a,,b", "\"\" is not the name"),
            (" ", "no Auto Scaling group is named"),
            ("eu west:a", "\"eu west\""),
            (":a", "not a region"),
            ("a:b:c", "\"b:c\" is not the name"),
            ("tag:service", "is not tag:KEY=VALUE"),
            ("tag:=x", "is not tag:KEY=VALUE"),
            ("a\nb", "is not the name"),
            ("evil.example/:x", "not a region"),
        ] {
            let error = bad.parse::<AsgSpec>().unwrap_err();
            assert!(error.contains(says), "{bad:?}: {error}");
        }
    }
}
