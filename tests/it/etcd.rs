//! The etcd backend on real etcds.

use crate::support::etcd::{Etcd, Options};

#[tokio::test(flavor = "multi_thread")]
async fn the_harness_starts_every_kind_of_etcd() {
    let secured = Options { mutual_tls: true, password: true, ..Options::default() };
    for (members, options) in [(1, Options::default()), (3, Options::default()), (1, secured)] {
        let Some(etcd) = Etcd::start_with(members, options) else { return };
        etcd.client().await.put("k", "v", None).await.unwrap();
        assert!(etcd.leader() < members);
        etcd.compact().await;
    }
}
