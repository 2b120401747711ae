//! An etcd that is restored from a snapshot, or rebuilt empty, under open watches.

use std::sync::Mutex;

use lbctl::store::SharedStore;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_begins_no_other_life() {
    let Some(mut etcd) = Etcd::start() else { return };
    let handle = store(&etcd.url("test")).await;
    let life = handle.list(&conformance::prefix("")).await.unwrap().life;
    for _ in 0..2 {
        etcd.kill(0);
        etcd.restart(0);
        let again = store(&etcd.url("test")).await.list(&conformance::prefix("")).await;
        assert_eq!(again.unwrap().life, life);
    }
}
