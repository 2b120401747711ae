use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::project::Ledger;
use crate::commands::discover::plan::{Action, ActionKind, Answer, Policy, Remember};
use crate::hsdo::{Row, Rows, Server};
use crate::model::{
    Endpoint, EndpointId, ServerAddress, SlotNumber, SlotRecord, SlotState, Timestamp, Weight,
};
use crate::tables::{Content, StoredSlot, StoredTable};

/// What an adoption depends on.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    pub policy: &'a Policy,
    pub table: &'a StoredTable,
    pub rows: &'a Rows,
    pub ledger: &'a Ledger,
    pub answer: &'a Answer,
    /// Servers whose absence from the answer enough looks have confirmed.
    pub confirmed: &'a BTreeSet<EndpointId>,
    pub now: Timestamp,
}

/// What of HSDO's rows comes into lbctl's table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Adoption {
    pub actions: Vec<Action>,
    /// Rows that HSDO has given to servers which the source does not see: left alone until it does,
    /// or until enough looks have missed them.
    pub strangers: BTreeMap<SlotNumber, Server>,
}

/// Takes over what HSDO's server has placed, each server in the slot of its row.
///
/// Without a table of its own yet, lbctl takes all rows as they are: no server moves, and none
/// loses weight. Later it takes those that HSDO's server gives to servers beside it. A slot whose
/// server the source still sees is never given away.
pub fn adopt(sight: &Sight<'_>) -> Adoption {
    let mut adopter = Adopter::new(sight);
    let mut rows: Vec<(&Row, &Server)> = sight.rows.sound().filter_map(held).collect();
    rows.retain(|(row, _)| row.slot.get() <= sight.policy.slots);
    // Of several rows of one server the one with the greatest weight stays.
    rows.sort_by_key(|(row, _)| (Reverse(row.weight), row.slot));
    for (row, server) in rows {
        adopter.take(row, server);
    }
    adopter.adoption.actions.sort_by_key(|action| action.slot);
    adopter.adoption
}

/// Why HSDO's servers cannot be taken over yet.
pub fn obstacle(rows: &Rows, answer: Option<&Answer>, slots: u32) -> Option<&'static str> {
    let mut held = rows.sound().filter_map(held).peekable();
    held.peek()?;
    if held.any(|(row, _)| row.slot.get() > slots) {
        return Some("HSDO's table has servers in rows beyond this backend's slots");
    }
    match answer {
        None => Some("HSDO's servers are taken over once the source gives an answer"),
        Some(answer) if answer.endpoints.is_empty() => {
            Some("HSDO's table has servers, and the source sees none at all")
        }
        Some(_) => None,
    }
}

/// Slots whose rows are not known to be free: no new server may have them.
pub fn barred(rows: &Rows) -> BTreeSet<SlotNumber> {
    rows.iter().map(|(slot, _)| slot).filter(|slot| !rows.is_free(*slot)).collect()
}

/// Whether a row is that of a slot's server, by either of the things it is known by.
pub(super) fn is_of(server: &Server, endpoint: &Endpoint) -> bool {
    server.name == endpoint.id || server.ip == endpoint.address.ip()
}

fn held(row: &Row) -> Option<(&Row, &Server)> {
    Some((row, row.holder()?))
}

struct Adopter<'a> {
    sight: &'a Sight<'a>,
    /// Who is ready, this adoption included.
    ids: BTreeSet<EndpointId>,
    ips: BTreeSet<IpAddr>,
    /// Where servers listen of which nothing but the row is known.
    port: Option<u16>,
    adoption: Adoption,
}

impl<'a> Adopter<'a> {
    fn new(sight: &'a Sight<'a>) -> Self {
        let ready = || sight.table.records().filter(|(_, r)| r.state == SlotState::Ready);
        Self {
            sight,
            ids: ready().map(|(_, record)| record.endpoint.id.clone()).collect(),
            ips: ready().map(|(_, record)| record.endpoint.address.ip()).collect(),
            port: usual_port(sight),
            adoption: Adoption::default(),
        }
    }

