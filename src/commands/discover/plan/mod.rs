//! What to change in a backend's table: a pure function of the table, the source's answer, the
//! HAProxies' reports and the time.
//!
//! A slot goes `free → ready → drain → rest → free`. What holds for every plan:
//! - A server keeps its slot; a new one takes the lowest free slot, of those in which no HAProxy has
//!   sessions left where there is one. At most one slot is ready for
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
#[cfg(test)]
mod tests;
mod unread;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

pub use floors::{Absences, Floors, Refusal, RefusalReason};
pub use planner::plan;
pub use unread::{Family, Servers};

use crate::model::{
    BackendReport, BackendSpec, Confirmation, Endpoint, EndpointId, HaproxyName, Ramp, Removal,
    Removals, ServerAddress, SlotNumber, SlotRecord, SlotState, StoreLife, TableOrigin, Timestamp,
};
use crate::store::Revision;
use crate::tables::{Content, StoredRemovals, StoredSlot, StoredTable};

/// What holds for a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How many slots the table has.
    pub slots: u32,
    pub ramp: Ramp,
    /// How long a server may drain before its slot is freed all the same.
    pub drain_deadline: Duration,
    /// How long a server drains even if it has no session.
    pub drain_at_least: Duration,
    /// How long a freed slot rests before another server may have it.
    pub rest: Duration,
    pub floors: Floors,
    /// A server that the source no longer sees may still be alive and drains first; otherwise it is
    /// known to be dead.
    pub drain_vanished: bool,
    /// Where the table is filled from, for its spec.
    pub origin: Option<TableOrigin>,
}

/// The complete set of endpoints that a source sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    pub endpoints: BTreeMap<EndpointId, Endpoint>,
    /// They are there but cannot be read: neither placed nor removed.
    pub unreadable: BTreeSet<EndpointId>,
    /// Parts of the source that cannot be read: their servers neither come nor go.
    pub unread: BTreeSet<Servers>,
    /// Parts of the source that have no server at all, though others have some: theirs go by order
    /// alone, as with an answer that is empty.
    pub emptied: BTreeSet<Servers>,
    /// They are known to leave, and where they are is not told any more.
    pub leaving: BTreeSet<EndpointId>,
    /// Servers that leave, and whose end waits until somebody says that they have drained.
    pub awaiting: BTreeSet<EndpointId>,
    /// Their machines are known to have ended: they hold no session that a drain could spare.
    pub ended: BTreeSet<EndpointId>,
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
    pub table: &'a StoredTable,
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
    /// Where servers are that no record speaks of, as HAProxies say or this process remembers.
    pub places: &'a Places,
    /// The life of the store that the table is of.
    pub life: &'a StoreLife,
    /// The store's revisions have gone back to this one: an older confirmation does not count.
    pub reborn_at: Option<Revision>,
    /// The token of this leadership, which confirms the table; `None` for who does not lead.
    pub token: Option<Revision>,
    /// This backend's part of the reports of all live HAProxies that have it.
    pub reports: &'a [Report],
    pub now: Timestamp,
}

impl World<'_> {
    /// Whether a leader has compared the table with what its source sees, in this life of the store.
    /// What an unconfirmed table says of servers that are to go may be older than what they do now.
    pub fn is_confirmed(&self) -> bool {
        self.standing_confirmation().is_some()
    }

    fn standing_confirmation(&self) -> Option<&Confirmation> {
        self.table.confirmed.as_ref()?.standing(self.life, self.reborn_at)
    }
}

/// One live HAProxy's word on a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub haproxy: HaproxyName,
    /// Its HAProxy has not answered for a while: it serves no slot, and holds nothing up.
    pub gone: bool,
    /// It never tells of sessions.
    pub silent: bool,
    pub backend: BackendReport,
}

/// Where servers are served although no record of the table speaks of them: the table was lost, or
/// something else filled HAProxy. They get these slots back, and nobody else gets them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    pub slots: BTreeMap<ServerAddress, SlotNumber>,
    /// What live HAProxies hold in slots of the table.
    pub held: BTreeMap<SlotNumber, ServerAddress>,
}

/// What to write and what to tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// The spec to write, if it differs from the stored one.
    pub spec: Option<BackendSpec>,
    /// What a leader remembers of slots before nothing of it counts any more.
    #[serde(skip)]
    pub forgotten: BTreeMap<SlotNumber, Revision>,
    /// Written last: with it the table is what this leader says.
    #[serde(skip)]
    pub confirm: Option<Confirm>,
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
        self.changes_nothing() && self.forgotten.is_empty() && self.confirm.is_none()
    }

    /// The table already is what it should be.
    pub fn changes_nothing(&self) -> bool {
        self.actions.is_empty() && self.spec.is_none()
    }
}

/// A leader's word on the whole table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirm {
    pub confirmation: Confirmation,
    /// The revision that last wrote the key; `None` where there is none.
    pub seen: Option<Revision>,
}

/// What a slot remembers from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remember {
    pub removals: Removals,
    /// The revision that last wrote the key; `None` where there is none.
    pub seen: Option<Revision>,
}

impl Remember {
    /// What changes in a slot's memory with its record; `None` where nothing does. `known` is what
    /// still counts of what is `stored`.
    pub fn change(
        stored: Option<&StoredRemovals>,
        known: Option<&StoredRemovals>,
        before: Option<&SlotRecord>,
        after: Option<&SlotRecord>,
        now: Timestamp,
    ) -> Option<Self> {
        let known = known.map(|stored| stored.removals.clone()).unwrap_or_default();
        let mut removals = known.clone();
        let stays = |address| after.is_some_and(|after| after.endpoint.address == address);
        if let Some(before) = before.filter(|before| !stays(before.endpoint.address)) {
            let (id, address) = (before.endpoint.id.clone(), before.endpoint.address);
            removals.add(Removal { id, address, at: now });
        }
        if let Some(after) = after.filter(|after| after.state != SlotState::Rest) {
            removals.forget(after.endpoint.address);
        }
        let seen = stored.map(|stored| stored.modified);
        (removals != known).then_some(Self { removals, seen })
    }
}

/// A table's slots as they are once actions are written.
pub fn after(mut table: StoredTable, actions: &[Action]) -> StoredTable {
    for Action { slot, record, .. } in actions {
        match record.clone() {
            Some(record) => {
                let content = Content::Sound(record);
                // The store gives it one.
                let modified = Revision::default();
                table.slots.insert(*slot, StoredSlot { modified, content });
            }
            None => _ = table.slots.remove(slot),
        }
    }
    table
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
    /// Written in the same commit.
    #[serde(skip)]
    pub remember: Option<Remember>,
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
    /// It was to leave in another life of the store, of which nobody knows whether it still holds:
    /// HAProxy keeps what it has.
    Forget,
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
            Self::Forget => "forget",
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
