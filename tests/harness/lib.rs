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

pub use cluster::{
    api_cluster::{ApiCluster, ApiClusterOptions, Backup},
    client::Cluster,
    control_plane,
    local_api::LocalApi,
    node_cluster::{self, NodeCluster},
};
pub use images::{
    architecture::Architecture,
    bundle, chart_repo,
    image::{self, Image},
    krew, peer_images, provenance, registry, reproducible, sbom, signing,
};
pub use injector_fixture::InjectorFixture;
pub use machine::{
    browser,
    clock::movable_clock,
    environment, http, packages,
    ports::Ports,
    process::{self, Lifetime, Process, Spawn},
    procfs, progress,
    scratch::Scratch,
    wait::{Deadline, soon, until},
    web,
};
pub use operator_fixture::OperatorFixture;
pub use peers::{
    accounts,
    actor_app::{ActorApp, Executions},
    admission,
    dapr_cli::DaprCli,
    daprd::{ACTOR_STATE, Daprd, DaprdBuilder},
    redis::Redis,
    reference,
    subscriber_app::SubscriberApp,
    trigger_app::{Trigger, TriggerApp},
};
pub use programs::{
    axe, module_folder,
    operator_commands::{KINDS, apply_crds, operator_command},
    sdks,
    service::{
        Service, build_binary, build_daprctl, build_daprctl_for_windows, build_daprctl_static,
        build_dashboard, build_dashboard_alone, build_dashboard_static, image_profile,
    },
    tools::{self, Tool},
};
