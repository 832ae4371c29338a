//! Which schedulers there are, and what sidecars are told to dial. With the embedded engine there
//! is one.

pub(crate) mod address;

pub(crate) use address::broadcast;
