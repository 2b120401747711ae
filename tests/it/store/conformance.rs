//! The contract of [`Store`] as tests: every backend and every wrapper passes all of them. A new
//! property is added once, to the list below, and runs everywhere.

mod commits;
mod leases;
mod life;
mod limits;
mod observer;
mod watches;

use std::time::Duration;

use bytes::Bytes;
use lbctl::store::{Commit, Entry, Key, Prefix, Revision, SharedStore, Store, Txn};

pub use commits::*;
pub use leases::*;
pub use life::*;
pub use limits::*;
pub use observer::Observer;
pub use watches::*;

/// How long one test may take.
pub const TEST_DEADLINE: Duration = Duration::from_secs(90);

/// A store under test, with nothing in it.
pub trait Backend: Sized {
    /// A TTL that the store grants as it is asked for: short, yet long enough for a busy machine.
    const TTL: Duration = Duration::from_millis(1000);

    /// On a fresh prefix or file; `None` where the server is missing, with the reason printed.
    async fn fresh() -> Option<Self>;

    /// One more handle on the same data, such as another process would have.
    async fn handle(&self) -> SharedStore;

    /// Breaks the way of all handles to the store until [`Self::mend`]; `false` where nothing can
    /// break.
    async fn cut(&self) -> bool {
        false
    }

    async fn mend(&self) {}

    /// Changes the store so that no watch opened so far can go on from where it is: its history is
    /// gone. `false` where that cannot be.
    async fn lose_history(&self) -> bool {
        false
    }

    /// Keeps a copy of all the data; `false` where there is no way.
    async fn copy(&self) -> bool {
        false
    }

    /// Puts the data back to that copy, under all handles.
    async fn put_back(&self) {}

    /// Begins with nothing again, under all handles; `false` where there is no way.
    async fn lose_all(&self) -> bool {
        false
    }
}

/// Runs the whole suite on a backend, one test function a property.
macro_rules! conformance {
    ($backend:ty) => {
        $crate::store::conformance::conformance! { @each $backend:
            absent_guard_creates_once
            created_guard_holds_until_deletion
            unmodified_guard_sees_every_write
            conflict_writes_nothing
            commit_is_all_at_one_revision
            compare_and_swap_loses_no_update
            one_of_many_creators_wins
            revisions_strictly_increase
            recreated_key_has_a_new_created
            deleting_absent_keys_changes_nothing
            prefixes_are_exact
            listings_are_in_key_order
            listing_is_of_one_revision
            cancelled_commits_are_whole_or_nothing
            cancelled_calls_leave_the_store_usable
            values_come_back_byte_for_byte
            too_large_is_refused_whole
            senseless_transactions_are_refused
            keys_go_up_to_their_limit
            lease_expiry_deletes_its_keys
            keep_alive_holds_a_lease
            keep_alive_of_a_dead_lease_is_refused
            put_on_a_dead_lease_writes_nothing
            revoke_deletes_at_once
            put_detaches_from_the_old_lease
            expired_keys_are_absent_to_guards
            leases_end_apart
            any_ttl_is_granted
            watch_hears_every_commit_once
            watch_started_between_writes_misses_nothing
            watch_hears_its_prefix_only
            watch_hears_leases_expire_by_itself
            watch_outlives_its_handle
            watch_that_is_not_read_heals
            watch_that_is_left_halfway_holds_up_nobody
            watch_heals_after_a_cut
            watch_started_during_a_cut_heals
            watch_heals_after_history_is_lost
            life_is_one_for_all_handles_and_stays
            a_store_put_back_to_a_copy_begins_another_life
            a_store_that_lost_all_begins_another_life
            commits_after_a_loss_are_not_mixed_with_those_before
        }
    };
    (@each $backend:ty: $($test:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            use $crate::store::conformance::{self, Backend as _, TEST_DEADLINE};
            let Some(backend) = <$backend>::fresh().await else { return };
            let test = conformance::$test(&backend);
            tokio::time::timeout(TEST_DEADLINE, test).await.expect("the test takes too long");
        }
    )*};
}
pub(crate) use conformance;

pub fn key(text: &str) -> Key {
    text.parse().unwrap()
}

pub fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// Commits what must not conflict.
pub async fn commit(store: &dyn Store, txn: Txn) -> Revision {
    match store.commit(txn).await.unwrap() {
        Commit::Committed(revision) => revision,
        Commit::Conflict => panic!("an unexpected conflict"),
    }
}

pub async fn put(store: &dyn Store, name: &str, value: impl Into<Bytes>) -> Revision {
    commit(store, Txn::new().put(key(name), value)).await
}

pub async fn delete(store: &dyn Store, name: &str) -> Revision {
    commit(store, Txn::new().delete(key(name))).await
}

pub async fn get(store: &dyn Store, name: &str) -> Option<Entry> {
    store.get(&key(name)).await.unwrap()
}

/// The names under a prefix, in the order of the listing.
pub async fn names(store: &dyn Store, under: &str) -> Vec<String> {
    let listing = store.list(&prefix(under)).await.unwrap();
    listing.entries.iter().map(|e| e.key.to_string()).collect()
}

/// Waits until a key is absent.
pub async fn gone(store: &dyn Store, name: &str) {
    crate::support::eventually_async(&format!("{name} to vanish"), || async move {
        get(store, name).await.is_none().then_some(())
    })
    .await;
}
