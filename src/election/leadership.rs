use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use crate::store::{Commit, Guard, Key, Result, Revision, Store, Txn};

/// The strictly increasing number of one leadership: the revision that created the leader key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct FencingToken(pub Revision);

/// One leadership, from the won campaign to its end.
#[derive(Debug, Clone)]
pub struct Leadership {
    pub token: FencingToken,
    /// The leader key.
    pub key: Key,
    /// Cancelled when this leadership has ended or can no longer be proven.
    pub lost: CancellationToken,
    clock: Clock,
    until: Arc<Mutex<Duration>>,
}

impl Leadership {
    pub(super) fn new(token: FencingToken, key: Key, clock: Clock, until: Duration) -> Self {
        let until = Arc::new(Mutex::new(until));
        Self { token, key, lost: CancellationToken::new(), clock, until }
    }

    /// Whether it is proven at this instant: by the clock, so that it is also right in a process
    /// that has just been resumed, or on a host that has just woken up, and has not heard of its
    /// loss yet. `lost` may come up to a third of a TTL later then.
    pub fn is_held(&self) -> bool {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        !self.lost.is_cancelled() && self.clock.now() < until
    }

    /// Holds just as long as this leadership does.
    pub fn guard(&self) -> Guard {
        Guard::CreatedAt(self.key.clone(), self.token.0)
    }

    /// A commit that the store itself refuses once this leadership has ended.
    pub async fn commit(&self, store: &dyn Store, txn: Txn) -> Result<Commit> {
        store.commit(txn.guard(self.guard())).await
    }

    pub(super) fn extend(&self, until: Duration) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}
