use serde::Serialize;

use crate::model::{BackendName, Endpoint, GroupName, Label, ServerPrefix, SlotNumber};

/// One HAProxy backend and the table that fills it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// HAProxy's backend.
    pub backend: BackendName,
    /// What stands before the number in the servers' names (`srv` of `srv1`); detected where
    /// absent, in slots mode alone.
    pub prefix: Option<ServerPrefix>,
    /// The table.
    pub from: BackendName,
    /// Used in place of each endpoint's own port.
    pub port: Option<u16>,
    /// The port is that of the place in HAProxy's configuration.
    pub keep_port: bool,
    pub takes: Selector,
    pub mode: Mode,
    pub licence: Licence,
}

/// What lbctl may do that it does not do unasked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Licence {
    /// Servers that lbctl did not place count as its places: the table's servers may displace them.
    pub take_over: bool,
    /// Servers that no record of the table speaks of may leave.
    pub allow_drop: bool,
    /// Sessions that outlive a drain are cut.
    pub end_sessions: bool,
}

impl Target {
    /// The setting that names its backend.
    pub fn named_by(&self) -> &'static str {
        match self.takes {
            Selector::Matching(_) => "--backend",
            Selector::NoneOf(_) => "fallback (HSDO's CLIENT_HAPROXY_FALLBACK_BACKEND_NAME)",
        }
    }
}

/// Which of a table's endpoints a HAProxy backend serves. The others are in maint there, so that
/// every slot has a decision in every backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    Matching(Filter),
    /// A fallback: what none of these takes. Of an empty list that is everything.
    NoneOf(Vec<Filter>),
}

/// Groups and zones; an empty list does not narrow. An endpoint without a group matches no list of
/// groups, and the same for zones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub groups: Vec<GroupName>,
    pub zones: Vec<Label>,
}

/// How servers come to be in HAProxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// The configuration has a `server-template` line with a place for each slot.
    Slots,
    /// Servers are added and deleted at runtime (HAProxy 2.6 and later).
    Dynamic(Dynamic),
}

/// How a dynamic server is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dynamic {
    /// Further words of the `server` line, such as `check inter 2s`.
    pub options: String,
    /// Added to the slot's number to give the server's `id`, which consistent hashing goes by.
    pub id_base: u32,
}

impl Dynamic {
    /// The `id` of a slot's server.
    pub fn id_of(&self, slot: SlotNumber) -> u32 {
        self.id_base.saturating_add(slot.get())
    }
}

/// The mode's name, as it is written in settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ModeName {
    /// Fill the places of a `server-template` line
    #[default]
    Slots,
    /// Add and delete servers at runtime
    Dynamic,
}

impl Selector {
    pub fn takes(&self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Matching(filter) => filter.matches(endpoint),
            Self::NoneOf(filters) => !filters.iter().any(|filter| filter.matches(endpoint)),
        }
    }
}

impl Filter {
    fn matches(&self, endpoint: &Endpoint) -> bool {
        listed(&self.groups, endpoint.group.as_ref()) && listed(&self.zones, endpoint.zone.as_ref())
    }
}

fn listed<T: PartialEq>(list: &[T], label: Option<&T>) -> bool {
    list.is_empty() || label.is_some_and(|label| list.contains(label))
}
