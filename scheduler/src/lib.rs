//! Scheduler: stores jobs and actor reminders and delivers each one to a connected sidecar when it
//! is due, at least once for each tick and never early.
//!
//! ```text
//!  sidecar ──call──► api ──schedule (checks it, computes ticks)──► store (one fsync for a group)
//!                                                                    │ StoreEvent
//!  sidecar ◄══stream══► streams::dispatcher ──────Event──────► engine::Engine::step (pure)
//!                         ▲                                        │
//!                         └──────── Effect: deliver, persist, finish, load
//! ```
//! Start reading at `engine`: all decisions are made there. `service` wires the parts;
//! `streams` applies the decisions; `store` keeps the records. The current time is an
//! argument of every decision.

mod api;
mod cluster;
mod config;
pub(crate) mod engine;
mod error;
mod etcd_api;
mod membership;
mod metrics;
pub(crate) mod schedule;
mod service;
mod store;
mod stored;
mod streams;

pub use config::{
    ChildEtcd, ClientPort, Config, ConfigError, ExternalEtcd, Flags, Password, StoreConfig,
    StoreEngine,
};
pub use service::child::exec_child;
#[doc(hidden)]
pub use service::fuzzing;
pub use service::{Bound, ExternalError, RunError, run, serve};
