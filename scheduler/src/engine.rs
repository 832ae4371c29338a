//! The engine decides which job is delivered to which stream and when, and what is written to the
//! store for each result. It performs no I/O and reads no clock.
//!
//! Start at [`event`] for the inputs and outputs; [`job`] holds the state of one job.

pub(crate) mod event;
pub(crate) mod job;
