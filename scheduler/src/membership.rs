//! The members, the address that sidecars dial, and the jobs of this member.
//!
//! With the embedded engine there is one member, whose key [`leadership`] keeps. Over an etcd there
//! are several: [`member`] joins them, [`quorum`] has the rules, and [`shards`] those by which
//! members share jobs when none of Dapr 1.18 is among them. [`fence`] stops the delivery of jobs
//! before another member may own them; [`ownership`] has the condition of each write. [`predecessor`]
//! is the process that a crash ended.

pub(crate) mod address;
pub(crate) mod epoch;
pub(crate) mod fence;
pub(crate) mod leadership;
pub(crate) mod member;
pub(crate) mod ownership;
pub(crate) mod predecessor;
pub(crate) mod quorum;
mod repeated_warning;
pub(crate) mod shards;

pub(crate) use address::broadcast;

/// The target of log lines.
const LOG: &str = "dapr.scheduler";
