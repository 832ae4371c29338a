//! The gRPC API that sidecars use: lists, single objects and update streams of seven kinds.
//!
//! Start at [`server`], which decodes each request and authorizes its caller ([`access`]).
//! [`context`] answers lists and gets from the cache and resolves Secrets; [`stream`] serves update
//! streams. [`budget`] limits the memory for what sidecars have not read, [`open_calls`] the calls that
//! an app has open, by the numbers in [`limits`]. [`assignment`] decides
//! which Configuration an app uses, [`missed_updates`] what a sidecar missed while the operator was
//! down, [`gated_rules`] which workflow access rules an older sidecar does not receive, and
//! [`secret_push`] publishes an update when a referenced Secret changes.
//! [`cache_gauges`] are metrics that are collected at each scrape.
pub(crate) mod access;
pub(crate) mod assignment;
pub(crate) mod budget;
pub(crate) mod cache_gauges;
pub(crate) mod cluster;
pub(crate) mod context;
pub(crate) mod error;
pub(crate) mod gated_rules;
pub(crate) mod limits;
pub(crate) mod missed_updates;
pub(crate) mod open_calls;
pub(crate) mod secret_push;
pub(crate) mod server;
pub(crate) mod stream;
