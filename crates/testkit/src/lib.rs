//! Test helpers: waiting for a condition with a deadline, and a throw-away CA.

pub mod ca;
mod wait;

pub use wait::{eventually, until};
