//! `discover`.
