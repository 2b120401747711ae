//! What an election shows on `/metrics`.

use crate::metrics::{Gauge, Gauges, Scope};
use crate::model::{ElectionName, Timestamp};
use crate::store::Revision;

static LEADER: Gauges<1> =
    Gauges::new("lbctl_election_leader", "1 while this process leads the election", ["name"]);
static TOKEN: Gauges<1> = Gauges::new(
    "lbctl_election_token",
    "Fencing token of the leadership this process knows of; 0 for none",
    ["name"],
);
static LAST_SUCCESS: Gauges<1> = Gauges::new(
    "lbctl_election_last_success_timestamp_seconds",
    "When the store last answered this candidate",
    ["name"],
);

/// The gauges of one candidate, which go with it.
pub(super) struct Metrics {
    _scope: Scope,
    leader: Gauge,
    token: Gauge,
    last_success: Gauge,
}

impl Metrics {
    pub fn new(name: &ElectionName) -> Self {
        let (scope, name) = (Scope::default(), name.to_string());
        let metrics = Self {
            leader: scope.series(&LEADER, [name.clone()]),
            token: scope.series(&TOKEN, [name.clone()]),
            last_success: scope.series(&LAST_SUCCESS, [name]),
            _scope: scope,
        };
        metrics.leads(false, Revision::default());
        metrics
    }

    /// Whether this process leads, and the token of the leadership it knows of.
    pub fn leads(&self, leads: bool, token: Revision) {
        self.leader.set(if leads { 1.0 } else { 0.0 });
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        self.token.set(token.0 as f64);
    }

    /// The store has answered.
    pub fn succeeded(&self) {
        self.last_success.set(Timestamp::now().as_duration().as_secs_f64());
    }
}
