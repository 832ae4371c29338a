//! The scenarios, one file each; [`registry`] lists them.

pub mod attacks;
pub mod dashboard;
pub mod injector;
pub mod install;
pub mod operator_fanout;
pub mod operator_memory;
pub mod placement_join;
pub mod registry;
pub mod scale;
pub mod scheduler;
pub mod sentry_sign;
pub mod start;
pub mod webhook_path;
