use super::given::Given;
use super::variable as var;
use super::yaml::{self, Entry, Value};
use crate::config::{Layer, Origin, Place as Where};

/// Where it is noted that no backend is named.
const PATH: &str = "sync-haproxy.backend";

/// What the list says of each: what stands before the number in the names of its servers, and where
/// they listen.
const MEMBERS: [&str; 2] = ["baseName", "serverPort"];

/// A HAProxy backend that HSDO's client fills.
pub struct Place {
    pub backend: String,
    pub base_name: String,
    pub port: u32,
    pub origin: Origin,
    pub port_origin: Origin,
}

/// Those of the list, or, without one, that of the keys which an older HSDO had.
pub fn backends(given: &Given, layer: &mut Layer) -> Vec<Place> {
    let (list, origin) = given.value(var::CLIENT_HAPROXY_BACKEND_LIST);
    match list {
        Some(Value::Map(entries)) => listed(entries, &origin, true, layer),
        Some(Value::Text(text)) => match yaml::parse(text) {
            Ok(Value::Map(entries)) => listed(&entries, &origin, false, layer),
            Ok(_) => no_map(&origin, layer),
            Err(error) => {
                layer.mistake(PATH, &origin, format!("is no JSON or YAML: {}", error.message));
                Vec::new()
            }
        },
        Some(Value::Bool(_) | Value::List) => no_map(&origin, layer),
        None => single(given, layer).into_iter().collect(),
    }
}

fn no_map(origin: &Origin, layer: &mut Layer) -> Vec<Place> {
    let problem =
        "must be a map of backends, as in {\"web\": {\"baseName\": \"srv\", \"serverPort\": 80}}";
    layer.mistake(PATH, origin, problem);
    Vec::new()
}

fn listed(entries: &[Entry], origin: &Origin, has_lines: bool, layer: &mut Layer) -> Vec<Place> {
    if entries.is_empty() {
        layer.contradiction(PATH, origin, "is empty: name the backends to fill");
    }
    let place = |entry: &Entry| {
        let origin = if has_lines { at_line(origin, entry.line) } else { origin.clone() };
        listed_place(entry, origin, layer)
    };
    entries.iter().filter_map(place).collect()
}

fn listed_place(entry: &Entry, origin: Origin, layer: &mut Layer) -> Option<Place> {
    let Entry { key: backend, value, .. } = entry;
    let Value::Map(members) = value else {
        let problem = format!("backend {backend:?} must be a map with baseName and serverPort");
        layer.mistake(PATH, &origin, problem);
        return None;
    };
    for Entry { key, .. } in members.iter().filter(|m| !MEMBERS.contains(&m.key.as_str())) {
        let warning = format!("{key:?} of backend {backend:?} is no setting of HSDO");
        layer.warn(PATH, &origin, warning);
    }
    let [base_name, port] = MEMBERS.map(|name| {
        let text = member(members, name);
        if text.is_none() {
            layer.mistake(PATH, &origin, format!("backend {backend:?} needs a {name}"));
        }
        text
    });
    let port = port?;
    let Some(number) = port.parse().ok().filter(|port| (1..=65535).contains(port)) else {
        let problem = format!("backend {backend:?}: serverPort {port:?} is not from 1 to 65535");
        layer.mistake(PATH, &origin, problem);
        return None;
    };
    let (backend, base_name) = (backend.clone(), base_name?.to_owned());
    Some(Place { backend, base_name, port: number, port_origin: origin.clone(), origin })
}

fn member<'a>(members: &'a [Entry], name: &str) -> Option<&'a str> {
    match &members.iter().find(|member| member.key == name)?.value {
        Value::Text(text) => Some(text.trim()).filter(|text| !text.is_empty()),
        Value::Bool(value) => Some(if *value { "true" } else { "false" }),
        Value::Map(_) | Value::List => None,
    }
}

/// The line of a member of a map that is written in the file as such.
fn at_line(origin: &Origin, line: usize) -> Origin {
    match origin {
        Origin::Foreign { name, place: Where::File { path, .. } } => {
            Origin::Foreign { name, place: Where::File { path: path.clone(), line } }
        }
        other => other.clone(),
    }
}

/// HSDO has these keys in its file, and no longer reads them.
fn single(given: &Given, layer: &mut Layer) -> Option<Place> {
    let (backend, origin) = given.text(var::CLIENT_HAPROXY_BACKEND_NAME, PATH, layer)?;
    let (base_name, base) = given.text(var::CLIENT_HAPROXY_BACKEND_BASE_NAME, PATH, layer)?;
    let port = var::CLIENT_HAPROXY_BACKEND_SERVER_PORT;
    let port = given.number(port, 1..=65535, PATH, layer);
    let (missing, problem) = match (backend.is_empty(), base_name.is_empty()) {
        (true, true) => {
            let (_, list) = given.value(var::CLIENT_HAPROXY_BACKEND_LIST);
            (list, "is not set: name the HAProxy backends to fill")
        }
        (true, false) => (origin, "is not set, and CLIENT_HAPROXY_BACKEND_BASE_NAME is"),
        (false, true) => (base, "is not set, and CLIENT_HAPROXY_BACKEND_NAME is"),
        (false, false) => {
            let (port, port_origin) = port?;
            let warning = "is used, since CLIENT_HAPROXY_BACKEND_LIST is not set; HSDO itself \
                           reads the list alone";
            layer.warn("sync-haproxy.backends", &origin, warning);
            return Some(Place { backend, base_name, port, origin, port_origin });
        }
    };
    layer.contradiction(PATH, &missing, problem);
    None
}
