//! What the tests of this folder build their worlds of.

use std::collections::BTreeMap;

use super::target::{Filter, Licence, Mode, Selector, Target};
use crate::haproxy::{AdminFlags, ObservedServer};
use crate::hsdo::TableLayout;
use crate::model::{Endpoint, SlotNumber, SlotRecord, SlotState, Timestamp};
use crate::store::{Revision, StoreLife};
pub use crate::tables::testing::{backend_spec, record, spec};
use crate::tables::{Held, Table};

pub fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap()
}

pub fn endpoint(id: &str) -> Endpoint {
    Endpoint {
        id: id.parse().unwrap(),
        address: "10.0.0.1:80".parse().unwrap(),
        name: None,
        group: None,
        zone: None,
        weight: None,
        leaving: false,
    }
}

/// Held since, and ramping from, the epoch.
pub fn held(endpoint: Endpoint, state: SlotState) -> Held {
    Held::By(SlotRecord { endpoint, state, since: at(0), started: at(0) })
}

/// A table of four slots.
pub fn table(slots: &[(u32, Held)]) -> Table {
    let slots = slots.iter().map(|(n, held)| (SlotNumber::new(*n).unwrap(), held.clone()));
    Table {
        name: "web".parse().unwrap(),
        layout: TableLayout::Lbctl,
        revision: Revision(9),
        spec: backend_spec(4),
        slots: slots.collect(),
        removed: BTreeMap::new(),
        confirmed: true,
        life: StoreLife::default(),
        problems: Vec::new(),
    }
}

/// Backend `app`, servers `srv1`, …, from table `web`.
pub fn target() -> Target {
    Target {
        backend: "app".parse().unwrap(),
        prefix: Some("srv".parse().unwrap()),
        from: "web".parse().unwrap(),
        port: None,
        keep_port: false,
        takes: Selector::Matching(Filter::default()),
        mode: Mode::Slots,
        licence: Licence::default(),
    }
}

/// A place as `server-template … 127.0.0.2:80 check disabled` makes it.
pub fn named(name: &str) -> ObservedServer {
    let number = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    ObservedServer {
        id: number.parse().unwrap_or(1),
        name: name.to_owned(),
        address: Some("127.0.0.2".parse().unwrap()),
        port: 80,
        port_is_own: false,
        port_is_mapped: false,
        has_name: false,
        admin: AdminFlags(5),
        operational: 0,
        weight: 1,
        initial_weight: 1,
        checked: true,
        check_enabled: true,
        forced_id: true,
        has_agent: false,
        agent_enabled: false,
        uses_tls: false,
        sessions: Some(0),
    }
}
