//! The service in this process, over real connections: single replicas and elections.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails loudly"
)]

mod client;
mod election;
mod service;
