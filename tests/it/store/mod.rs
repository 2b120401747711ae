//! Every store, against the one conformance suite and its own tests.

mod cli;
mod conformance;
mod dynamodb;
mod etcd;
mod history;
mod memory;
mod sqlite;
mod wrappers;
