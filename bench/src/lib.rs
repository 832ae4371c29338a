//! The benchmark against the reference control plane, in one run on one machine: both sides get
//! the same flags, the same objects and the same load from the same client, one after the other,
//! round by round. What counts is the ratio within a run.
//!
//! ```text
//!   frame     rounds, alternating sides          Row ── prepare ──> Prepared ── round(side) ──> [Reading]
//!   stats     readings of all rounds ──> Figure (median, min, max of each side, ratio)
//!   aims      what a figure is to reach
//!   results   Figures + Machine ──> table, JSON ──> docs/performance.md and pictures
//!   plane     what rows stand on: API server, authority, either side's services as processes
//!   cluster   many objects at once, and how many requests the API server had
//!   sidecars  many sidecars of an operator, as far as it can tell
//!   load      closed and open loops with latency histograms;  usage: CPU and memory of a process
//! ```
//!
//! Start reading at [`row::Row`]. A new row is one file that implements it and a line in
//! [`rows::all`].

pub mod aims;
pub mod authority;
pub mod cluster;
pub mod flags;
pub mod frame;
pub mod https;
pub mod injector;
pub mod install;
pub mod load;
pub mod machine;
pub mod operator_fanout;
pub mod operator_memory;
pub mod order_stream;
pub mod picture;
pub mod placement_hosts;
pub mod placement_join;
pub mod plane;
pub mod programs;
pub mod report;
pub mod results;
pub mod row;
pub mod rows;
pub mod sentry_sign;
pub mod sidecars;
pub mod start;
pub mod stats;
pub mod usage;
pub mod webhook_path;
