//! Every test that needs a real server or the real binary, in one program.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test that cannot go on fails"
)]

mod alarms;
mod asg;
mod attacks;
mod cli;
mod demo;
mod discover;
mod election;
mod end_to_end;
mod floors;
mod from_hsdo;
mod glances;
mod hands;
mod haproxy;
mod hashing;
mod hsdo;
mod lost;
mod neighbours;
mod network;
mod orders;
mod register;
mod serve;
mod status;
mod store;
mod support;
mod sync_commands;
mod sync_faults;
mod sync_haproxy;
mod traffic;
