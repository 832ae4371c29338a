//! Test helpers: waiting for a condition with a deadline, a throw-away CA, choices by seed, and free
//! ports.

pub mod ca;
mod choice;
mod wait;

pub use choice::Choice;
pub use free_port::free_port;
pub use wait::{eventually, until};
