//! The Helm chart: what it renders, what it refuses, and what a real API server makes of it.
//! Source of names, values and objects: Dapr 1.18.3, chart `dapr`.

#[path = "chart/certificates.rs"]
mod certificates;
#[path = "chart/cluster.rs"]
mod cluster;
#[path = "chart/gitops.rs"]
mod gitops;
#[path = "chart/guard.rs"]
mod guard;
#[path = "chart/helm.rs"]
mod helm;
#[path = "chart/monitoring.rs"]
mod monitoring;
#[path = "chart/peers.rs"]
mod peers;
#[path = "chart/policies.rs"]
mod policies;
#[path = "chart/render.rs"]
mod render;
#[path = "chart/rights.rs"]
mod rights;
#[path = "chart/values.rs"]
mod values;
