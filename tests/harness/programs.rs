//! Where programs come from. [`tools`] lists the peers by version and builds them from their Go
//! modules into a cache; [`service`] builds our own services with cargo.

pub(crate) mod apply_crds;
mod gobuild;
pub(crate) mod service;
pub mod tools;

pub use gobuild::module_folder;
