//! Test helpers: waiting for a condition with a deadline, a throw-away CA, and choices by seed.

pub mod ca;
mod choice;
mod wait;

pub use choice::Choice;
pub use wait::{eventually, until};
