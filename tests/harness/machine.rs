//! Access to this machine: [`process`] starts and ends programs, [`wait`] polls a
//! condition until a deadline, [`environment`] reads variables and finds free ports.

pub mod browser;
pub(crate) mod clock;
pub mod environment;
pub mod http;
pub mod packages;
pub(crate) mod ports;
pub mod process;
pub mod procfs;
pub mod progress;
pub(crate) mod scratch;
pub(crate) mod wait;
pub mod web;
