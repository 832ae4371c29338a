//! The programs of tests. [`tools`] lists the peers by version and builds them from their Go
//! modules into a cache; [`service`] builds our own services with cargo; [`sdks`], [`axe`] and
//! `zipkin` install from other registries.

pub mod axe;
mod cached;
mod gobuild;
mod maven;
pub(crate) mod operator_commands;
pub mod sdks;
pub(crate) mod servers;
pub(crate) mod service;
pub mod tools;
pub(crate) mod zipkin;

pub use gobuild::module_folder;
