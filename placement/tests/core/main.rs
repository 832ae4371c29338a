//! The pure core: single exchanges, and a simulation with lost and delayed events.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails loudly"
)]

mod fixture;
mod hold_off;
mod sequences;
mod simulation;
mod table_size;
