//! The operator: serves custom resources to sidecars and keeps their Services.
//!
//! ```text
//!                     ┌ follow ─► store (cache + feed) ─► api ─► server   gRPC, mTLS
//!  API server ─ cluster ┤                                 ▲
//!                     │ secrets: read per answer ─────────┤
//!                     │ secret_push: when one has changed ┘
//!                     ├ store ─► advisor ─► checks, component_status      Events, status of Components
//!                     ├ follow ─► desk ─► reconcile                       <app-id>-dapr Services
//!                     ├ follow ─► watchdog                                pods without sidecar
//!                     └ webhook ─► conversion, crd_patch                  Subscriptions
//! ```
//! Start reading at [`run`], then [`cache`] (what changed), [`feed`] (who hears of it),
//! [`secrets`] (what is filled in), [`service`] (what an app's Service looks like).
//!
//! Invariants: an object in a cache is never changed and holds no secret; an object or a secret
//! that is broken disturbs no other; a stream costs one entry per changed object; losing the lease
//! stops the reconciler and the watchdog and nothing else; what was written in an [`outage`] is told
//! once, and only what sidecars do not ask for themselves; the watchdog deletes nothing unless a
//! probe pod has just got its sidecar. Deliberately absent: a cache of Secrets.

pub mod access;
pub mod advisor;
pub mod api;
pub mod assignment;
pub mod cache;
pub mod checks;
pub mod cluster;
pub mod commands;
pub mod component_status;
pub mod component_types;
pub mod config;
pub mod conversion;
pub mod crd_patch;
pub mod crds;
pub mod desk;
pub mod error;
pub mod feed;
pub mod follow;
pub mod gauges;
pub mod leader;
pub mod metrics;
pub mod outage;
pub mod reconcile;
pub mod report;
pub mod secret_push;
pub mod secret_reads;
pub mod secrets;
pub mod self_test;
pub mod server;
pub mod service;
mod statuses;
pub mod store;
pub mod watchdog;
pub mod webhook;
mod wiring;
pub mod workload;

pub use wiring::{KEEPALIVE, run, serve_api};
