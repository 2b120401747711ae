use std::time::Duration;

use crate::daemon::{Backoff, Health};
use crate::store::{SharedStore, StoreSettings};

/// Opens the store, for as long as it takes: for programs whose own work goes on without it. Each
/// failure is told to `failed`, its turns to the log.
pub async fn open_patiently(store: &StoreSettings, mut failed: impl FnMut(&str)) -> SharedStore {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut health = Health::new(format!("opening the store {}", store.url));
    loop {
        match store.open().await {
            Ok(store) => {
                health.succeeded();
                return store;
            }
            Err(error) => {
                let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
                let problem = format!("{error}{hint}");
                health.failed(&problem);
                failed(&problem);
            }
        }
        backoff.wait().await;
    }
}
