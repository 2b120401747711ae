use crate::model::{BackendName, EndpointId, HaproxyReport, SlotNumber, SlotRecord, SlotState};
use crate::store::Revision;

/// How far a leaving server has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Departure {
    /// New sessions may still come; what is waited for, in a sentence fragment.
    Waiting(String),
    /// No new session comes: it holds no slot, its slot is at rest, or every live HAProxy has
    /// drained it. What they said they still have on it.
    Drained { sessions: u64 },
}

/// How far the server with this id has come in leaving a backend.
///
/// `slots` are the backend's, each with the revision that last wrote it; `reports` are those of the
/// live HAProxies. A HAProxy that does not have the backend does not count.
pub fn departure<'a>(
    id: &EndpointId,
    backend: &BackendName,
    slots: impl IntoIterator<Item = (SlotNumber, Revision, &'a SlotRecord)>,
    reports: impl IntoIterator<Item = &'a HaproxyReport>,
) -> Departure {
    let held: Vec<_> = slots
        .into_iter()
        .filter(|(_, _, record)| record.endpoint.id == *id && record.state != SlotState::Rest)
        .collect();
    if let Some((number, _, _)) = held.iter().find(|(_, _, r)| r.state == SlotState::Ready) {
        return Departure::Waiting(format!("slot {number} to be drained"));
    }
    let mut sessions: u64 = 0;
    for report in reports {
        let Some(seen) = report.backends.get(backend) else {
            continue;
        };
        for (number, modified, _) in &held {
            if !seen.drains(*number, *modified) {
                return Departure::Waiting(format!("HAProxy {} to drain it", report.name));
            }
            let here = seen.sessions.get(number).copied().unwrap_or(0);
            sessions = sessions.saturating_add(here);
        }
    }
    Departure::Drained { sessions }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BackendReport;

    fn slot(id: &str, state: SlotState) -> SlotRecord {
        let json = format!(
            r#"{{"id":"{id}","address":"10.0.0.1:80","state":"ready",
                "since":"2026-01-01T00:00:00Z","started":"2026-01-01T00:00:00Z"}}"#
        );
        SlotRecord { state, ..serde_json::from_str(&json).unwrap() }
    }

    fn report(backend: &str, applied: u64, sessions: u64) -> HaproxyReport {
        let one = SlotNumber::new(1).unwrap();
        let seen = BackendReport {
            applied: Revision(applied),
            sessions: [(one, sessions)].into(),
            ..BackendReport::default()
        };
        HaproxyReport {
            name: "lb1".parse().unwrap(),
            pid: None,
            version: None,
            at: "2026-01-01T00:00:00Z".parse().unwrap(),
            backends: [(backend.parse().unwrap(), seen)].into(),
        }
    }

    fn of_a(record: &SlotRecord, reports: &[HaproxyReport]) -> Departure {
        let slots = [(SlotNumber::new(1).unwrap(), Revision(7), record)];
        departure(&"a".parse().unwrap(), &"web".parse().unwrap(), slots, reports)
    }

    const NONE: Departure = Departure::Drained { sessions: 0 };

    fn waits_for(departure: Departure, text: &str) {
        assert_eq!(departure, Departure::Waiting(text.into()));
    }

    #[test]
    fn a_server_without_a_slot_of_its_own_may_go() {
        assert_eq!(of_a(&slot("b", SlotState::Ready), &[report("web", 0, 9)]), NONE);
        assert_eq!(of_a(&slot("a", SlotState::Rest), &[report("web", 0, 9)]), NONE);
    }

    #[test]
    fn a_ready_slot_must_drain_first() {
        waits_for(of_a(&slot("a", SlotState::Ready), &[]), "slot 1 to be drained");
    }

    #[test]
    fn every_live_haproxy_must_have_applied_the_drain_and_their_sessions_add_up() {
        let draining = slot("a", SlotState::Drain);
        let with = |reports: &[HaproxyReport]| of_a(&draining, reports);
        waits_for(with(&[report("web", 6, 0)]), "HAProxy lb1 to drain it");
        let two = with(&[report("web", 7, 1), report("web", 8, 2)]);
        assert_eq!(two, Departure::Drained { sessions: 3 });
        assert_eq!(with(&[report("web", 7, 0)]), NONE);
    }

    #[test]
    fn a_haproxy_without_the_backend_or_none_at_all_holds_nothing_up() {
        let draining = slot("a", SlotState::Drain);
        assert_eq!(of_a(&draining, &[report("other", 0, 5)]), NONE);
        assert_eq!(of_a(&draining, &[]), NONE);
    }
}
