//! Where programs come from. [`tools`] lists the peers by version and builds them from their Go
//! modules into a cache; [`service`] builds our own services with cargo; [`python_sdk`] installs SDKs.

pub(crate) mod apply_crds;
mod gobuild;
pub mod python_sdk;
pub(crate) mod service;
pub mod tools;

pub use gobuild::module_folder;
