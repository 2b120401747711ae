//! `election`.
