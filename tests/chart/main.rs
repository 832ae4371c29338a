//! The Helm chart: its rendering, its checks, and its objects on a real API server.
//! Source of names, values and objects: Dapr 1.18.3, chart `dapr`.

mod accounts;
mod certificates;
mod cluster;
mod definitions;
mod guard;
mod helm;
mod monitoring;
mod peers;
mod policies;
mod released_values;
mod render;
mod rights;
mod scheduler;
mod values;
