use std::collections::BTreeMap;
use std::net::IpAddr;

use data_encoding::HEXLOWER;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::settings::Health;
use super::target::Wanted;
use crate::commands::discover::plan::Answer;
use crate::commands::discover::sources::scale::Scale;
use crate::model::{Endpoint, EndpointId, Label, NameError, ServerAddress, Weight};
use crate::text;

/// What one service has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Each with the weight that Consul gives it.
    endpoints: Vec<(Endpoint, u16)>,
    unreadable: Vec<EndpointId>,
    notes: Vec<String>,
}

/// A member of Consul's answer, as far as it matters here
/// (<https://developer.hashicorp.com/consul/api-docs/health#list-service-instances-for-service>).
/// Go writes what is empty as `null` or leaves it out.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Instance {
    node: Node,
    service: Service,
    checks: Option<Vec<Check>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    node: String,
    address: Option<String>,
    meta: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(rename = "ID")]
    id: String,
    address: Option<String>,
    port: Option<i64>,
    tags: Option<Vec<String>>,
    meta: Option<BTreeMap<String, String>>,
    weights: Option<Weights>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: Option<i64>,
    warning: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    status: String,
}

impl Found {
    /// Reads Consul's answer. What is in it and cannot be a server has a note, and is unreadable
    /// where it has an id.
    pub fn read(service: &Label, wanted: &Wanted, body: &[u8]) -> Result<Self, String> {
        let instances: Vec<Instance> = serde_json::from_slice(body)
            .map_err(|error| format!("the answer is not a list of instances: {error}"))?;
        let mut found = Self::default();
        for instance in instances.iter().filter(|instance| instance.is_wanted(wanted)) {
            if let Err(why) = found.take(service, instance) {
                found.note(service, instance, &why);
            }
        }
        // Consul's order means nothing, and of two with one id the first counts.
        found.endpoints.sort_by(|(a, _), (b, _)| (&a.id, a.address).cmp(&(&b.id, b.address)));
        found.notes.sort();
        Ok(found)
    }

    fn take(&mut self, service: &Label, instance: &Instance) -> Result<(), String> {
        let id = instance.id()?;
        let address = match instance.address() {
            Ok(address) => address,
            Err(why) => {
                self.unreadable.push(id);
                return Err(why);
            }
        };
        let zone = match instance.zone() {
            Ok(zone) => zone,
            Err(error) => {
                self.note(service, instance, &format!("without a zone: {error}"));
                None
            }
        };
        let (name, group) = (instance.node.node.parse().ok(), Some(service.clone().into()));
        let endpoint = Endpoint { id, address, name, group, zone, weight: None, leaving: false };
        self.endpoints.push((endpoint, instance.weight()));
        Ok(())
    }

    fn note(&mut self, service: &Label, instance: &Instance, why: &str) {
        let (id, node) = (&instance.service.id, &instance.node.node);
        let note = format!("consul:{service}: instance {id:?} of node {node:?}: {why}");
        self.notes.push(text::one_line(&note).into_owned());
    }

    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.unreadable.is_empty() && self.notes.is_empty()
    }

    /// Not even one that cannot be read.
    pub fn has_no_server(&self) -> bool {
        self.endpoints.is_empty() && self.unreadable.is_empty()
    }

    pub fn with_note(mut self, note: String) -> Self {
        self.notes.push(note);
        self
    }

    /// What several services have is one answer, with the weights of all on one scale.
    pub fn merge<'a>(parts: impl Iterator<Item = &'a Self> + Clone, max: Weight) -> Answer {
        let all = parts.clone().flat_map(|part| &part.endpoints);
        let scale = Scale::of(all.clone().map(|(_, weight)| *weight), max);
        let mut answer = Answer::of(
            all.map(|(e, weight)| Endpoint { weight: scale.weight(*weight), ..e.clone() }),
        );
        answer.unreadable.extend(parts.clone().flat_map(|part| part.unreadable.iter().cloned()));
        answer.notes.extend(parts.flat_map(|part| part.notes.iter().cloned()));
        answer
    }
}

