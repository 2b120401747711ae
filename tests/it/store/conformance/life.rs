use lbctl::store::{Mirror, Prefix, Revision, SharedStore, StoreLife};

use super::{Backend, prefix, put};
use crate::support::eventually_async;

async fn life(store: &SharedStore) -> StoreLife {
    store.list(&prefix("life")).await.unwrap().life
}

/// The first reading decides, whatever it reads and whoever else reads at that moment.
pub async fn life_is_one_for_all_handles_and_stays(backend: &impl Backend) {
    let (one, other) = (backend.handle().await, backend.handle().await);
    let mut mirror = Mirror::new(one.watch(&Prefix::root()).await.unwrap());
    let ((), first, second) = tokio::join!(mirror.ready(), life(&one), life(&other));
    assert!(!first.is_unknown());
    assert_eq!((&first, mirror.life()), (&second, &first));
    put(&other, "k", "v").await;
    backend.lose_history().await;
    if backend.cut().await {
        backend.mend().await;
    }
    let after: Revision = eventually_async("a write", || async {
        let written = other.commit(lbctl::store::Txn::new().put(super::key("k"), "w")).await;
        match written.ok()? {
            lbctl::store::Commit::Committed(revision) => Some(revision),
            lbctl::store::Commit::Conflict => None,
        }
    })
    .await;
    while mirror.revision() < after {
        mirror.changed().await;
    }
    assert_eq!((mirror.life(), mirror.rebirths()), (&first, 0));
    assert_eq!(life(&backend.handle().await).await, first);
}
