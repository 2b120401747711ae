//! Child processes and signals: how a program is started, told of signals and ended, and what the
//! first process of a container owes to the others.

mod child;
mod orphans;
mod signals;
mod supervision;

pub use child::{Child, dying_with_parent, result};
pub use orphans::reap_orphans;
pub use signals::Signals;
pub use supervision::{Action, Signal, Supervision};
