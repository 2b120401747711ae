use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;

use super::{SourceContext, Teller};
use crate::commands::discover::plan::Answer;
use crate::daemon::Backoff;
use crate::model::EndpointId;
use crate::registry;
use crate::store::{Entry, ErrorKind, LeaseId, Mirror, SharedStore};

/// How long a server whose registration was deleted may take to write it again: it reads it back
/// every 15 s at the latest.
const COMES_BACK: Duration = Duration::from_secs(30);

/// How long all questions after leases may take.
const ASK_DEADLINE: Duration = Duration::from_secs(5);

/// How many leases are asked for at a time.
const ASKED_AT_ONCE: usize = 16;

/// Follows a backend's registrations.
pub(super) async fn run(context: SourceContext, teller: Teller) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let watch = loop {
        match context.shared.registrations(&context.backend).await {
            Ok(watch) => break watch,
            Err(error) => {
                teller.tell(Err(error.to_string()));
                backoff.wait().await;
            }
        }
    };
    let mut mirror = Mirror::new(watch);
    mirror.ready().await;
    let mut deleted = Deleted::default();
    loop {
        let seen = match mirror.stale() {
            Some(error) => Err(error.to_string()),
            None => {
                deleted.look(&context.shared.store, mirror.entries().values()).await;
                Ok(answer(mirror.entries().values(), deleted.ids()))
            }
        };
        teller.tell(seen.clone());
        // A whole watch is a fresh look at any time, which need not be read again.
        while tokio::time::timeout(context.look_every, mirror.changed()).await.is_err() {
            if deleted.is_any_due() {
                break;
            }
            teller.tell(seen.clone());
        }
    }
}

/// Registrations that are gone although the leases that they were on live: a hand has deleted them,
/// and their servers write them again. What ends with its lease is gone for good.
#[derive(Debug, Default)]
struct Deleted {
    /// Those that were there at the last look, but for servers that leave.
    known: BTreeMap<EndpointId, LeaseId>,
    /// Until when each is waited for.
    awaited: BTreeMap<EndpointId, Instant>,
}

impl Deleted {
    async fn look<'a>(&mut self, store: &SharedStore, entries: impl Iterator<Item = &'a Entry>) {
        let (now, mut there) = (Instant::now(), BTreeMap::new());
        let mut seen = BTreeSet::new();
        for entry in entries {
            let Ok(id) = entry.key.last().parse::<EndpointId>() else { continue };
            let leaves = registry::read(entry).is_ok_and(|found| found.endpoint.leaving);
            if let Some(lease) = entry.lease.filter(|_| !leaves) {
                there.insert(id.clone(), lease);
            }
            seen.insert(id);
        }
        self.awaited.retain(|id, until| *until > now && !seen.contains(id));
        let known = std::mem::replace(&mut self.known, there);
        let gone: Vec<_> = known.into_iter().filter(|(id, _)| !seen.contains(id)).collect();
        if gone.is_empty() {
            return;
        }
        let ended = ended(store, gone.iter().map(|(_, lease)| *lease).collect()).await;
        let alive = gone.into_iter().filter(|(_, lease)| !ended.contains(lease));
        self.awaited.extend(alive.map(|(id, _)| (id, now + COMES_BACK)));
    }

    fn ids(&self) -> impl Iterator<Item = &EndpointId> {
        self.awaited.keys()
    }

    fn is_any_due(&self) -> bool {
        let now = Instant::now();
        self.awaited.values().any(|until| *until <= now)
    }
}

