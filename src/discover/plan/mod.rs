//! What to change in a backend's table: a pure function of the table, the source's answer, the
//! HAProxies' reports and the time.
//!
//! A slot goes `free → ready → drain → rest → free`. What holds for every plan:
//! - A server keeps its slot; a new one takes the lowest free slot. At most one slot is ready for
//!   an id, and at most one for an address.
//! - Who a server is says its id. A reused address with a new id is a new server with a new ramp.
//!   An id with a new address takes a free slot while the old one drains, so that no moment is
//!   without a ready server and no session is cut; only where no slot is free it is re-addressed in
//!   place.
//! - A slot makes one step a plan, and a slot that is freed by a plan is not given away by it.
//! - Planning again after a plan was written gives an empty plan, but for what that one made room
//!   for. Weights never cause a write.

mod floors;
mod placing;
mod planner;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

pub use floors::{Absences, Floors, Refusal, RefusalReason};
pub use planner::plan;
pub use table::{Content, StoredSlot, StoredSpec, Table};

use crate::model::{
    BackendReport, BackendSpec, Endpoint, EndpointId, HaproxyName, Ramp, SlotNumber, SlotRecord,
    Timestamp,
};
use crate::store::Revision;

/// What holds for a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How many slots the table has.
    pub slots: u32,
    pub ramp: Ramp,
    /// How long a server may drain before its slot is freed all the same.
    pub drain_deadline: Duration,
    /// How long a freed slot rests before another server may have it.
    pub rest: Duration,
    pub floors: Floors,
    /// A server that the source no longer sees may still be alive and drains first; otherwise it is
    /// known to be dead.
    pub drain_vanished: bool,
}

/// The complete set of endpoints that a source sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    pub endpoints: BTreeMap<EndpointId, Endpoint>,
    /// They are there but cannot be read: neither placed nor removed.
    pub unreadable: BTreeSet<EndpointId>,
    /// They are known to leave, and where they are is not told any more.
    pub leaving: BTreeSet<EndpointId>,
    /// Servers that leave, and whose end waits until somebody says that they have drained.
    pub awaiting: BTreeSet<EndpointId>,
    /// What a person should know of this answer.
    pub notes: Vec<String>,
}

impl Answer {
    /// Takes endpoints in; of two with one id the first counts, and a note says so.
    pub fn of(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        let mut answer = Self::default();
        for endpoint in endpoints {
            match answer.endpoints.get(&endpoint.id) {
                Some(first) => answer.notes.push(format!(
                    "id {} is there twice, at {} and {}: only the first counts",
                    endpoint.id, first.address, endpoint.address
                )),
                None => {
                    answer.endpoints.insert(endpoint.id.clone(), endpoint);
                }
            }
        }
        answer
    }

    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.unreadable.is_empty() && self.leaving.is_empty()
    }

    pub(super) fn knows(&self, id: &EndpointId) -> bool {
        self.endpoints.contains_key(id) || self.unreadable.contains(id) || self.leaving.contains(id)
    }

    pub(super) fn leaves(&self, id: &EndpointId) -> bool {
        self.leaving.contains(id) || self.endpoints.get(id).is_some_and(|e| e.leaving)
    }
}

/// Everything that a plan depends on.
#[derive(Debug, Clone)]
pub struct World<'a> {
    pub policy: &'a Policy,
    pub table: &'a Table,
    /// `None` while the source is in error: servers neither come nor go, but drains and rests end.
    pub answer: Option<&'a Answer>,
    /// Servers whose absence enough looks have confirmed.
    pub confirmed: &'a BTreeSet<EndpointId>,
    /// Servers that go only once their absence is confirmed.
    pub kept: &'a BTreeSet<EndpointId>,
    /// Servers that were removed lately, for the floors.
    pub recent: &'a BTreeSet<EndpointId>,
    /// Slots that no server may be given now.
    pub barred: &'a BTreeSet<SlotNumber>,
    /// This backend's part of the reports of all live HAProxies that have it.
    pub reports: &'a [Report],
    pub now: Timestamp,
}

/// One live HAProxy's word on a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub haproxy: HaproxyName,
    /// Its HAProxy has not answered for a while: it serves no slot, and holds nothing up.
    pub gone: bool,
    pub backend: BackendReport,
}

/// What to write and what to tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// The spec to write, if it differs from the stored one.
    pub spec: Option<BackendSpec>,
    pub unplaced: Vec<Unplaced>,
    pub refused: Option<Refusal>,
    /// Which HAProxies keep a slot draining or at rest.
    pub waiting: Vec<Waiting>,
    /// When planning again may give something new though nothing was heard.
    #[serde(skip)]
    pub next_wake: Option<Duration>,
}

impl Plan {
    /// Nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty() && self.spec.is_none()
    }
}

/// A change of one slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Action {
    pub slot: SlotNumber,
    pub kind: ActionKind,
    pub server: EndpointId,
    /// The record to write; `None` deletes the key.
    pub record: Option<SlotRecord>,
    /// The revision that last wrote the slot's key; `None` where there is no key.
    #[serde(skip)]
    pub seen: Option<Revision>,
}

/// Why a slot changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionKind {
    /// A free slot gets a server.
    Place,
    /// Metadata changed.
    Update,
    /// The server has a new address and no other slot is free.
    Readdress,
    /// A draining or resting server takes traffic again.
    Return,
    /// It finishes its sessions.
    Drain,
    /// It has gone.
    Rest,
    /// The rest is over.
    Free,
    /// The entry was damaged.
    Repair,
    /// HSDO has given the slot to it.
    Adopt,
}

impl ActionKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Place => "place",
            Self::Update => "update",
            Self::Readdress => "readdress",
            Self::Return => "return",
            Self::Drain => "drain",
            Self::Rest => "rest",
            Self::Free => "free",
            Self::Repair => "repair",
            Self::Adopt => "adopt",
        }
    }
}

/// An endpoint without a slot, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Unplaced {
    pub server: EndpointId,
    pub why: UnplacedReason,
}

/// Why an endpoint has no slot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnplacedReason {
    NoFreeSlot,
    /// A server with another id is ready at its address.
    AddressOf(EndpointId),
}

/// A slot that waits for HAProxies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waiting {
    pub slot: SlotNumber,
    pub haproxies: Vec<HaproxyName>,
}
