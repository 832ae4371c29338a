//! The test bed: a real Kubernetes on this machine, the real peers, and our own binaries as
//! processes. The black-box suites and `cargo xtask` stand on it.
//!
//! ```text
//!   ApiBed   etcd + kube-apiserver + kube-controller-manager, no root, dies with the test
//!   NodeBed  the same and a node: containerd, kubelet, kube-proxy, CoreDNS, in its own network
//!      \        /
//!      Cluster         kubectl and helm against a bed or against a cluster that exists
//!      Process         one program: log file, readiness, end        (Daprd, Redis, our services)
//!      Tool            where a program comes from: this machine, the cache, or its Go module
//!      image           docker-archive files without a container daemon
//! ```
//!
//! Start reading at [`ApiBed`]; `cargo xtask cluster up` is the same code behind a command line.

pub mod accounts;
pub mod actor_app;
pub mod admission;
pub mod api_bed;
pub mod architecture;
pub mod bundle;
pub mod cargo_metadata;
pub mod chart_repo;
pub mod cluster;
mod containerd;
pub mod control_plane;
pub mod dapr_cli;
pub mod daprd;
pub mod demo;
pub mod environment;
mod gobuild;
mod host;
pub mod http;
pub mod image;
pub mod injector_bed;
pub mod local_api;
pub mod node_bed;
mod node_image;
mod node_parts;
pub mod packages;
pub mod peer_images;
pub mod ports;
pub mod process;
pub mod progress;
pub mod redis;
pub mod reference;
pub mod registry;
mod roster;
pub mod sbom;
pub mod scratch;
pub mod service;
pub mod subscriber_app;
pub mod tools;
pub mod wait;
pub mod web;

pub use actor_app::{ActorApp, Executions};
pub use api_bed::{ApiBed, ApiBedOptions};
pub use architecture::Architecture;
pub use cluster::Cluster;
pub use dapr_cli::DaprCli;
pub use daprd::{Daprd, DaprdBuilder};
pub use gobuild::module_folder;
pub use image::Image;
pub use injector_bed::InjectorBed;
pub use local_api::LocalApi;
pub use node_bed::NodeBed;
pub use ports::Ports;
pub use process::{Lifetime, Process, Spawn};
pub use redis::Redis;
pub use scratch::Scratch;
pub use service::{Service, build_binary, build_daprctl, image_profile};
pub use subscriber_app::SubscriberApp;
pub use tools::Tool;
pub use wait::{Deadline, until};
