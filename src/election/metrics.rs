//! What an election shows on `/metrics`.

use std::sync::Once;

use metrics::{Gauge, describe_gauge, gauge};

use crate::model::{ElectionName, Timestamp};
use crate::store::Revision;

/// The gauges of one candidate.
pub(super) struct Metrics {
    leader: Gauge,
    token: Gauge,
    last_success: Gauge,
}

impl Metrics {
    pub fn new(name: &ElectionName) -> Self {
        describe();
        let name = name.to_string();
        let metrics = Self {
            leader: gauge!("lbctl_election_leader", "name" => name.clone()),
            token: gauge!("lbctl_election_token", "name" => name.clone()),
            last_success: gauge!("lbctl_election_last_success_timestamp_seconds", "name" => name),
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

fn describe() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        describe_gauge!("lbctl_election_leader", "1 while this process leads the election");
        describe_gauge!(
            "lbctl_election_token",
            "Fencing token of the leadership this process knows of; 0 for none"
        );
        describe_gauge!(
            "lbctl_election_last_success_timestamp_seconds",
            "When the store last answered this candidate"
        );
    });
}
