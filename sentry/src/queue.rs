//! Admission of signing requests: a bounded number is processed concurrently, the others wait in a
//! bounded fair queue.
//!
//! Start reading at [`fair_queue`], the pure data structure; [`admission`] lets requests wait in it.

pub(crate) mod admission;
pub(crate) mod fair_queue;

pub(crate) use admission::{AdmissionQueue, QueueFull};
pub(crate) use fair_queue::{PeerKey, QueueKey};
