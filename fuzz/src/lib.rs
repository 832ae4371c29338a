//! Fuzz targets for every parser of untrusted input, and the driver that runs them.
//!
//! ```text
//!  seeds/<target>/* ──► mutation ──► target ──► panic? ──► seeds/<target>/found-*
//! ```
//! A target is a function of bytes that must not panic. Start reading at `targets`. The driver needs
//! neither a nightly compiler nor a sanitizer: it mutates the seeds by a fixed seed number, so that a
//! run can be repeated exactly. What it finds is written beside the seeds and replayed by the tests.

mod driver;
mod injection;
mod mutation;
mod targets;

pub use driver::{Budget, Found, run, seeds};
pub use targets::{TARGETS, Target, target};
