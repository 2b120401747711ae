//! Every test that needs a real server or the real binary, in one program.

mod cli;
mod demo;
mod discover;
mod election;
mod haproxy;
mod register;
mod serve;
mod status;
mod store;
mod support;
mod sync_haproxy;
