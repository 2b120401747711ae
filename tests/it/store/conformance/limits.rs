use bytes::Bytes;
use lbctl::store::{ErrorKind, Guard, Key, MAX_TXN_BYTES, MAX_TXN_LEN, MAX_VALUE_LEN, Store, Txn};

use super::{Backend, commit, get, key, names, put};

pub async fn values_come_back_byte_for_byte(backend: &impl Backend) {
    let (a, b) = (backend.handle().await, backend.handle().await);
    let binary: Vec<u8> = (0..=255).collect();
    let largest: Vec<u8> = (0..MAX_VALUE_LEN).map(|i| (i % 251) as u8).collect();
    for (name, value) in
        [("empty", vec![]), ("zero", vec![0]), ("binary", binary), ("max", largest)]
    {
        put(&a, name, value.clone()).await;
        let entry = get(&b, name).await.unwrap();
        assert!(entry.value == value, "{name} came back as {} bytes", entry.value.len());
        assert_eq!(entry.key, key(name));
        assert_eq!(entry.lease, None);
    }
}

async fn refused(store: &dyn Store, txn: Txn) -> ErrorKind {
    let error = store.commit(txn).await.expect_err("it was committed");
    assert_eq!(names(store, "").await, [""; 0], "{error}");
    error.kind()
}

pub async fn too_large_is_refused_whole(backend: &impl Backend) {
    let store = backend.handle().await;
    let (small, large) =
        (Txn::new().put(key("small"), "x"), Bytes::from(vec![1; MAX_VALUE_LEN + 1]));
    assert_eq!(refused(&store, small.put(key("large"), large)).await, ErrorKind::TooLarge);
    let many = |n: usize| (0..n).fold(Txn::new(), |t, i| t.put(key(&format!("many/{i}")), "x"));
    assert_eq!(refused(&store, many(MAX_TXN_LEN + 1)).await, ErrorKind::TooLarge);
    let guarded = many(MAX_TXN_LEN).guard(Guard::Absent(key("guarded")));
    assert_eq!(refused(&store, guarded).await, ErrorKind::TooLarge);
    let full = Bytes::from(vec![1; MAX_VALUE_LEN]);
    let heavy =
        |n: usize| (0..n).fold(Txn::new(), |t, i| t.put(key(&format!("heavy/{i}")), full.clone()));
    let fit = (MAX_TXN_BYTES - 100) / MAX_VALUE_LEN;
    assert_eq!(refused(&store, heavy(fit + 1)).await, ErrorKind::TooLarge);
    commit(&store, heavy(fit)).await;
    commit(&store, many(MAX_TXN_LEN)).await;
    assert_eq!(names(&store, "many").await.len(), MAX_TXN_LEN);
}

pub async fn senseless_transactions_are_refused(backend: &impl Backend) {
    let store = backend.handle().await;
    assert_eq!(refused(&store, Txn::new()).await, ErrorKind::Unsupported);
    let guards_only = Txn::new().guard(Guard::Absent(key("k")));
    assert_eq!(refused(&store, guards_only).await, ErrorKind::Unsupported);
    let twice = Txn::new().put(key("k"), "1").put(key("other"), "").put(key("k"), "2");
    assert_eq!(refused(&store, twice).await, ErrorKind::Unsupported);
    let both = Txn::new().put(key("k"), "1").delete(key("k"));
    assert_eq!(refused(&store, both).await, ErrorKind::Unsupported);
}

pub async fn keys_go_up_to_their_limit(backend: &impl Backend) {
    let store = backend.handle().await;
    let longest = format!("{}/{}", "\u{e4}".repeat(500), "y".repeat(23));
    assert_eq!(longest.len(), 1024);
    assert!(format!("{longest}y").parse::<Key>().is_err());
    for name in [longest.as_str(), "with space", "quote\"'`", "back\\slash", "\u{1f600}/\u{4e2d}"] {
        put(&store, name, name.to_owned()).await;
        assert_eq!(get(&store, name).await.unwrap().value, name.to_owned());
    }
    assert_eq!(names(&store, "").await.len(), 5);
}
