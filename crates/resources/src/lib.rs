//! The custom resources of the group `dapr.io` as plain types, and the vocabulary of labels,
//! annotations and ports.
//!
//! Each kind decodes what the API server stores and prints what sidecars get (Dapr 1.18); a
//! member that this version does not know passes through. `crds/*.yaml` at the root of the
//! repository is what gets installed; a test compares both. Start reading at [`CustomResource`].

pub mod annotations;
mod component;
mod configuration;
mod configuration_policy;
mod configuration_telemetry;
mod crd;
pub mod go_duration;
mod http_endpoint;
pub mod injection;
/// JSON text with numbers in Go's form.
pub mod json;
pub mod labels;
mod mcp_server;
pub mod names;
pub mod ports;
mod resiliency;
mod shared;
pub mod spelling;
mod subscription;
mod workflow_access_policy;

#[cfg(test)]
mod crd_tests;

pub use component::*;
pub use configuration::*;
pub use configuration_policy::*;
pub use configuration_telemetry::*;
pub use crd::{CustomResource, GROUP, trim_metadata};
pub use go_duration::GoDuration;
pub use http_endpoint::*;
pub use mcp_server::*;
pub use resiliency::*;
pub use shared::*;
pub use subscription::*;
pub use workflow_access_policy::*;
