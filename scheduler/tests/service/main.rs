//! The scheduler over real connections: in this process, and as a process.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails loudly"
)]

mod calls;
mod client;
mod client_port;
mod crash;
mod etcd;
mod etcd_api;
mod firing;
mod idle;
mod life_cycle;
mod newer_sidecars;
mod process;
mod scene;
