//! An etcd that is restored from a snapshot, or rebuilt empty, under open watches.

use std::sync::Mutex;

use lbctl::store::{Commit, Mirror, SharedStore, StoreLife, Txn};

use super::store;
use crate::store::conformance::{self, Backend, TEST_DEADLINE};
use crate::support::etcd::Etcd;

struct Restorable(Mutex<Etcd>);

impl Backend for Restorable {
    async fn fresh() -> Option<Self> {
        Some(Self(Mutex::new(Etcd::start()?)))
    }

    async fn handle(&self) -> SharedStore {
        let url = self.0.lock().unwrap().url("test");
        store(&url).await
    }

    async fn copy(&self) -> bool {
        self.0.lock().unwrap().save();
        true
    }

    async fn put_back(&self) {
        self.0.lock().unwrap().put_back();
    }

    async fn lose_all(&self) -> bool {
        self.0.lock().unwrap().lose_all();
        true
    }
}

macro_rules! on_its_own {
    ($($test:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            let Some(backend) = Restorable::fresh().await else { return };
            let test = conformance::$test(&backend);
            tokio::time::timeout(TEST_DEADLINE, test).await.expect("the test takes too long");
        }
    )*};
}

on_its_own! {
    a_store_put_back_to_a_copy_begins_another_life
    a_store_that_lost_all_begins_another_life
    commits_after_a_loss_are_not_mixed_with_those_before
}

/// The life that a process which begins now gets to know.
async fn life_now(etcd: &Etcd) -> StoreLife {
    let watch = store(&etcd.url("test")).await.watch(&conformance::prefix("")).await.unwrap();
    let mut mirror = Mirror::new(watch);
    mirror.changed().await;
    assert!(mirror.is_loaded(), "{:?}", mirror.stale());
    mirror.life().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_begins_no_other_life() {
    let Some(mut etcd) = Etcd::start() else { return };
    let life = life_now(&etcd).await;
    for _ in 0..2 {
        etcd.kill(0);
        etcd.restart(0);
        assert_eq!(life_now(&etcd).await, life);
    }
}

/// Every process was stopped for it, so that none has seen the revisions go back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_restored_while_nobody_looks_begins_another_life() {
    let Some(mut etcd) = Etcd::start() else { return };
    let mut lives = vec![life_now(&etcd).await];
    for turn in 0..3 {
        for number in 0..5 {
            let key = conformance::key(&format!("{turn}-{number}"));
            let commit = store(&etcd.url("test")).await.commit(Txn::new().put(key, "v")).await;
            assert!(matches!(commit.unwrap(), Commit::Committed(_)));
        }
        assert_eq!(life_now(&etcd).await, lives[turn]);
        etcd.save();
        etcd.put_back();
        let life = life_now(&etcd).await;
        assert!(!lives.contains(&life), "{life} was there before");
        etcd.kill(0);
        etcd.restart(0);
        assert_eq!(life_now(&etcd).await, life);
        lives.push(life);
    }
}
