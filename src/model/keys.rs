//! Where things are in the store, relative to the store's own prefix.

use super::{BackendName, ElectionName, EndpointId, HaproxyName, Key, Prefix, SlotNumber};

/// `backends`: every table.
pub fn backends() -> Prefix {
    Prefix::of(["backends"])
}

/// `backends/<backend>`: one table, its spec and its slots.
pub fn backend(name: &BackendName) -> Prefix {
    Prefix::of(["backends", name.as_str()])
}

/// `backends/<backend>/spec`.
pub fn spec(name: &BackendName) -> Key {
    backend(name).key("spec")
}

/// `backends/<backend>/slots`.
pub fn slots(name: &BackendName) -> Prefix {
    Prefix::of(["backends", name.as_str(), "slots"])
}

/// `backends/<backend>/slots/<00001>`.
pub fn slot(name: &BackendName, number: SlotNumber) -> Key {
    slots(name).key(&number.padded())
}

/// `backends/<backend>/removed`: who left the slots by a leader's decision.
pub fn removed(name: &BackendName) -> Prefix {
    Prefix::of(["backends", name.as_str(), "removed"])
}

/// `backends/<backend>/removed/<00001>`.
pub fn removals(name: &BackendName, number: SlotNumber) -> Key {
    removed(name).key(&number.padded())
}

/// `backends/<backend>/confirmed`: which leader stands behind the table.
pub fn confirmed(name: &BackendName) -> Key {
    backend(name).key("confirmed")
}

/// `registry`: every registration.
pub fn registries() -> Prefix {
    Prefix::of(["registry"])
}

/// `registry/<backend>`.
pub fn registry(name: &BackendName) -> Prefix {
    Prefix::of(["registry", name.as_str()])
}

/// `registry/<backend>/<id>`.
pub fn registration(name: &BackendName, id: &EndpointId) -> Key {
    registry(name).key(id.as_str())
}

/// `haproxies`.
pub fn haproxies() -> Prefix {
    Prefix::of(["haproxies"])
}

/// `haproxies/<name>`.
pub fn haproxy(name: &HaproxyName) -> Key {
    haproxies().key(name.as_str())
}

/// `serve`: the client counts of the demo servers.
pub fn serve() -> Prefix {
    Prefix::of(["serve"])
}

/// `serve/<id>/<instance>`: one of them. The instance, a UUID, keeps two with one id apart.
pub fn serving(id: &EndpointId, instance: uuid::Uuid) -> Key {
    Prefix::of(["serve", id.as_str()]).key(&instance.to_string())
}

/// `elections`: the leader keys.
pub fn elections() -> Prefix {
    Prefix::of(["elections"])
}

/// `elections/<name>`: the leader key.
pub fn election(name: &ElectionName) -> Key {
    elections().key(name.as_str())
}

/// Whether a key says that a process is there, for as long as it is.
pub fn is_presence(key: &Key) -> bool {
    let kinds = [Prefix::of(["registry"]), haproxies(), serve(), elections()];
    kinds.iter().any(|prefix| prefix.contains(key))
}

/// The table that a key is a part of.
pub fn backend_of(key: &Key) -> Option<BackendName> {
    let (name, _part) = backends().strip(key)?.split_once('/')?;
    name.parse().ok()
}
