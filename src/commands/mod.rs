//! The commands: a file or a folder each, with its `Args` and its `run`. They never import each
//! other; what two of them need lives on a floor below.

pub mod completions;
pub mod config;
pub mod demo;
pub mod discover;
pub mod man;
pub mod register;
pub mod serve;
pub mod status;
pub mod store;
pub mod sync_haproxy;

use crate::config::SettingsOf;

/// The settings of every command that has some in the file.
pub const SETTINGS: &[SettingsOf] = &[
    SettingsOf { section: Some("serve"), read: |reader| drop(serve::Settings::read(reader)) },
    // What it registers is said on its command line.
    SettingsOf { section: None, read: |reader| drop(register::Settings::read(reader)) },
    SettingsOf { section: Some("discover"), read: |reader| drop(discover::Settings::read(reader)) },
    SettingsOf {
        section: Some("sync-haproxy"),
        read: |reader| drop(sync_haproxy::Settings::read(reader)),
    },
];