impl Instance {
    /// Consul was asked for these alone; a server in between, or one that knows a parameter no
    /// more (`tag` is deprecated), may answer with others.
    fn is_wanted(&self, wanted: &Wanted) -> bool {
        let serves = |check: &Check| match wanted.health {
            Health::Passing => check.status == "passing",
            Health::Warning => check.status == "passing" || check.status == "warning",
        };
        // Consul compares tags without regard to case.
        let has = |tag: &String| {
            let mut tags = self.service.tags.iter().flatten();
            tags.any(|own| own.to_lowercase() == tag.to_lowercase())
        };
        self.checks.iter().flatten().all(serves) && wanted.tags.iter().all(has)
    }

    /// Node and service id: Consul has no service twice on one node.
    fn id(&self) -> Result<EndpointId, String> {
        if self.node.node.is_empty() || self.service.id.is_empty() {
            return Err("it has no name".into());
        }
        let node = utf8_percent_encode(&self.node.node, ESCAPED_IN_NODE);
        let id = format!("{node}:{}", utf8_percent_encode(&self.service.id, ESCAPED));
        id.parse().or_else(|_| shortened(&id).parse()).map_err(|e: NameError| e.to_string())
    }

    fn address(&self) -> Result<ServerAddress, String> {
        let own = self.service.address.as_deref().filter(|address| !address.is_empty());
        let address = own.or(self.node.address.as_deref()).unwrap_or_default();
        ServerAddress::refuse_zone(address).map_err(|error| error.to_string())?;
        let ip: IpAddr = address.parse().map_err(|_| {
            format!("its address {address:?} is no IP address: register it by that")
        })?;
        let port = self.service.port.unwrap_or(0);
        let port = u16::try_from(port).map_err(|_| format!("its port {port} is none"))?;
        ServerAddress::new(ip, port).map_err(|error| error.to_string())
    }

    /// The instance's own wins over its node's.
    fn zone(&self) -> Result<Option<Label>, NameError> {
        let of = |meta: &Option<BTreeMap<String, String>>| meta.as_ref()?.get("zone").cloned();
        let zone = of(&self.service.meta).or_else(|| of(&self.node.meta));
        zone.filter(|zone| !zone.is_empty()).map(|zone| zone.parse()).transpose()
    }

    /// 1 is Consul's default.
    fn weight(&self) -> u16 {
        let passes = |check: &Check| check.status == "passing";
        let weight = self.service.weights.as_ref().and_then(|weights| {
            match self.checks.iter().flatten().all(passes) {
                true => weights.passing,
                false => weights.warning,
            }
        });
        u16::try_from(weight.unwrap_or(1).max(0)).unwrap_or(u16::MAX)
    }
}

/// What an id cannot have, and the sign that escapes it.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b':')
    .remove(b'[')
    .remove(b']')
    .remove(b'@')
    .remove(b'+');

/// The first `:` of an id is the end of the node's name.
const ESCAPED_IN_NODE: &AsciiSet = &ESCAPED.add(b':');

