use std::time::Duration;

use crate::daemon::{Backoff, Context, Gate, Health};
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

/// The same for a daemon that can do nothing without: what keeps the store from being opened (a
/// certificate that is not there yet, a file's mode) may be mended under it. `None`: it is to end
/// first. The gate says why it is not ready; it is to be kept until the daemon has gates of its own.
pub async fn open_ready(store: &StoreSettings, context: &Context) -> Option<(SharedStore, Gate)> {
    let gate = context.readiness.gate("opening the store", "no answer yet");
    let opened = open_patiently(store, |problem| gate.close(problem));
    let store = tokio::select! {
        store = opened => store,
        () = context.shutdown.cancelled() => return None,
    };
    Some((store, gate))
}