    fn take(&mut self, row: &Row, server: &Server) {
        let known = self.known(server);
        let stored = self.sight.table.slots.get(&row.slot);
        if stored.is_some_and(|stored| self.is_kept(row.slot, stored, server, known.is_some())) {
            return;
        }
        let Some(state) = self.state(row, server, known) else {
            self.adoption.strangers.insert(row.slot, server.clone());
            return;
        };
        let Some(endpoint) = self.endpoint(server, known) else {
            self.adoption.strangers.insert(row.slot, server.clone());
            return;
        };
        if state == SlotState::Ready {
            self.ids.insert(endpoint.id.clone());
            self.ips.insert(endpoint.address.ip());
        }
        let Sight { policy, now, .. } = *self.sight;
        let started = policy.ramp.start_for(row.weight, now, endpoint.weight);
        let (server, since) = (endpoint.id.clone(), now);
        let record = SlotRecord { endpoint, state, since, started };
        let before = stored.and_then(|stored| match &stored.content {
            Content::Sound(record) => Some(record),
            Content::Damaged(_) => None,
        });
        let removed = self.sight.table.removed.get(&row.slot);
        self.adoption.actions.push(Action {
            slot: row.slot,
            kind: ActionKind::Adopt,
            server,
            remember: Remember::change(removed, removed, before, Some(&record), now),
            record: Some(record),
            seen: stored.map(|stored| stored.modified),
        });
    }

    /// Whether a slot of lbctl's stays as it is whatever HSDO's server has written into its row.
    fn is_kept(&self, slot: SlotNumber, stored: &StoredSlot, server: &Server, known: bool) -> bool {
        let Content::Sound(record) = &stored.content else { return true };
        let same = is_of(server, &record.endpoint);
        match record.state {
            SlotState::Ready => same || !known || self.sight.answer.knows(&record.endpoint.id),
            SlotState::Drain => same,
            // Else the row is still to be freed, which is lbctl's own to do.
            SlotState::Rest => same && !self.sight.ledger.has_shown(slot, stored.modified),
        }
    }

    /// The source's own word on a server: of its id, or else of its address, since HSDO knows a
    /// server by that.
    fn known(&self, server: &Server) -> Option<&'a Endpoint> {
        let endpoints = &self.sight.answer.endpoints;
        let at_its_address = || endpoints.values().find(|e| e.address.ip() == server.ip);
        endpoints.get(&server.name).or_else(at_its_address)
    }

    /// What becomes of a row's server; `None` leaves the row alone.
    fn state(&self, row: &Row, server: &Server, known: Option<&Endpoint>) -> Option<SlotState> {
        let id = known.map_or(&server.name, |endpoint| &endpoint.id);
        let double = self.ids.contains(id) || self.ips.contains(&server.ip);
        if row.weight == Weight::ZERO || double || self.sight.answer.leaves(id) {
            return Some(SlotState::Drain);
        }
        if known.is_some() || self.sight.table.spec.is_none() {
            return Some(SlotState::Ready);
        }
        // HSDO's source sees for a while what lbctl's no longer does.
        let gone = self.was_removed(server) || self.sight.confirmed.contains(&server.name);
        (gone || self.comes_back()).then_some(SlotState::Drain)
    }

    /// Whether lbctl has left HSDO's table for a while: its rows then tell of servers that have gone
    /// meanwhile, and nothing that HSDO's server knows better.
    fn comes_back(&self) -> bool {
        let spec = self.sight.table.spec();
        let origin = spec.and_then(|spec| spec.origin.as_ref());
        origin.is_some_and(|origin| origin.hsdo_table.is_none())
    }

    /// Whether lbctl has just taken it out of another slot, or of this one.
    fn was_removed(&self, server: &Server) -> bool {
        let mut left = self.sight.table.records().filter(|(_, r)| r.state != SlotState::Ready);
        left.any(|(_, record)| is_of(server, &record.endpoint))
    }

    fn endpoint(&self, server: &Server, known: Option<&Endpoint>) -> Option<Endpoint> {
        let port = known.map(|endpoint| endpoint.address.port()).or(self.port)?;
        // Where the source has another address for it, the planner moves it as it moves others.
        let address = ServerAddress::new(server.ip, port).ok()?;
        let made = || Endpoint {
            id: server.name.clone(),
            address,
            name: None,
            group: server.group.clone(),
            zone: None,
            weight: None,
            // Or it would count as one that vanished, once its source tells of it no more.
            leaving: self.sight.answer.leaves(&server.name),
        };
        Some(Endpoint { address, ..known.cloned().unwrap_or_else(made) })
    }
}

/// The port that most servers have: HSDO has one for all of them, and its rows have none.
fn usual_port(sight: &Sight<'_>) -> Option<u16> {
    let answer = sight.answer.endpoints.values();
    let table = sight.table.records().map(|(_, record)| &record.endpoint);
    let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
    for endpoint in answer.chain(table) {
        *counts.entry(endpoint.address.port()).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(port, _)| port)
}
