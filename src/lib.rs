//! lbctl: a control plane for HAProxy fleets and the services behind them.
//!
//! Floors, lowest first: [`model`], [`store`], [`election`], then [`commands`], then [`cli`].
//! Lower floors know nothing of higher ones, and commands never import each other.

pub mod aws;
pub mod cli;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod election;
pub mod error;
pub mod files;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod haproxy;
pub mod hsdo;
pub mod http;
pub mod metrics;
pub mod model;
pub mod output;
pub mod overview;
pub mod presence;
pub mod process;
pub mod registry;
pub mod store;
pub mod tables;
pub mod text;
