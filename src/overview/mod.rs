//! The whole store as one picture for people and programs: what `status` shows and `demo` plays in.

mod follow;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod show;
mod snapshot;

pub use follow::follow;
pub use show::render;
pub use snapshot::{BackendView, HaproxyView, LeaderView, SlotView, Snapshot};
