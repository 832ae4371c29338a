//! What one stream may send, and how long it may take.

use std::time::Duration;

/// Maximum bytes of one message. A report of 1,000 actor types with usual names is half of it.
pub(crate) const MAX_MESSAGE_BYTES: usize = 256 * 1024;

/// Maximum actor types of one host. Sidecars of large applications report a few dozen.
pub(crate) const MAX_TYPES: usize = 1_000;

/// Maximum bytes of each name in a report. A DNS name with a port has at most 260; names and app
/// ids recur in the table under each actor type.
pub(crate) const MAX_NAME_BYTES: usize = 512;

/// How long a stream may take until its first message. Sidecars report as soon as it is open.
pub(crate) const FIRST_MESSAGE: Duration = Duration::from_secs(10);
