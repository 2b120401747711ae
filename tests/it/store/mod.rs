//! Every store, against the one conformance suite and its own tests.

mod cli;
mod conformance;
mod etcd;
mod memory;
mod sqlite;
mod wrappers;
