//! Which schedulers there are, what sidecars are told to dial, and the key of this one among the
//! members. With the embedded engine there is one.

pub(crate) mod address;
pub(crate) mod leadership;

pub(crate) use address::broadcast;
