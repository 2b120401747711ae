//! What is stored: the slot table, registrations and HAProxy reports. All are JSON; unknown fields
//! are ignored, so that an older lbctl reads what a newer one wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    BackendName, EndpointId, HaproxyName, Label, Ramp, Revision, ServerAddress, SlotNumber,
    StoreLife, Timestamp, Weight, time,
};

/// A discovered address with its metadata, before and while it holds a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub id: EndpointId,
    pub address: ServerAddress,
    /// Shown to people; the id where the source has nothing better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Label>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Label>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Label>,
    /// The weight to ramp up to; the ramp's `max` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<Weight>,
    /// It is going away: drain it, then free its slot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}

/// `registry/<backend>/<id>`: a server that announced itself, on its own lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    #[serde(flatten)]
    pub endpoint: Endpoint,
    pub since: Timestamp,
}

/// `backends/<backend>/spec`: what holds for the whole table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendSpec {
    /// How many slots the table has; each HAProxy needs as many places.
    pub slots: u32,
    pub ramp: Ramp,
    /// How long a server may drain before its slot is freed all the same.
    #[serde(with = "time::friendly")]
    pub drain_deadline: Duration,
    /// How long a server drains even if it has no session.
    #[serde(default, with = "time::friendly", skip_serializing_if = "Duration::is_zero")]
    pub drain_at_least: Duration,
    /// How long a freed slot rests before another server may have it.
    #[serde(with = "time::friendly")]
    pub rest: Duration,
    /// Endpoints that found no free slot, for people to see.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unplaced: Vec<EndpointId>,
}

/// `backends/<backend>/slots/<00001>`: who holds a slot. No key: the slot is free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRecord {
    #[serde(flatten)]
    pub endpoint: Endpoint,
    pub state: SlotState,
    /// When it entered this state.
    pub since: Timestamp,
    /// When its weight began to ramp.
    pub started: Timestamp,
}

/// `backends/<backend>/removed/<00001>`: the servers that left a slot by a leader's decision, the
/// last one at the end. A HAProxy that was away meanwhile may still serve one of them: without this
/// it could not tell a server that was removed from one whose record was lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removals {
    pub servers: Vec<Removal>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    pub id: EndpointId,
    pub address: ServerAddress,
    pub at: Timestamp,
}

impl Removals {
    /// How many a slot remembers: a HAProxy that slept through more holds what it has, and says so.
    const MAX: usize = 16;

    /// Remembers one more, and forgets the oldest where there are too many.
    pub fn add(&mut self, removal: Removal) {
        self.forget(removal.address);
        self.servers.push(removal);
        let excess = self.servers.len().saturating_sub(Self::MAX);
        self.servers.drain(..excess);
    }

    /// Forgets an address that serves again.
    pub fn forget(&mut self, address: ServerAddress) {
        self.servers.retain(|removal| removal.address != address);
    }

    pub fn addresses(&self) -> impl Iterator<Item = ServerAddress> {
        self.servers.iter().map(|removal| removal.address)
    }
}

/// `backends/<backend>/confirmed`: a leader has compared the whole table with what its source sees,
/// in this life of the store. Until one has, what the table says of servers that are to go may be
/// older than what HAProxy serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    pub life: StoreLife,
    /// The fencing token of the leadership.
    pub token: Revision,
}

/// What a held slot's server is to be in HAProxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotState {
    /// Takes traffic at its ramp's weight: HAProxy `ready`.
    Ready,
    /// Finishes its sessions: HAProxy `drain`.
    Drain,
    /// Its server has gone and the slot rests until every live HAProxy has it in maint and the
    /// rest time is over: HAProxy `maint`.
    Rest,
}

/// `haproxies/<name>`: what one HAProxy's sync applied and saw, on a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaproxyReport {
    pub name: HaproxyName,
    /// HAProxy's process id and version, as it says them itself. No `pid`: for a while no HAProxy
    /// has answered, so that nobody needs to wait for it (it serves no slot, and starts afresh).
    pub pid: Option<u32>,
    pub version: Option<String>,
    pub at: Timestamp,
    /// By the table's backend name.
    pub backends: BTreeMap<BackendName, BackendReport>,
}

/// One table as one HAProxy has it. Where a table feeds several HAProxy backends, the worst of them
/// counts and sessions are added up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendReport {
    /// Every change of the table up to this revision was applied and then seen to hold; 0 before
    /// the first. A slot at rest whose entry is not newer than this is in maint here.
    pub applied: Revision,
    /// Observed equalled desired at the last look.
    pub converged: bool,
    /// How many slots differed at the last look.
    pub drift: u32,
    /// Live sessions of each draining slot.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sessions: BTreeMap<SlotNumber, u64>,
    /// Slots that are in maint and still have sessions of the servers that left them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub crowded: BTreeSet<SlotNumber>,
    /// Why it cannot converge, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Where it follows HSDO's table, which has no revisions, so that none counts as applied: the
    /// slots that may not be in maint here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<BTreeSet<SlotNumber>>,
    /// Servers that are there though the table gives their slots to nobody or to others, and whom no
    /// record sends away: they stay.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub held: BTreeMap<SlotNumber, ServerAddress>,
    /// The life of the store that `applied` counts in; absent before the first table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life: Option<StoreLife>,
}

impl BackendReport {
    /// Whether a slot that has been draining since its entry was modified gets no new sessions here.
    pub fn drains(&self, slot: SlotNumber, modified: Revision) -> bool {
        match &self.serving {
            None => self.applied >= modified,
            Some(serving) => !serving.contains(&slot) || self.sessions.contains_key(&slot),
        }
    }

    /// Whether a slot that has been at rest since its entry was modified is in maint here.
    pub fn has_left(&self, slot: SlotNumber, modified: Revision) -> bool {
        match &self.serving {
            None => self.applied >= modified && !self.held.contains_key(&slot),
            Some(serving) => !serving.contains(&slot),
        }
    }
}
