//! The ports of a sidecar and of the control plane's Services. Source: Dapr 1.18.3.

/// HTTP API of the sidecar.
pub const SIDECAR_HTTP: u16 = 3500;
/// Health and metadata of the sidecar, reachable from outside the pod.
pub const SIDECAR_PUBLIC: u16 = 3501;
/// gRPC API of the sidecar, by default.
pub const SIDECAR_GRPC: u16 = 50001;
/// Calls between sidecars, by default.
pub const SIDECAR_INTERNAL_GRPC: u16 = 50002;
/// Prometheus metrics of the sidecar, by default.
pub const SIDECAR_METRICS: u16 = 9090;
/// The Delve debugger in the sidecar, by default.
pub const SIDECAR_DEBUG: u16 = 40000;
/// The API Service of the operator.
pub const OPERATOR_SERVICE: u16 = 443;
/// The Service of sentry.
pub const SENTRY_SERVICE: u16 = 443;
/// The Service of placement.
pub const PLACEMENT_SERVICE: u16 = 50005;
/// The load-balanced Service of the scheduler.
pub const SCHEDULER_SERVICE: u16 = 443;
