use super::data::{Logged, Stored};
use super::failure::{Failure, Outcome};
use crate::store::{Change, Entry, Key, LeaseId, Listing, Prefix, Revision, StoreLife};

/// Turns stored keys, with the store's prefix, into keys without it, and back.
#[derive(Debug, Clone)]
pub(super) struct KeyScope(pub(super) Prefix);

impl KeyScope {
    pub(super) fn stored_key(&self, key: &Key) -> String {
        format!("{}{key}", self.0.start())
    }

    /// The whole prefix behind the store's own.
    pub(super) fn stored_prefix(&self, prefix: &Prefix) -> Prefix {
        Prefix::of([self.0.as_str(), prefix.as_str()].into_iter().filter(|part| !part.is_empty()))
    }

    pub(super) fn entry(&self, stored: Stored) -> Outcome<Entry> {
        Ok(Entry {
            key: self.key(&stored.key)?,
            value: stored.value,
            created: revision(stored.created),
            modified: revision(stored.modified),
            lease: stored.lease.map(|id| LeaseId(id.unsigned_abs())),
        })
    }

    pub(super) fn listing(
        &self,
        life: StoreLife,
        head: i64,
        stored: Vec<Stored>,
    ) -> Outcome<Listing> {
        let entries = stored.into_iter().filter_map(|stored| self.readable(self.entry(stored)));
        let entries = entries.collect();
        Ok(Listing { life, revision: revision(head), entries })
    }

    /// Passes over what lbctl did not write, and says so: the rest is still right.
    pub(super) fn readable<T>(&self, read: Outcome<T>) -> Option<T> {
        let unreadable = |failure: Failure| {
            let error = failure.into_error("list", self.0.as_str());
            tracing::warn!(%error, "left out an entry that lbctl did not write");
        };
        read.map_err(unreadable).ok()
    }

    pub(super) fn change(&self, logged: &Logged) -> Outcome<Change> {
        Ok(match logged {
            Logged::Put(stored) => Change::Put(self.entry(stored.clone())?),
            Logged::Delete { key, revision: at } => {
                Change::Delete { key: self.key(key)?, revision: revision(*at) }
            }
        })
    }

    fn key(&self, stored: &str) -> Outcome<Key> {
        let relative = stored.strip_prefix(&self.0.start()).unwrap_or(stored);
        relative.parse().map_err(|error| Failure::corrupt(format!("a stored key: {error}")))
    }
}

pub(super) fn revision(stored: i64) -> Revision {
    Revision(stored.unsigned_abs())
}
