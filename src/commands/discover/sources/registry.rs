use super::{SourceContext, Teller};
use crate::commands::discover::plan::Answer;
use crate::daemon::Backoff;
use crate::registry;
use crate::store::{Entry, Mirror};
use std::time::Duration;

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
    loop {
        let seen = match mirror.stale() {
            Some(error) => Err(error.to_string()),
            None => Ok(answer(mirror.entries().values())),
        };
        teller.tell(seen.clone());
        // A whole watch is a fresh look at any time, which need not be read again.
        while tokio::time::timeout(context.look_every, mirror.changed()).await.is_err() {
            teller.tell(seen.clone());
        }
    }
}

fn answer<'a>(entries: impl Iterator<Item = &'a Entry>) -> Answer {
    let all = registry::read_all(entries);
    let mut answer = Answer::of(all.registrations.into_iter().map(|r| r.endpoint));
    for unreadable in &all.unreadable {
        // Whoever holds a slot under that id keeps it until its registration can be read again.
        answer.unreadable.extend(unreadable.key.last().parse().ok());
        answer.notes.push(unreadable.to_string());
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
        let answer = answer(entries.iter());
        assert_eq!(answer.endpoints.len(), 1);
        assert!(answer.knows(&"b".parse().unwrap()));
        assert!(answer.notes[0].contains("registry/web/b"), "{:?}", answer.notes);
    }
}
