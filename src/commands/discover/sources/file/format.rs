mod place;

use std::fmt;
use std::path::Path;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de::DeserializeOwned};

use crate::model::{Endpoint, EndpointId, GroupName, Label, ServerAddress, Weight};

pub use place::{HostPort, Place};

/// How a file's list is written, by its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Toml,
    Json,
    Yaml,
}

/// What is wrong with a file, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    pub line: Option<usize>,
    pub message: String,
}

impl Format {
    pub fn of(path: &Path) -> Result<Self, String> {
        if path.as_os_str().is_empty() {
            return Err("the file's path is empty: use file:PATH".into());
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => Ok(Self::Toml),
            Some("json") => Ok(Self::Json),
            Some("yaml" | "yml") => Ok(Self::Yaml),
            _ => Err(format!(
                "{} must end in .toml, .json, .yaml or .yml, so that its format is known",
                path.display()
            )),
        }
    }

    /// Reads a whole list. An empty text is a file that is about to be written, not an empty list:
    /// that one is written as such.
    pub fn parse(self, text: &str) -> Result<Vec<Listed>, Problem> {
        if text.trim().is_empty() {
            let message = "the file is empty: an empty list is written as []".into();
            return Err(Problem { line: None, message });
        }
        let list = match self {
            Self::Toml => parse_toml::<Document>(text)?.endpoints,
            Self::Json => parse_json::<List>(text)?.0,
            Self::Yaml => parse_yaml::<List>(text)?.0,
        };
        Ok(list.0.into_iter().map(|item| item.0).collect())
    }
}

fn parse_toml<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    toml::from_str(text).map_err(|error| Problem {
        line: error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count()),
        message: error.message().to_owned(),
    })
}

fn parse_json<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let position = format!(" at line {} column {}", error.line(), error.column());
        let message = message.strip_suffix(&position).map(str::to_owned).unwrap_or(message);
        Problem { line: (error.line() > 0).then_some(error.line()), message }
    })
}

/// More than a file of the greatest length can have. The reader's own limit is 50,000 tables; those
/// that it has for aliases, which make much of little, stay.
const MAX_NODES: usize = 8 << 20;

fn parse_yaml<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! { max_nodes: MAX_NODES, max_events: 2 * MAX_NODES },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().and_then(|location| usize::try_from(location.line()).ok());
        // One without a place is about the document as a whole.
        Problem { line: line.or(Some(1)), message: error.to_string() }
    })
}

/// A TOML file has no list at its top.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    endpoints: Items,
}

/// A list, or a table with one in it.
struct List(Items);

/// A list and nothing else: YAML's reader would take what is not there, as after `endpoints:`, for
/// an empty one.
struct Items(Vec<Item>);

/// An endpoint: its address alone, or a table.
struct Item(Listed);

/// A member of a list. Its address may have to be looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub place: Place,
    pub id: EndpointId,
    name: Option<Label>,
    group: Option<GroupName>,
    zone: Option<Label>,
    weight: Option<Weight>,
    pub leaving: bool,
}

