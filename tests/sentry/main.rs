//! The sentry binary: in Kubernetes mode against a real API server, standalone with real sidecars.

mod faults;
mod fixture;
mod foreign_ca;
mod kubernetes;
mod restored;
mod rotation;
mod standalone;
mod tokens;
