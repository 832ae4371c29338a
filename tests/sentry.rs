//! The sentry binary: in Kubernetes mode against a real API server, standalone with real sidecars.

#[path = "sentry/bed.rs"]
mod bed;
#[path = "sentry/faults.rs"]
mod faults;
#[path = "sentry/kubernetes.rs"]
mod kubernetes;
#[path = "sentry/rotation.rs"]
mod rotation;
#[path = "sentry/standalone.rs"]
mod standalone;
#[path = "sentry/tokens.rs"]
mod tokens;
