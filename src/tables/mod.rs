//! The slot tables in the store: read in one place, for everybody who looks at one.

mod stored;
mod table;
#[cfg(test)]
pub(crate) mod testing;

pub use stored::{
    Content, Damaged, StoredConfirmation, StoredRemovals, StoredSlot, StoredSpec, StoredTable,
};
pub use table::{Held, Left, Table, TableError};