/// Those leases that the store says to have ended. A question is a renewal, which no dead lease
/// takes, and of which a living one has many.
async fn ended(store: &SharedStore, leases: BTreeSet<LeaseId>) -> BTreeSet<LeaseId> {
    let mut ended = BTreeSet::new();
    let ask = |lease| async move { (lease, store.keep_alive(lease).await) };
    let mut answers = futures::stream::iter(leases).map(ask).buffer_unordered(ASKED_AT_ONCE);
    let take = async {
        while let Some((lease, answer)) = answers.next().await {
            if answer.is_err_and(|error| error.kind() == ErrorKind::LeaseExpired) {
                ended.insert(lease);
            }
        }
    };
    if tokio::time::timeout(ASK_DEADLINE, take).await.is_err() {
        tracing::debug!("the store does not say in time which leases have ended");
    }
    ended
}

fn answer<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    deleted: impl Iterator<Item = &'a EndpointId>,
) -> Answer {
    let all = registry::read_all(entries);
    let mut answer = Answer::of(all.registrations.into_iter().map(|r| r.endpoint));
    for unreadable in &all.unreadable {
        // Whoever holds a slot under that id keeps it until its registration can be read again.
        answer.unreadable.extend(unreadable.key.last().parse().ok());
        answer.notes.push(unreadable.to_string());
    }
    for id in deleted {
        answer.unreadable.insert(id.clone());
        answer.notes.push(format!(
            "the registration of {id} was deleted, though its server lives: it keeps its slot, and \
             has {} s to come back",
            COMES_BACK.as_secs()
        ));
    }
    answer
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::store::{LeaseId, Revision};

    #[test]
    fn what_cannot_be_read_is_neither_placed_nor_missing() {
        let sound = r#"{"id":"a","address":"10.0.0.1:80","since":"2026-01-01T00:00:00Z"}"#;
        let entries = [("a", sound), ("b", "{")].map(|(id, value)| Entry {
            key: format!("registry/web/{id}").parse().unwrap(),
            value: Bytes::from_static(value.as_bytes()),
            created: Revision(1),
            modified: Revision(1),
            lease: Some(LeaseId(1)),
        });
        let deleted = ["c".parse().unwrap()];
        let answer = answer(entries.iter(), deleted.iter());
        assert_eq!(answer.endpoints.len(), 1);
        assert!(answer.knows(&"b".parse().unwrap()));
        assert!(answer.knows(&"c".parse().unwrap()));
        assert!(answer.notes[0].contains("registry/web/b"), "{:?}", answer.notes);
        assert!(answer.notes[1].contains("of c was deleted"), "{:?}", answer.notes);
    }

    fn entry(id: &str, lease: LeaseId, leaving: bool) -> Entry {
        let value = format!(
            r#"{{"id":"{id}","address":"10.0.0.1:80","since":"2026-01-01T00:00:00Z","leaving":{leaving}}}"#
        );
        Entry {
            key: format!("registry/web/{id}").parse().unwrap(),
            value: value.into(),
            created: Revision(1),
            modified: Revision(1),
            lease: Some(lease),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_deleted_registration_of_a_living_lease_is_awaited_and_not_for_ever() {
        let store: SharedStore = std::sync::Arc::new(crate::store::MemoryStore::new());
        let grant = async || store.grant(Duration::from_secs(600)).await.unwrap().id;
        let (living, dead) = (grant().await, grant().await);
        store.revoke(dead).await.unwrap();
        let all = [
            entry("a", living, false),
            entry("b", dead, false),
            entry("c", living, true),
            entry("d", living, false),
        ];
        let mut deleted = Deleted::default();
        deleted.look(&store, all.iter()).await;
        assert_eq!(deleted.ids().count(), 0);
        let awaits =
            |deleted: &Deleted| -> Vec<String> { deleted.ids().map(ToString::to_string).collect() };
        deleted.look(&store, [].iter()).await;
        assert_eq!(awaits(&deleted), ["a", "d"]);
        deleted.look(&store, all[3..].iter()).await;
        assert_eq!(awaits(&deleted), ["a"]);
        tokio::time::sleep(COMES_BACK).await;
        assert!(deleted.is_any_due());
        deleted.look(&store, all[3..].iter()).await;
        assert_eq!(awaits(&deleted), [""; 0]);
    }
}
