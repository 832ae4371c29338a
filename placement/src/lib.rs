//! Placement: tells every sidecar of a namespace which hosts serve which actor types.

mod group;
pub mod membership;
pub mod message;
pub mod outbox;
pub mod table;
