//! Leadership with fencing tokens on any store.

use tokio_util::sync::CancellationToken;

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
}

impl Leadership {
    /// Holds just as long as this leadership does.
    pub fn guard(&self) -> Guard {
        Guard::CreatedAt(self.key.clone(), self.token.0)
    }

    /// A commit that the store itself refuses once this leadership has ended.
    pub async fn commit(&self, store: &dyn Store, txn: Txn) -> Result<Commit> {
        store.commit(txn.guard(self.guard())).await
    }
}
