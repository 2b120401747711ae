//! Runs the state machine of an election on a store.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Options, Standing};
use crate::store::SharedStore;

/// Stands until told to resign.
pub(super) async fn drive(
    _store: SharedStore,
    _options: Options,
    _told: watch::Sender<Standing>,
    resign: CancellationToken,
    resigned: CancellationToken,
) {
    resign.cancelled().await;
    resigned.cancel();
}
