//! What a file may hold, and what a Consul may answer.

use super::consul::fuzzing::read;
use super::file::{Format, Listed, Place};
use crate::commands::discover::plan::Answer;
use crate::haproxy::ServerRef;
use crate::haproxy::fuzzing::commands;
use crate::model::{Endpoint, Key, Weight, keys};

/// What is accepted can be sent to HAProxy and be a part of a key, is said the same in every
/// format, and is an empty list only where somebody wrote one.
pub fn endpoint_list(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = [Format::Toml, Format::Json, Format::Yaml].map(|format| match format.parse(text) {
        Ok(endpoints) => {
            check(text, &endpoints);
            Some(endpoints)
        }
        Err(problem) => {
            // YAML has lines that end with a carriage return alone.
            let lines = 1 + text.matches(['\n', '\r']).count();
            assert!(problem.line.is_none_or(|line| (1..=1 + lines).contains(&line)), "{problem:?}");
            None
        }
    });
    // YAML holds JSON, or nearly so: what both read must be the same.
    if let [_, Some(json), Some(yaml)] = read {
        assert_eq!(json, yaml);
    }
}

fn check(text: &str, list: &[Listed]) {
    let endpoints = literal(list);
    assert!(!list.is_empty() || text.contains('['), "an empty list was made of {text:?}");
    let (Ok(backend), Ok(server)) = ("web".parse(), "srv1".parse()) else { return };
    let server = ServerRef { backend, server };
    for endpoint in &endpoints {
        check_endpoint(&server, endpoint);
    }
    let Ok(json) = serde_json::to_string(&endpoints) else { return };
    for format in [Format::Json, Format::Yaml] {
        let read = format.parse(&json).map(|list| literal(&list));
        assert_eq!(read.as_ref(), Ok(&endpoints), "{format:?}: {json}");
    }
}

/// Those whose address needs no looking up.
fn literal(list: &[Listed]) -> Vec<Endpoint> {
    let at = |listed: &Listed| match listed.place {
        Place::Address(address) => Some(listed.at(address)),
        Place::Host(_) => None,
    };
    list.iter().filter_map(at).collect()
}

fn check_endpoint(server: &ServerRef, endpoint: &Endpoint) {
    commands(server, endpoint.address, endpoint.weight.unwrap_or(Weight::ZERO));
    let key = keys::registration(&server.backend, &endpoint.id);
    assert_eq!(key.as_str().parse::<Key>().as_ref(), Ok(&key));
}

/// Whatever is accepted can be sent to HAProxy and be a part of a key, and every instance that was
/// asked for is an endpoint or has a note.
pub fn consul_answer(data: &[u8]) {
    let Some((asked_for, answer)) = read(data) else { return };
    let Answer { endpoints, unreadable, notes, .. } = answer;
    assert!(endpoints.len() + notes.len() >= asked_for, "one was dropped in silence");
    assert!(unreadable.len() <= notes.len());
    assert!(notes.iter().all(|note| !note.contains(char::is_control)), "{notes:?}");
    let (Ok(backend), Ok(server)) = ("web".parse(), "srv1".parse()) else { return };
    let server = ServerRef { backend, server };
    for (id, endpoint) in &endpoints {
        assert_eq!(*id, endpoint.id);
        check_endpoint(&server, endpoint);
    }
}
