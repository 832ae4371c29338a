//! `operator check-scheduler`: refuses an upgrade that would leave jobs behind. The chart runs it
//! before it changes anything.
mod decision;
mod engine;
mod layout;

use clap::{Args, ValueEnum};
use kubernetes::{ClientError, KubeFlags, Precedence};
use runtime::ProcessFlags;

use self::decision::{Decision, Wanted, decide};
use self::layout::{Layout, LiveScheduler, Store};
use crate::commands::cluster::{CallError, CommandCluster};

/// Name of the StatefulSet in Dapr's chart and in this one.
const SCHEDULER: &str = "dapr-scheduler-server";

/// The flags of `check-scheduler`: the scheduler that the release is to have.
#[derive(Clone, Debug, Args)]
pub struct SchedulerFlags {
    /// Flags of every service.
    #[command(flatten)]
    pub process: ProcessFlags,
    /// Flags of services that use the API server.
    #[command(flatten)]
    pub kube: KubeFlags,
    /// Number of pods; 0 if the release has no scheduler
    #[arg(long, default_value_t = 0)]
    pub replicas: u32,
    /// Engine that stores jobs
    #[arg(long, value_enum, default_value_t = Engine::Auto)]
    pub store_engine: Engine,
    /// Endpoints of an external etcd, separated by commas; empty if jobs are on the pods' volumes
    #[arg(long, value_delimiter = ',')]
    pub etcd_client_endpoints: Vec<String>,
    /// Whether each restart of a pod empties the store
    #[arg(long)]
    pub in_memory: bool,
    /// The Helm release, if sidecars are to use the scheduler of the cluster instead
    #[arg(long)]
    pub kept_by: Option<String>,
    /// Host of the scheduler of the cluster, which is asked for its engine
    #[arg(long, default_value = SCHEDULER)]
    pub scheduler_host: String,
}

/// Value of `--store-engine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// Chosen by the number of pods and by what is on the volume.
    Auto,
    /// Files of the scheduler itself.
    Embedded,
    /// An etcd that each pod runs.
    Etcd,
}

/// Why the upgrade must not go on.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerCheckError {
    /// There are no usable credentials for the API server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The StatefulSet could not be read.
    #[error("read StatefulSet {SCHEDULER}")]
    Read(#[source] CallError),
    /// Jobs would be left behind.
    #[error("the release was not changed: {0}")]
    Refused(String),
}

impl SchedulerFlags {
    fn wanted(&self) -> Wanted {
        if let Some(release) = &self.kept_by {
            return Wanted::Kept { release: release.clone() };
        }
        if self.replicas == 0 {
            return Wanted::Nothing;
        }
        let endpoints = self.etcd_client_endpoints.iter().filter(|endpoint| !endpoint.is_empty());
        let endpoints: Vec<_> = endpoints.cloned().collect();
        let store = if endpoints.is_empty() {
            Store::Volumes { members: self.replicas, engine: self.store_engine }
        } else {
            Store::External { endpoints }
        };
        Wanted::Own(Layout { store, in_memory: self.in_memory })
    }
}

/// Compares the scheduler of the cluster with the one that the release is to have.
///
/// # Errors
/// [`SchedulerCheckError`]: jobs would be left behind, or the cluster's scheduler cannot be read.
pub async fn check(flags: &SchedulerFlags, namespace: &str) -> Result<(), SchedulerCheckError> {
    let client =
        kubernetes::client(flags.kube.kubeconfig.as_deref(), Precedence::Kubeconfig).await?;
    let cluster = CommandCluster::new(client, namespace.to_owned());
    let live = cluster.stateful_set(SCHEDULER).await.map_err(SchedulerCheckError::Read)?;
    let mut live = live.as_ref().map(LiveScheduler::of);
    if let Some(live) = &mut live {
        engine::complete(live, &flags.scheduler_host).await;
    }
    match decide(live.as_ref(), &flags.wanted()) {
        Decision::Go => Ok(()),
        Decision::Warn(sentence) => {
            tracing::warn!(target: "dapr.operator.scheduler", "{sentence}");
            Ok(())
        }
        Decision::Refuse(sentence) => Err(SchedulerCheckError::Refused(sentence)),
    }
}
