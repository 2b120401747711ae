//! HSDO's client is `lbctl sync-haproxy`.

use std::time::Duration;

use super::backends::{Place, backends};
use super::given::Given;
use super::variable as var;
use super::{Named, translate_common};
use crate::config::{Layer, Origin};

/// The section that the client's settings become.
const SECTION: &str = "sync-haproxy";

const GROUPS: &str = "sync-haproxy.groups";
const FALLBACK: &str = "sync-haproxy.fallback";

/// The least time between two looks at HSDO's table.
const LEAST_POLL: Duration = Duration::from_millis(100);

pub fn translate(given: &Given, named: &Named, layer: &mut Layer) {
    if given.differs("CLIENT_") {
        layer.speak_of(SECTION);
    }
    let path = "sync-haproxy.socket";
    if let Some((socket, origin)) = given.text(var::CLIENT_HAPROXY_SOCKET_PATH, path, layer) {
        layer.set(path, socket, origin);
    }
    let groups = groups(given, layer);
    let fallback = Fallback::read(given, groups.is_dedicated(), layer);
    for (index, place) in backends(given, layer).iter().enumerate() {
        let base = format!("{SECTION}.backends[{index}]");
        set_place(place, &base, layer);
        named.set(&format!("{base}.from"), layer);
        groups.set(&base, layer);
        if let Some(fallback) = &fallback {
            fallback.set(&base, layer);
        }
    }
    translate_common(given, SECTION, ("table-poll", LEAST_POLL), layer);
}

fn set_place(place: &Place, base: &str, layer: &mut Layer) {
    let Place { backend, base_name, port, origin, port_origin } = place;
    layer.set(format!("{base}.backend"), format!("{backend}/{base_name}"), origin.clone());
    layer.set(format!("{base}.port"), port, port_origin.clone());
}

/// Whose servers the backends take.
enum Groups {
    Everybodys,
    /// Servers of these Auto Scaling groups; empty: noted already.
    Dedicated(Vec<String>, Origin),
}

fn groups(given: &Given, layer: &mut Layer) -> Groups {
    let dedicated = given.boolean(var::CLIENT_DEDICATED_ASG, GROUPS, layer);
    let names = given.names(var::CLIENT_ASG_NAMES, GROUPS, layer);
    let (Some((dedicated, _)), Some((names, origin))) = (dedicated, names) else {
        return Groups::Everybodys;
    };
    match (dedicated, names.is_empty()) {
        // An empty list would take every group's servers, where HSDO takes none.
        (true, true) => {
            let problem = "is empty, and CLIENT_DEDICATED_ASG needs it: name the Auto Scaling \
                           groups whose servers the backends take";
            layer.contradiction(GROUPS, &origin, problem);
        }
        (false, false) => {
            layer.warn(GROUPS, &origin, "does nothing without CLIENT_DEDICATED_ASG: \"true\"");
        }
        _ => {}
    }
    if dedicated { Groups::Dedicated(names, origin) } else { Groups::Everybodys }
}

impl Groups {
    fn is_dedicated(&self) -> bool {
        matches!(self, Self::Dedicated(..))
    }

    fn set(&self, base: &str, layer: &mut Layer) {
        if let Self::Dedicated(names, origin) = self {
            layer.set(format!("{base}.groups"), names.join(","), origin.clone());
        }
    }
}

/// The backend for what the others do not take.
struct Fallback {
    backend: String,
    base_name: String,
    origin: Origin,
    port: Option<(u32, Origin)>,
    /// Also what the others take.
    takes_all: (bool, Origin),
}

impl Fallback {
    /// HSDO has one for dedicated groups, which it then demands, and for all servers.
    fn read(given: &Given, is_dedicated: bool, layer: &mut Layer) -> Option<Self> {
        let all = var::CLIENT_ALL_SERVERS_IN_FALLBACK_BACKEND;
        let takes_all = given.boolean(all, FALLBACK, layer);
        let name = given.text(var::CLIENT_HAPROXY_FALLBACK_BACKEND_NAME, FALLBACK, layer);
        let base = given.text(var::CLIENT_HAPROXY_FALLBACK_BACKEND_BASE_NAME, FALLBACK, layer);
        let port = var::CLIENT_HAPROXY_BACKEND_SERVER_PORT;
        let port = given.number(port, 1..=65535, "sync-haproxy.fallback-port", layer);
        let (takes_all, (backend, origin), (base_name, base_origin)) = (takes_all?, name?, base?);
        let missing = match (backend.is_empty(), base_name.is_empty()) {
            (true, _) => Some(&origin),
            (false, true) => Some(&base_origin),
            (false, false) => None,
        };
        match missing {
            Some(missing) if is_dedicated => {
                let problem = "is not set, and CLIENT_DEDICATED_ASG needs it";
                layer.contradiction(FALLBACK, missing, problem);
            }
            Some(_) if takes_all.0 => {
                let warning = "does nothing without the fallback backend's name and base name";
                layer.warn(FALLBACK, &takes_all.1, warning);
            }
            None if !is_dedicated && !takes_all.0 => {
                let warning = "does nothing without CLIENT_DEDICATED_ASG: \"true\"";
                layer.warn(FALLBACK, &origin, warning);
            }
            Some(_) => {}
            None => return Some(Self { backend, base_name, origin, port, takes_all }),
        }
        None
    }

    fn set(&self, base: &str, layer: &mut Layer) {
        let Self { backend, base_name, origin, port, takes_all: (takes_all, all_origin) } = self;
        let takes = if *takes_all { "all" } else { "rest" };
        layer.set(format!("{base}.fallback"), format!("{backend}/{base_name}"), origin.clone());
        layer.set(format!("{base}.fallback-takes"), takes, all_origin.clone());
        if let Some((port, origin)) = port {
            layer.set(format!("{base}.fallback-port"), port, origin.clone());
        }
    }
}
