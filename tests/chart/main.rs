//! The Helm chart: what it renders, what it refuses, and what a real API server makes of it.
//! Source of names, values and objects: Dapr 1.18.3, chart `dapr`.

mod accounts;
mod certificates;
mod cluster;
mod definitions;
mod examples;
mod foreign_values;
mod gitops;
mod guard;
mod helm;
mod monitoring;
mod peers;
mod policies;
mod render;
mod rights;
mod scheduler;
mod values;
