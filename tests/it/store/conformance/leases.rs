use std::time::{Duration, Instant};

use lbctl::store::{ErrorKind, Guard, Lease, LeaseId, Store, Txn};

use super::{Backend, commit, get, gone, key, put};

/// How much later than its TTL a lease may end on a busy machine.
const LATE: Duration = Duration::from_secs(10);

async fn grant<B: Backend>(_backend: &B, store: &dyn Store) -> Lease {
    let lease = store.grant(B::TTL).await.unwrap();
    assert!(lease.ttl >= B::TTL, "less than was asked for: {lease:?}");
    lease
}

async fn put_leased(store: &dyn Store, name: &str, lease: Lease) {
    commit(store, Txn::new().put_leased(key(name), "v", lease.id)).await;
}

async fn expect_dead(store: &dyn Store, lease: LeaseId) {
    let error = store.keep_alive(lease).await.expect_err("a dead lease was kept alive");
    assert_eq!(error.kind(), ErrorKind::LeaseExpired, "{error}");
}

pub async fn lease_expiry_deletes_its_keys(backend: &impl Backend) {
    let (a, b) = (backend.handle().await, backend.handle().await);
    let asked = Instant::now();
    let lease = grant(backend, &a).await;
    let granted = Instant::now();
    put(&a, "stays", "").await;
    commit(&a, Txn::new().put_leased(key("x"), "", lease.id).put_leased(key("y"), "", lease.id))
        .await;
    assert_eq!(get(&b, "x").await.unwrap().lease, Some(lease.id));
    gone(&b, "x").await;
    let lived = asked.elapsed();
    assert!(lived >= lease.ttl, "it ended after {lived:?} of {:?}", lease.ttl);
    assert!(granted.elapsed() < lease.ttl + LATE, "it lived for {:?}", granted.elapsed());
    assert_eq!(get(&a, "y").await, None);
    assert!(get(&a, "stays").await.is_some());
    expect_dead(&a, lease.id).await;
}

pub async fn keep_alive_holds_a_lease(backend: &impl Backend) {
    let (a, b) = (backend.handle().await, backend.handle().await);
    crate::support::eventually_async("a lease to be held", || held(backend, &a, &b)).await;
    gone(&b, "k").await;
}

/// Renews a lease for three times its TTL; `None` where the machine was too busy to renew in time.
async fn held(backend: &impl Backend, a: &dyn Store, b: &dyn Store) -> Option<()> {
    let lease = grant(backend, a).await;
    put_leased(a, "k", lease).await;
    let started = Instant::now();
    while started.elapsed() < lease.ttl * 3 {
        let renewing = Instant::now();
        let renewed = b.keep_alive(lease.id).await;
        tokio::time::sleep(lease.ttl / 8).await;
        let there = get(a, "k").await.is_some();
        if renewing.elapsed() >= lease.ttl {
            return None;
        }
        assert_eq!(renewed.unwrap(), lease.ttl);
        assert!(there, "it ended after {:?}", started.elapsed());
    }
    Some(())
}

pub async fn keep_alive_of_a_dead_lease_is_refused(backend: &impl Backend) {
    let store = backend.handle().await;
    let lease = grant(backend, &store).await;
    put_leased(&store, "k", lease).await;
    gone(&store, "k").await;
    expect_dead(&store, lease.id).await;
    expect_dead(&store, lease.id).await;
    expect_dead(&store, LeaseId(0x00ab_cdef_0123_4567)).await;
    assert_eq!(get(&store, "k").await, None);
}

pub async fn put_on_a_dead_lease_writes_nothing(backend: &impl Backend) {
    let store = backend.handle().await;
    let lease = grant(backend, &store).await;
    store.revoke(lease.id).await.unwrap();
    for dead in [lease.id, LeaseId(0x00ab_cdef_0123_4567)] {
        let txn = Txn::new().put(key("other"), "").put_leased(key("k"), "", dead);
        let error = store.commit(txn).await.expect_err("committed on a dead lease");
        assert_eq!(error.kind(), ErrorKind::LeaseExpired, "{error}");
        assert_eq!((get(&store, "k").await, get(&store, "other").await), (None, None));
    }
}

pub async fn revoke_deletes_at_once(backend: &impl Backend) {
    let (a, b) = (backend.handle().await, backend.handle().await);
    let lease = a.grant(Duration::from_secs(600)).await.unwrap();
    put_leased(&a, "x", lease).await;
    put_leased(&b, "y", lease).await;
    b.revoke(lease.id).await.unwrap();
    assert_eq!((get(&a, "x").await, get(&a, "y").await), (None, None));
    expect_dead(&a, lease.id).await;
    a.revoke(lease.id).await.expect("ending a dead lease is no error");
    a.revoke(LeaseId(0x00ab_cdef_0123_4567)).await.expect("ending an unknown lease is no error");
}

pub async fn put_detaches_from_the_old_lease(backend: &impl Backend) {
    let store = backend.handle().await;
    let old = store.grant(Duration::from_secs(600)).await.unwrap();
    let new = store.grant(Duration::from_secs(600)).await.unwrap();
    for name in ["kept", "moved", "deleted"] {
        put_leased(&store, name, old).await;
    }
    put(&store, "kept", "w").await;
    put_leased(&store, "moved", new).await;
    commit(&store, Txn::new().delete(key("deleted"))).await;
    put(&store, "deleted", "again").await;
    store.revoke(old.id).await.unwrap();
    assert_eq!(get(&store, "kept").await.unwrap().lease, None);
    assert_eq!(get(&store, "moved").await.unwrap().lease, Some(new.id));
    assert!(get(&store, "deleted").await.is_some());
    store.revoke(new.id).await.unwrap();
    assert_eq!(get(&store, "moved").await, None);
}

pub async fn expired_keys_are_absent_to_guards(backend: &impl Backend) {
    let (a, b) = (backend.handle().await, backend.handle().await);
    let lease = grant(backend, &a).await;
    let created = commit(&a, Txn::new().put_leased(key("k"), "a", lease.id)).await;
    // Nobody reads: the commit itself must find the lease ended.
    let claim = Txn::new().guard(Guard::Absent(key("k"))).put(key("k"), "b");
    crate::support::eventually_async("the key to be free", || async {
        matches!(b.commit(claim.clone()).await, Ok(lbctl::store::Commit::Committed(_)))
            .then_some(())
    })
    .await;
    let entry = get(&a, "k").await.unwrap();
    assert!(entry.created > created && entry.lease.is_none(), "{entry:?}");
    // The end of the old lease does not touch the new key.
    a.revoke(lease.id).await.unwrap();
    assert_eq!(get(&a, "k").await.unwrap().value, "b");
}

pub async fn leases_end_apart(backend: &impl Backend) {
    let store = backend.handle().await;
    let (short, long) = (grant(backend, &store).await, store.grant(Duration::from_secs(600)).await);
    let long = long.unwrap();
    assert_ne!(short.id, long.id);
    put_leased(&store, "short", short).await;
    put_leased(&store, "long", long).await;
    gone(&store, "short").await;
    assert!(get(&store, "long").await.is_some());
    store.revoke(long.id).await.unwrap();
}

pub async fn any_ttl_is_granted(backend: &impl Backend) {
    let store = backend.handle().await;
    for asked in [Duration::from_secs(3600), Duration::MAX, Duration::from_nanos(1)] {
        let lease = store.grant(asked).await.unwrap();
        assert!(lease.ttl > Duration::ZERO, "{lease:?}");
        store.revoke(lease.id).await.unwrap();
    }
}
