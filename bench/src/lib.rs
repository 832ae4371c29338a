//! The benchmark against the reference control plane, in one run on one machine: both sides get
//! the same flags, the same objects and the same load from the same client, in turns, round by
//! round. The result is the ratio within a run.
//!
//! ```text
//!   runner       rounds, alternating sides     Scenario ── prepare ──> Prepared ── round(side) ──> [Reading]
//!   scenarios    one file each
//!   environment  API server, authority, the services of either side as processes, their CPU and memory
//!   clients      load generators: closed and open loops, many sidecars, raw streams
//!   report       readings ──> figures (median, min, max, ratio) ──> table, JSON, docs/performance.md, pictures
//! ```
//!
//! Start reading at [`scenario::Scenario`]. A new scenario is one file that implements it and a line
//! in [`scenarios::registry::all`].

pub mod clients;
pub mod environment;
pub mod flags;
pub mod report;
pub mod runner;
pub mod scenario;
pub mod scenarios;
pub mod side;
pub mod size;
pub mod target;