/// The start of an id that is too long, and what tells it from others with that start.
fn shortened(id: &str) -> String {
    let start = id.get(..90).unwrap_or(id);
    format!("{start}+{}", HEXLOWER.encode(&Sha256::digest(id)[..16]))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// An instance as Consul writes it.
    fn instance(node: &str, id: &str, address: &str, port: i64) -> Value {
        json!({
            "Node": {
                "ID": "40e4a748-2192-161a-0510-9bf59fe950b5", "Node": node, "Address": "10.1.10.12",
                "Datacenter": "dc1", "TaggedAddresses": {"lan": "10.1.10.12"}, "Meta": null
            },
            "Service": {
                "ID": id, "Service": "web", "Tags": ["primary"], "Address": address, "Port": port,
                "Meta": {"version": "4"}, "Weights": {"Passing": 1, "Warning": 1}
            },
            "Checks": [
                {"Node": node, "CheckID": "serfHealth", "Status": "passing", "ServiceTags": []}
            ]
        })
    }

    fn read(wanted: &Wanted, instances: &[Value]) -> Found {
        let body = serde_json::to_vec(instances).unwrap();
        Found::read(&"web".parse().unwrap(), wanted, &body).unwrap()
    }

    fn answer(wanted: &Wanted, instances: &[Value]) -> Answer {
        Found::merge([&read(wanted, instances)].into_iter(), Weight::saturating(100))
    }

    fn ids(answer: &Answer) -> Vec<&str> {
        answer.endpoints.keys().map(EndpointId::as_str).collect()
    }

    #[test]
    fn an_instance_is_a_server() {
        let mut own = instance("n1", "web-1", "10.0.0.1", 8000);
        own["Service"]["Meta"]["zone"] = "a".into();
        own["Node"]["Meta"] = json!({"zone": "b"});
        let mut of_node = instance("n2", "web-1", "", 8001);
        of_node["Node"]["Meta"] = json!({"zone": "b"});
        let answer = answer(&Wanted::default(), &[of_node, own]);
        let shown: Vec<String> = answer
            .endpoints
            .values()
            .map(|e| serde_json::to_string(e).unwrap().replace('"', ""))
            .collect();
        assert_eq!(
            shown,
            [
                "{id:n1:web-1,address:10.0.0.1:8000,name:n1,group:web,zone:a}",
                "{id:n2:web-1,address:10.1.10.12:8001,name:n2,group:web,zone:b}",
            ]
        );
        assert!(answer.notes.is_empty() && answer.unreadable.is_empty(), "{answer:?}");
    }

    #[test]
    fn what_is_empty_may_be_missing_or_null() {
        for bare in [
            json!({"Node": {"Node": "n", "Address": "::1"}, "Service": {"ID": "s", "Port": 1}}),
            json!({
                "Node": {"Node": "n", "Address": "::1", "Meta": null}, "Checks": null,
                "Service": {"ID": "s", "Port": 1, "Address": null, "Weights": null, "Tags": null}
            }),
        ] {
            let answer = answer(&Wanted::default(), &[bare]);
            assert_eq!(answer.endpoints[&"n:s".parse().unwrap()].address.to_string(), "[::1]:1");
        }
    }

    #[test]
    fn only_what_serves_is_taken_whatever_was_answered() {
        let with = |id: &str, status: &str| {
            let mut instance = instance("n", id, "10.0.0.1", 80);
            instance["Checks"][0]["Status"] = status.into();
            instance
        };
        let all = ["passing", "warning", "critical", "odd"].map(|status| with(status, status));
        assert_eq!(ids(&answer(&Wanted::default(), &all)), ["n:passing"]);
        let warning = Wanted { health: Health::Warning, ..Wanted::default() };
        assert_eq!(ids(&answer(&warning, &all)), ["n:passing", "n:warning"]);
        for (tags, taken) in [(&["PRIMARY"][..], 1), (&["primary", "v2"], 0)] {
            let tags = tags.iter().map(ToString::to_string).collect();
            let tagged = Wanted { tags, ..Wanted::default() };
            assert_eq!(answer(&tagged, &all[..1]).endpoints.len(), taken, "{tagged:?}");
        }
    }

    #[test]
    fn weights_count_where_they_differ_and_by_health() {
        let with = |id: &str, passing: i64, status: &str| {
            let mut instance = instance("n", id, "10.0.0.1", 80);
            instance["Service"]["Weights"] = json!({"Passing": passing, "Warning": 1});
            instance["Checks"][0]["Status"] = status.into();
            instance
        };
        let warning = Wanted { health: Health::Warning, ..Wanted::default() };
        let weights = |instances: &[Value]| {
            let answer = answer(&warning, instances);
            answer.endpoints.values().map(|e| e.weight.map(Weight::get)).collect::<Vec<_>>()
        };
        assert_eq!(weights(&[with("a", 9, "passing"), with("b", 9, "passing")]), [None, None]);
        let some = [with("a", 10, "passing"), with("b", 5, "passing"), with("c", 10, "warning")];
        assert_eq!(weights(&some), [Some(100), Some(50), Some(10)]);
        let odd = [with("a", i64::MAX, "passing"), with("b", -7, "passing")];
        assert_eq!(weights(&odd), [Some(100), Some(1)]);
    }

    #[test]
    fn what_cannot_be_a_server_is_told_and_not_taken_for_gone() {
        let odd = [
            instance("n", "host", "db.example", 80),
            instance("n", "no-port", "10.0.0.1", 0),
            instance("n", "far-port", "10.0.0.1", 65536),
            instance("n", "multicast", "224.0.0.1", 80),
            instance("n", "zone", "fe80::1%eth0", 80),
        ];
        let answer = answer(&Wanted::default(), &odd);
        let unreadable: Vec<&str> = answer.unreadable.iter().map(EndpointId::as_str).collect();
        assert_eq!(unreadable, ["n:far-port", "n:host", "n:multicast", "n:no-port", "n:zone"]);
        let notes = answer.notes.join("\n");
        for says in [
            "consul:web: instance \"far-port\" of node \"n\": its port 65536 is none",
            "\"db.example\" is no IP address: register it by that",
            "has port 0",
            "multicast",
            "\"fe80::1%eth0\" has an IPv6 zone",
        ] {
            assert!(notes.contains(says), "{says}: {notes}");
        }
    }

    #[test]
    fn a_zone_that_is_none_costs_the_zone_alone() {
        let mut odd = instance("n\u{1b}", "s", "10.0.0.1", 80);
        odd["Service"]["Meta"]["zone"] = "no zone".into();
        let nameless = instance("", "s", "10.0.0.1", 80);
        let answer = answer(&Wanted::default(), &[nameless, odd]);
        let [endpoint] = &answer.endpoints.values().collect::<Vec<_>>()[..] else { panic!() };
        assert_eq!(
            (endpoint.id.as_str(), &endpoint.zone, &endpoint.name),
            ("n%1B:s", &None, &None)
        );
        let notes = answer.notes.join("\n");
        assert!(notes.contains("without a zone: label \"no zone\""), "{notes}");
        assert!(notes.contains("it has no name") && !notes.contains('\u{1b}'), "{notes}");
    }

    #[test]
    fn every_name_makes_an_id_of_its_own() {
        let long = |c: &str| format!("_nomad-task-{}", c.repeat(200));
        let names = [
            ("a:b", "c"),
            ("a", "b:c"),
            ("a", "b/c"),
            ("a", "b%2Fc"),
            ("a", "b c"),
            ("a", "\u{e4}"),
            ("a", &long("x")),
            ("a", &format!("{}y", long("x"))),
            (&long("x"), "a"),
        ];
        let all = names.map(|(node, id)| instance(node, id, "10.0.0.1", 80));
        let answer = answer(&Wanted::default(), &all);
        assert_eq!(answer.endpoints.len(), names.len(), "{:?}", ids(&answer));
        assert!(answer.notes.is_empty(), "{:?}", answer.notes);
        assert!(ids(&answer).contains(&"a:b:c") && ids(&answer).contains(&"a%3Ab:c"));
        // They must be the same in every version: another id is another server. This one ends with
        // the start of the SHA-256 of the whole.
        let shortened =
            format!("a:_nomad-task-{}+16af195f3cd9e7fb728b82cdb0ce8bda", "x".repeat(76));
        for id in ["a:b:c", "a%3Ab:c", "a:b%2Fc", "a:b%252Fc", &shortened] {
            assert!(ids(&answer).contains(&id), "{id}: {:?}", ids(&answer));
        }
    }

    #[test]
    fn doubles_are_told_and_the_order_does_not_matter() {
        let (one, two) = (instance("n", "s", "10.0.0.1", 80), instance("n", "s", "10.0.0.2", 80));
        let there = answer(&Wanted::default(), &[one.clone(), two.clone()]);
        assert_eq!(there, answer(&Wanted::default(), &[two, one]));
        assert!(there.notes[0].contains("id n:s is there twice"), "{:?}", there.notes);
        assert_eq!(there.endpoints.len(), 1);
    }

    #[test]
    fn what_is_no_list_of_instances_is_an_error() {
        for body in ["", "null", "{}", "[null]", "[{}]", "[{\"Node\": {}}]", "[] []", "[", "\u{0}"]
        {
            let error = Found::read(&"web".parse().unwrap(), &Wanted::default(), body.as_bytes());
            assert!(error.unwrap_err().contains("not a list of instances"), "{body}");
        }
    }
}
