//! Periods of ownership.

/// A period of ownership: the revision of the key that shows it, which is the member's own or the
/// claim of a shard. Never 0.
pub(crate) type Epoch = u64;
