//! The sentry binary: in Kubernetes mode against a real API server, standalone with real sidecars.

mod bed;
mod faults;
mod kubernetes;
mod rotation;
mod standalone;
mod tokens;