impl Listed {
    /// The server, at an address that its place has.
    pub fn at(&self, address: ServerAddress) -> Endpoint {
        let Self { place: _, id, name, group, zone, weight, leaving } = self.clone();
        Endpoint { id, address, name, group, zone, weight, leaving }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    address: Place,
    /// The address where there is none: then a server that moves is another server, and one of a
    /// host name stays the same wherever that leads.
    id: Option<EndpointId>,
    name: Option<Label>,
    group: Option<GroupName>,
    zone: Option<Label>,
    weight: Option<Weight>,
    #[serde(default)]
    leaving: bool,
}

impl Table {
    fn listed(self) -> Result<Listed, crate::model::NameError> {
        let Self { address: place, id, name, group, zone, weight, leaving } = self;
        let id = match id {
            Some(id) => id,
            None => place.to_string().parse()?,
        };
        Ok(Listed { place, id, name, group, zone, weight, leaving })
    }
}

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seen;
        impl<'de> Visitor<'de> for Seen {
            type Value = List;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of endpoints, or a table with the list \"endpoints\"")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<List, A::Error> {
                Items::deserialize(SeqAccessDeserializer::new(seq)).map(List)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<List, A::Error> {
                let document = Document::deserialize(MapAccessDeserializer::new(map))?;
                Ok(List(document.endpoints))
            }
        }
        deserializer.deserialize_any(Seen)
    }
}

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seen;
        impl<'de> Visitor<'de> for Seen {
            type Value = Items;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of endpoints (an empty one is written as [])")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_any(Seen)
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seen;
        impl<'de> Visitor<'de> for Seen {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an endpoint: \"IP:PORT\" or \"NAME:PORT\", or a table with an address")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Item, E> {
                let address = text.parse().map_err(E::custom)?;
                let table = Table {
                    address,
                    id: None,
                    name: None,
                    group: None,
                    zone: None,
                    weight: None,
                    leaving: false,
                };
                table.listed().map(Item).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Item, A::Error> {
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                table.listed().map(Item).map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_any(Seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOML: &str = "[[endpoints]]\naddress = '10.0.0.1:80'\n\n[[endpoints]]\n\
        address = '[2001:db8::1]:80'\nid = 'b'\nzone = 'z'\nweight = 50\nleaving = true\n";
    const JSON: &str = "[\"10.0.0.1:80\",\n{\"address\": \"[2001:db8::1]:80\", \"id\": \"b\",\n\
        \"zone\": \"z\", \"weight\": 50, \"leaving\": true}]";
    const YAML: &str = "- 10.0.0.1:80\n- address: '[2001:db8::1]:80'\n  id: b\n  zone: z\n  \
        weight: 50\n  leaving: true\n";

    #[test]
    fn the_three_formats_say_the_same() {
        let toml = Format::Toml.parse(TOML).unwrap();
        assert_eq!(toml[0].id.as_str(), "10.0.0.1:80");
        assert_eq!(toml[1].weight, Some(Weight::saturating(50)));
        assert!(toml[1].leaving && !toml[0].leaving);
        assert_eq!(Format::Json.parse(JSON).unwrap(), toml);
        assert_eq!(Format::Yaml.parse(YAML).unwrap(), toml);
        let short = Format::Toml.parse("endpoints = ['10.0.0.1:80']").unwrap();
        assert_eq!(short, toml[..1]);
        let table = Format::Json.parse(r#"{"endpoints": ["10.0.0.1:80"]}"#).unwrap();
        assert_eq!(table, toml[..1]);
    }

    #[test]
    fn a_host_name_is_an_address_to_look_up_and_its_own_id() {
        for (format, text) in [
            (Format::Toml, "endpoints = ['App1.example:8080']"),
            (Format::Json, r#"[{"address": "app1.example:8080"}]"#),
            (Format::Yaml, "- app1.example:8080\n"),
        ] {
            let [listed] = &format.parse(text).unwrap()[..] else { panic!("{text}") };
            assert!(matches!(&listed.place, Place::Host(_)));
            assert_eq!(listed.id.as_str(), "app1.example:8080");
        }
    }

    #[test]
    fn an_empty_list_is_a_list_and_an_empty_file_is_not() {
        for (format, empty) in
            [(Format::Toml, "endpoints = []"), (Format::Json, "[]"), (Format::Yaml, "[]\n")]
        {
            assert_eq!(format.parse(empty).unwrap(), []);
            for text in ["", " \n"] {
                assert!(format.parse(text).unwrap_err().message.contains("empty"));
            }
        }
    }

    #[test]
    fn a_list_longer_than_any_table_is_read_in_every_format() {
        let servers = "{\"address\": \"10.0.0.1:80\", \"id\": \"a\"},".repeat(60_000);
        let json = format!("[{}]", servers.trim_end_matches(','));
        for format in [Format::Json, Format::Yaml] {
            assert_eq!(format.parse(&json).unwrap().len(), 60_000, "{format:?}");
        }
    }

    #[test]
    fn a_little_text_that_stands_for_much_is_refused() {
        let doubled = |n| format!("- &a{} [*a{n}, *a{n}, *a{n}, *a{n}]\n", n + 1);
        let laughs: String = (0..30).map(doubled).collect();
        assert!(Format::Yaml.parse(&format!("- &a0 10.0.0.1:80\n{laughs}")).is_err());
        let aliases = "- *a\n".repeat(10_000);
        assert!(Format::Yaml.parse(&format!("- &a 10.0.0.1:80\n{aliases}")).is_err());
    }

    #[test]
    fn a_second_document_is_not_left_out_in_silence() {
        let text = "- 10.0.0.1:80\n---\n- 10.0.0.2:80\n";
        assert!(Format::Yaml.parse(text).is_err());
    }

    #[test]
    fn a_list_that_is_not_there_yet_is_not_an_empty_one() {
        assert!(Format::Yaml.parse("# soon\n").is_err());
        for text in ["endpoints:\n", "endpoints: ~\n", "endpoints: null", "---\n", "~"] {
            let problem = Format::Yaml.parse(text).unwrap_err();
            assert!(problem.message.contains("list of endpoints"), "{text:?}: {problem:?}");
        }
        let null = r#"{"endpoints": null}"#;
        assert!(Format::Json.parse(null).unwrap_err().message.contains("written as []"));
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        for (format, text, line, says) in [
            (Format::Toml, "[[endpoints]]\naddress = '10.0.0.1'\n", 2, "IP:PORT"),
            (Format::Toml, "[[endpoints]]\naddress = '10.0.0.1:80'\nwieght = 1\n", 3, "wieght"),
            (Format::Toml, "[[endpoints]]\nid = 'a'\n", 1, "address"),
            (Format::Toml, "[[endpoints]]\naddress = '10.0.", 2, "string"),
            (Format::Json, "[\n\"10.0.0.1:80\",\n\"10.0.0.1\"]", 3, "IP:PORT"),
            (Format::Json, "[\n{\"address\": \"10.0.0.1:80\",\n\"wieght\": 1}]", 3, "wieght"),
            (Format::Json, "[\n\"10.0.0.1:80\",\n", 3, "EOF"),
            (Format::Json, "[\n{\"address\": \"10.0.0.1:80\", \"weight\": 257}]", 2, "256"),
            (Format::Yaml, "- 10.0.0.1:80\n- 10.0.0.1\n", 2, "IP:PORT"),
            (Format::Yaml, "- address: 10.0.0.1:80\n  wieght: 1\n", 2, "wieght"),
            (Format::Yaml, "- address: 10.0.0.1:80\n  id: \"a;b\"\n", 2, "endpoint id"),
            (Format::Yaml, "just words\n", 1, "list of endpoints"),
        ] {
            let problem = format.parse(text).unwrap_err();
            assert_eq!(problem.line, Some(line), "{text:?}: {problem:?}");
            assert!(problem.message.contains(says), "{text:?}: {problem:?}");
        }
    }
}
