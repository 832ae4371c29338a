//! The kinds of `dapr.io`, one file each; the parts of Configuration have files of their own.

mod component;
mod configuration;
mod configuration_policy;
mod configuration_telemetry;
mod http_endpoint;
mod mcp_server;
mod resiliency;
mod subscription;
mod workflow_access_policy;

pub use component::*;
pub use configuration::*;
pub use configuration_policy::*;
pub use configuration_telemetry::*;
pub use http_endpoint::*;
pub use mcp_server::*;
pub use resiliency::*;
pub use subscription::*;
pub use workflow_access_policy::*;
