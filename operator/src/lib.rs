//! The operator serves custom resources to sidecars and reconciles the Services of apps.
//!
//! ```text
//!                      ┌ watch ─► cache (store, broadcaster) ─► api ─► gRPC over mTLS
//!  API server ─ cluster ┤                   │                    ▲
//!                      │                   │   secrets: resolved per response
//!                      │                   └► advice ─► Events, status of Components
//!                      ├ watch ─► services ─► <app-id>-dapr Services
//!                      ├ watch ─► watchdog ─► deletes pods without a sidecar
//!                      └ definitions: conversion webhook of Subscriptions, printer columns
//! ```
//! Start reading at [`run`], then `cache` (what changed), `api` (which sidecars receive it),
//! `secrets` (which values are resolved) and `services` (the desired Service of an app).
//!
//! Invariants:
//! 1. A cached object is never modified and holds no Secret value.
//! 2. An undecodable object or a failed Secret affects no other object.
//! 3. A stream holds at most one pending event per changed object.
//! 4. Losing the lease stops the Service reconciler, the advisor, the printer columns and the
//!    watchdog, and nothing more.
//! 5. A change made while no operator was running is sent once, and only for kinds that sidecars do
//!    not list again after a reconnect.
//! 6. What the sidecars of one namespace do not read costs a bounded amount of memory.
//! 7. The watchdog deletes a pod only after a probe pod received its sidecar.
//!
//! Deliberately absent: a cache of Secrets.

mod advice;
mod api;
mod cache;
mod cluster;
pub mod commands;
mod config;
mod definitions;
mod error;
mod metrics;
mod secrets;
mod services;
mod watchdog;
mod wiring;

pub use advice::lint;
pub use api::budget::MAX_MESSAGE_BYTES;
pub use api::limits::ApiLimits;
pub use config::{Config, ConfigError, Environment, Flags, namespace};
pub use error::{ConfigurationError, RunError};
#[doc(hidden)]
pub use wiring::fuzzing;
pub use wiring::in_process::{InProcessApi, conversion_webhook};
pub use wiring::{KEEPALIVE, run};
