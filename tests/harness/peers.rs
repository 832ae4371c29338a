//! Peers of our services: the official sidecar and CLI, the reference control
//! plane, Redis, and small applications that run behind a sidecar.

pub mod accounts;
pub(crate) mod actor_app;
pub mod admission;
mod app_server;
pub(crate) mod dapr_cli;
pub(crate) mod daprd;
pub(crate) mod redis;
pub mod reference;
pub(crate) mod subscriber_app;
pub(crate) mod trigger_app;
