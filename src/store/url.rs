use std::fmt;
use std::str::FromStr;

use super::{MemoryStore, Result, SharedStore};
use std::sync::Arc;

/// Which store, from its URL; its `Display` masks a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    Memory,
}

/// A text that is no store URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a store URL: use sqlite:PATH, etcd://HOST:PORT or memory:")]
pub struct StoreUrlError(String);

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> std::result::Result<Self, StoreUrlError> {
        match text {
            "memory:" => Ok(Self::Memory),
            _ => Err(StoreUrlError(text.to_owned())),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory:")
    }
}

/// Opens the store a URL names.
pub async fn open(url: &StoreUrl) -> Result<SharedStore> {
    match url {
        StoreUrl::Memory => Ok(Arc::new(MemoryStore::new())),
    }
}
