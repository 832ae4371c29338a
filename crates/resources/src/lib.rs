//! The custom resources of the group `dapr.io` as plain types, and the vocabulary of labels,
//! annotations and ports.
//!
//! Each kind decodes the form that the API server stores and prints the form that sidecars expect
//! (Dapr 1.18); unknown members pass through. `crds/*.yaml` at the root of the repository are the
//! installed definitions; a test compares both. Start reading at [`CustomResource`].

pub mod annotations;
pub mod component_types;
mod crd;
pub mod go_duration;
pub mod images;
pub mod injection;
/// JSON text with numbers in Go's form.
pub mod json;
mod kinds;
pub mod labels;
pub mod names;
pub mod ports;
mod shared;
pub mod spelling;

#[cfg(test)]
mod crd_tests;

pub use crd::{CustomResource, GROUP, trim_metadata};
pub use go_duration::GoDuration;
pub use kinds::*;
pub use shared::*;
