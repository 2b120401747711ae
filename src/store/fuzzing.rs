//! What a store's URL may be, and what others may have written into a store.

use bytes::Bytes;

use super::url::StoreUrl;
use super::{Entry, Revision};

/// Stands for the secret part of a password.
const MARK: &str = "M4RK3D";

/// A URL shows as one that reads as the same store, and no password is ever shown.
pub fn store_url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(url) = text.parse::<StoreUrl>() {
        let shown = url.to_string();
        let again = shown.parse::<StoreUrl>();
        assert!(again.as_ref().is_ok_and(|again| same_store(again, &url)), "{shown:?}: {again:?}");
    }
    // In another place than a password it may well be shown.
    if text.contains(MARK) {
        return;
    }
    for scheme in ["etcd", "etcds"] {
        let (password, rest) = text.split_once('\n').unwrap_or((text, ""));
        let url = format!("{scheme}://u:{password}{MARK}@{rest}");
        let said = match url.parse::<StoreUrl>() {
            Ok(url) => format!("{url} {url:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        assert!(!said.contains(MARK), "{said}");
    }
}

/// Apart from a password, which is not shown.
fn same_store(shown: &StoreUrl, url: &StoreUrl) -> bool {
    match (shown, url) {
        (StoreUrl::Etcd(shown), StoreUrl::Etcd(url)) => {
            shown.password.is_some() == url.password.is_some()
                && super::url::EtcdUrl { password: url.password.clone(), ..shown.clone() } == *url
        }
        _ => shown == url,
    }
}

/// Entries from lines of a key, a space and a value; the number of the line is the revision.
pub(crate) fn entries(text: &str) -> Vec<Entry> {
    let lines = (1..).zip(text.lines());
    let entry = |(number, line): (u64, &str)| {
        let (key, value) = line.split_once(' ')?;
        let (created, modified) = (Revision(number), Revision(number));
        let value = Bytes::copy_from_slice(value.as_bytes());
        Some(Entry { key: key.parse().ok()?, value, created, modified, lease: None })
    };
    lines.filter_map(entry).collect()
}
