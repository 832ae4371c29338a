//! The pure core: single exchanges, and a simulation with lost and delayed events.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails loudly"
)]

mod fixture;
mod sequences;
mod simulation;
mod table_size;
