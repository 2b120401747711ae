//! Files of people and programs that know nothing of lbctl: read with bounds, followed as they
//! change, replaced whole.

mod fingerprint;
mod folders;
mod read;
mod replace;

pub use fingerprint::Fingerprint;
pub use folders::{Folders, Followed};
pub use read::{open, read, read_stream};
pub use replace::{Mode, remove_leftovers, replace};
