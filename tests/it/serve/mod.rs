//! `lbctl serve` as clients, load balancers and supervisors meet it.

mod bounds;
mod client;
mod cluster;
mod cut;
mod protocol;
mod proxy;
mod reload;
mod stop;

pub use client::{Client, Server};
