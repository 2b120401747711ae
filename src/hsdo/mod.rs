//! HSDO's table and its configuration: what `discover` and `sync-haproxy` need to work beside HSDO's
//! own servers and clients, and in their places, while hosts are moved from one to the other.
//!
//! The table has a row a slot. HSDO's server writes rows without a condition, and its client reads
//! all of them every second; lbctl writes a row only where it still is what it has read.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod layout;
mod row;
mod rows;
mod settings;
mod table;
mod weights;

pub use layout::{LayoutFlags, TableLayout, TableName, TablePlace};
pub use row::{Item, LastUpdate, Row, RowError, Server};
pub use rows::{Rows, Stored};
pub use settings::HsdoArgs;
#[cfg(any(test, fuzzing))]
pub use settings::fuzzing::hsdo_settings;
#[cfg(test)]
pub(crate) use settings::translated;
pub use table::{HsdoTable, TableError, Written};
pub use weights::ServerWeights;
