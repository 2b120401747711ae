//! The store in etcd: the suite, and what only etcd has.

mod answers;
mod cluster;
mod lives;
mod load;
mod login;
mod outages;

use std::sync::Arc;
use std::time::Duration;

use lbctl::store::{SharedStore, open};

use super::conformance::{self, Backend, TEST_DEADLINE, conformance};
use crate::support::Proxy;
use crate::support::etcd::Etcd;

/// On the etcd that all tests share, each with a way of its own to it.
struct Shared {
    etcd: Arc<Etcd>,
    proxy: Proxy,
    prefix: String,
}

impl Shared {
    async fn on(etcd: Arc<Etcd>) -> Self {
        let proxy = Proxy::start(etcd.port(0)).await;
        Self { etcd, proxy, prefix: format!("test/{}", uuid::Uuid::new_v4()) }
    }
}

impl Backend for Shared {
    // etcd grants no less.
    const TTL: Duration = Duration::from_secs(2);

    async fn fresh() -> Option<Self> {
        Some(Self::on(Etcd::shared()?).await)
    }

    async fn handle(&self) -> SharedStore {
        let url = format!("etcd://127.0.0.1:{}/{}", self.proxy.port(), self.prefix);
        store(&url).await
    }

    async fn cut(&self) -> bool {
        self.proxy.cut().await;
        true
    }

    async fn mend(&self) {
        self.proxy.mend().await;
    }
}

conformance!(Shared);

/// On an etcd of its own, where a compaction hurts no other test.
struct Alone(Shared);

impl Backend for Alone {
    async fn fresh() -> Option<Self> {
        Some(Self(Shared::on(Arc::new(Etcd::start()?)).await))
    }

    async fn handle(&self) -> SharedStore {
        self.0.handle().await
    }

    async fn lose_history(&self) -> bool {
        self.0.cut().await;
        let mut client = self.0.etcd.client().await;
        for _ in 0..3 {
            client.put("elsewhere", "", None).await.unwrap();
        }
        self.0.etcd.compact().await;
        self.0.mend().await;
        true
    }
}

async fn store(url: &str) -> SharedStore {
    open(&url.parse().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_heals_after_a_compaction_during_a_cut() {
    let Some(backend) = Alone::fresh().await else { return };
    let test = conformance::watch_heals_after_history_is_lost(&backend);
    tokio::time::timeout(TEST_DEADLINE, test).await.expect("the test takes too long");
}
