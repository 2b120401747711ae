//! The words of lbctl: names, addresses, slots, weights and the table, parsed once at the border.
//!
//! Whatever comes from outside (flags, files, tags, registrations, the store) becomes one of these
//! types before it goes any further, so that no unchecked string reaches a HAProxy socket, a key or
//! a path.

mod address;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod key;
pub mod keys;
mod life;
mod name;
mod ramp;
mod revision;
mod slot;
mod table;
mod time;
mod weight;

pub use address::{AddressError, ServerAddress};
pub use key::{Key, KeyError, Prefix};
pub use life::StoreLife;
pub use name::{
    BackendName, CandidateId, ElectionName, EndpointId, GroupName, HaproxyName, Label, NameError,
    ServerName, ServerPrefix,
};
pub use ramp::{Ramp, RampError};
pub use revision::Revision;
pub use slot::SlotNumber;
pub use table::{
    BackendReport, BackendSpec, Confirmation, Endpoint, HaproxyReport, Registration, Removal,
    Removals, SlotRecord, SlotState, TableOrigin,
};
pub use time::{Duration, Timestamp, format_duration, parse_duration};
pub use weight::{Weight, WeightError};
