//! The test harness: a real Kubernetes on this machine, the real peers, and our own binaries as
//! processes. The black-box suites and `cargo xtask` use it.
//!
//! ```text
//!   ApiCluster   etcd + kube-apiserver + kube-controller-manager, no root, dies with the test
//!   NodeCluster  the same and a node: containerd, kubelet, kube-proxy, CoreDNS, in its own network
//!      \        /
//!      Cluster         kubectl and helm against a test cluster or an existing cluster
//!      Process         one program: log file, readiness, end        (Daprd, Redis, our services)
//!      Tool            where a program comes from: this machine, the cache, or its Go module
//!      image           docker-archive files without a container daemon
//! ```
//!
//! Start reading at [`ApiCluster`]; `cargo xtask cluster up` is the same code behind a command
//! line.

mod cluster;
pub mod common;
pub mod demo;
mod images;
pub mod injector_fixture;
mod machine;
pub mod operator_fixture;
mod peers;
mod programs;

pub use cluster::api_cluster::{ApiCluster, ApiClusterOptions, Backup};
pub use cluster::client::Cluster;
pub use cluster::control_plane;
pub use cluster::local_api::LocalApi;
pub use cluster::node_cluster::{self, NodeCluster};
pub use images::architecture::Architecture;
pub use images::image::{self, Image};
pub use images::{
    bundle, chart_repo, krew, peer_images, provenance, registry, reproducible, sbom, signing,
};
pub use injector_fixture::InjectorFixture;
pub use machine::clock::movable_clock;
pub use machine::ports::Ports;
pub use machine::process::{self, Lifetime, Process, Spawn};
pub use machine::scratch::Scratch;
pub use machine::wait::{Deadline, soon, until};
pub use machine::{browser, environment, http, packages, procfs, progress, web};
pub use operator_fixture::OperatorFixture;
pub use peers::actor_app::{ActorApp, Executions};
pub use peers::dapr_cli::DaprCli;
pub use peers::daprd::{ACTOR_STATE, Daprd, DaprdBuilder};
pub use peers::redis::Redis;
pub use peers::subscriber_app::SubscriberApp;
pub use peers::trigger_app::{Trigger, TriggerApp};
pub use peers::{accounts, admission, reference};
pub use programs::operator_commands::{KINDS, apply_crds, operator_command};
pub use programs::service::{
    Service, build_binary, build_daprctl, build_daprctl_for_windows, build_daprctl_static,
    build_dashboard, build_dashboard_alone, build_dashboard_static, image_profile,
};
pub use programs::tools::{self, Tool};
pub use programs::{axe, module_folder, sdks};
