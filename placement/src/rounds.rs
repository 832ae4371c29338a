//! The pure core: the members of each namespace, and the rounds that give all of them one table.
//! Nothing here does I/O or reads a clock. Start reading at [`membership`], then `group.rs`.

pub(crate) mod encoding;
pub mod event;
mod group;
mod hold_off;
pub mod membership;
pub mod message;
pub mod outbox;
pub mod table;
