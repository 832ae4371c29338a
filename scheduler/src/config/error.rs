//! Why the flags are rejected.

use resources::go_duration::GoDurationError;
use transport::flags::TrustDomainError;

use super::StoreEngine;
use super::quantity::NotAQuantity;

/// Why the flags are rejected. Source of the texts about etcd, workers, kubeconfig and the initial
/// cluster: Dapr 1.18.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `--placement-enabled`, which the scheduler of Dapr 1.19 has.
    #[error(
        "this scheduler does not serve placement; run the placement service and start without \
         --placement-enabled"
    )]
    PlacementEnabled,
    /// `--workers=0`.
    #[error("workers must be larger than 0")]
    NoWorkers,
    /// `--kubeconfig` in standalone mode.
    #[error("kubeconfig flag is only valid in --mode=kubernetes")]
    Kubeconfig,
    /// A flag of an external etcd, named without `--etcd-client-`, beside `--etcd-embed`.
    #[error("cannot use --etcd-client-{0} with --etcd-embed")]
    ClientFlag(&'static str),
    /// `--etcd-embed=false` without an etcd.
    #[error("must specify --etcd-client-endpoints when not using embedded etcd")]
    NoEndpoints,
    /// An engine beside an external etcd.
    #[error("--store-engine={0} cannot be used with --etcd-embed=false")]
    EngineOfExternal(StoreEngine),
    /// One of the files of a client certificate without the other.
    #[error("--etcd-client-cert-file and --etcd-client-key-file belong together")]
    HalfCertificate,
    /// Files for TLS, but no endpoint has it.
    #[error("--etcd-client-*-file need --etcd-client-endpoints that begin with https://")]
    NoTlsEndpoint,
    /// Members with TLS, but no certificate.
    #[error("--etcd-initial-cluster: {0} needs --tls-enabled")]
    PeerTls(String),
    /// `--etcd-space-quota` is not a quantity of Kubernetes.
    #[error("failed to parse etcd space quota: {text}")]
    Quota {
        /// The quota as given.
        text: String,
        /// What is wrong with it.
        #[source]
        cause: NotAQuantity,
    },
    /// `--etcd-backend-batch-interval` is no Go duration.
    #[error("failed to parse etcd backend batch interval: {text}")]
    BatchInterval {
        /// The interval as given.
        text: String,
        /// What is wrong with it.
        #[source]
        cause: GoDurationError,
    },
    /// `--etcd-defragment-interval` is no Go duration, or too short.
    #[error("--etcd-defragment-interval: {0:?} is not a duration of at least 1s")]
    DefragmentInterval(String),
    /// An entry of `--etcd-initial-cluster` is not a member.
    #[error("--etcd-initial-cluster: {0:?} is not of the form <id>=http://<ip>:<peer-port>")]
    NotAMember(String),
    /// `--id` is not a member of `--etcd-initial-cluster`.
    #[error("scheduler ID: {0} is not found in initial cluster")]
    UnknownId(String),
    /// More members than the embedded engine has.
    #[error(
        "--store-engine=embedded has one member, --etcd-initial-cluster has {0}: use one replica or \
         --store-engine=etcd"
    )]
    ManyMembers(usize),
    /// `--trust-domain` is not a trust domain.
    #[error(transparent)]
    TrustDomain(#[from] TrustDomainError),
}
