//! The configuration that the flags mean. Source: Dapr 1.18, `scheduler`.

mod child;
mod error;
mod external;
mod flags;
mod quantity;

use std::path::{Path, PathBuf};

use runtime::{ProcessFlags, environment};
use transport::svid::{self, Mode};

pub use child::ChildEtcd;
pub(crate) use child::Peer;
pub use error::ConfigError;
pub use external::ExternalEtcd;
pub use flags::{Flags, Password, StoreEngine};

/// App id of the scheduler in its own SPIFFE id, which sidecars ask for.
const APP_ID: &str = "dapr-scheduler";
/// Directory of the reference's store, below the data directory. It is never written.
const REFERENCE_DATA: &str = "dapr-0.1";
/// Directory of the embedded engine, beside it.
const OWN_DATA: &str = "trilby";
/// Used when `--etcd-space-quota` is 0.
const DEFAULT_QUOTA_BYTES: u64 = 2 << 30;

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of this member.
    pub id: String,
    /// gRPC bind address, empty for all.
    pub listen_address: String,
    /// gRPC port.
    pub port: u16,
    /// The announced address; `None` for the discovered one.
    pub broadcast: Option<String>,
    /// Credentials for the API server, in Kubernetes mode; `None` for those of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// Options of the SVID; `None` for plain text.
    pub tls: Option<svid::Options>,
    /// Directory of the embedded engine.
    pub store_dir: PathBuf,
    /// Directory of the etcd of Dapr's own scheduler, and of the child etcd.
    pub reference_dir: PathBuf,
    /// Limit of the stored bytes; `None` for none.
    pub quota_bytes: Option<u64>,
    /// Upper bound of jobs that are dispatched at once.
    pub workers: u32,
    /// Whether the health port counts jobs by application.
    pub metadata_enabled: bool,
    /// The etcd API of the embedded engine.
    pub client: ClientPort,
    /// Where the jobs are stored.
    pub store: StoreConfig,
}

/// Where the jobs are stored.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// In this process or in an etcd that it runs, depending on what is on disk.
    Own {
        /// The value of `--store-engine`.
        engine: StoreEngine,
        /// The configuration of the etcd.
        child: ChildEtcd,
    },
    /// In an external etcd.
    External(ExternalEtcd),
}

/// The port of the etcd API.
#[derive(Debug, Clone)]
pub struct ClientPort {
    /// Bind address; `localhost` is both loopback addresses.
    pub listen_address: String,
    /// Port; 0 for a free one.
    pub port: u16,
    /// Operations in one transaction.
    pub max_txn_ops: u32,
}

impl Flags {
    /// The shared flags. The metrics port listens on the address of the gRPC port (Dapr 1.18).
    pub fn process(&self) -> ProcessFlags {
        let mut process = self.process.clone();
        if !self.listen_address.is_empty() {
            process.metrics_listen_address.clone_from(&self.listen_address);
        }
        process
    }

    /// Checks the flags.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn into_config(self) -> Result<Config, ConfigError> {
        self.check_store_flags()?;
        ensure(!self.placement_enabled, ConfigError::PlacementEnabled)?;
        ensure(self.workers > 0, ConfigError::NoWorkers)?;
        let quota = quantity::parse(&self.etcd_space_quota)
            .map_err(|cause| ConfigError::Quota { text: self.etcd_space_quota.clone(), cause })?;
        let quota_bytes = match quota {
            0 => Some(DEFAULT_QUOTA_BYTES),
            quota => u64::try_from(quota).ok(),
        };
        let store = self.store(quota_bytes)?;
        let namespace = environment::namespace();
        let root = self.root(&namespace);
        Ok(Config {
            tls: self.with_tls().then(|| self.identity.options(APP_ID, namespace)).transpose()?,
            store_dir: root.join(OWN_DATA),
            reference_dir: root.join(REFERENCE_DATA),
            quota_bytes,
            store,
            kubeconfig: self.kubeconfig,
            client: ClientPort {
                listen_address: self.etcd_client_listen_address,
                port: self.etcd_client_port,
                max_txn_ops: self.etcd_max_txn_ops,
            },
            id: self.id,
            listen_address: self.listen_address,
            port: self.port,
            broadcast: self.override_broadcast_host_port,
            workers: self.workers,
            metadata_enabled: self.metadata_enabled,
        })
    }

    /// Flags that need or exclude each other.
    fn check_store_flags(&self) -> Result<(), ConfigError> {
        if self.kubeconfig.is_some() {
            ensure(self.identity.mode == Mode::Kubernetes, ConfigError::Kubeconfig)?;
        }
        if self.etcd_embed {
            for (flag, unset) in [
                ("endpoints", self.etcd_client_endpoints.iter().all(String::is_empty)),
                ("username", self.etcd_client_username.is_empty()),
                ("password", self.etcd_client_password.is_empty()),
            ] {
                ensure(unset, ConfigError::ClientFlag(flag))?;
            }
        } else {
            let endpoints = self.etcd_client_endpoints.iter().any(|at| !at.is_empty());
            ensure(endpoints, ConfigError::NoEndpoints)?;
            ensure(
                self.store_engine == StoreEngine::Auto,
                ConfigError::EngineOfExternal(self.store_engine),
            )?;
        }
        resources::go_duration::parse(&self.etcd_backend_batch_interval).map_err(|cause| {
            ConfigError::BatchInterval { text: self.etcd_backend_batch_interval.clone(), cause }
        })?;
        Ok(())
    }

    fn store(&self, quota_bytes: Option<u64>) -> Result<StoreConfig, ConfigError> {
        let peers = self.peers()?;
        if let Some(external) = self.external()? {
            return Ok(StoreConfig::External(external)); // it has members of its own
        }
        let (engine, members) = (self.store_engine, peers.len());
        let fits = engine != StoreEngine::Embedded || members == 1;
        ensure(fits, ConfigError::ManyMembers(members))?;
        Ok(StoreConfig::Own { engine, child: self.child(peers, quota_bytes)? })
    }

    fn with_tls(&self) -> bool {
        self.tls_enabled || self.identity.mode == Mode::Kubernetes
    }

    fn root(&self, namespace: &str) -> PathBuf {
        let root = Path::new(&self.etcd_data_dir);
        match self.identity.mode {
            Mode::Kubernetes => root.to_owned(),
            Mode::Standalone => root.join(format!("{namespace}-{}", self.id)),
        }
    }
}

fn ensure(holds: bool, error: ConfigError) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use rstest::rstest;

    use super::*;

    fn flags(args: &[&str]) -> Flags {
        Flags::try_parse_from(std::iter::once("scheduler").chain(args.iter().copied())).unwrap()
    }

    #[test]
    fn the_defaults_make_one_member() {
        let config = flags(&[]).into_config().unwrap();
        assert_eq!((config.id.as_str(), config.port), ("dapr-scheduler-server-0", 50006));
        assert_eq!((config.workers, config.broadcast), (2048, None));
        assert_eq!(config.quota_bytes, Some(9_200_000_000_000_000_000));
        assert!(config.tls.is_none());
        assert!(config.store_dir.ends_with("default-dapr-scheduler-server-0/trilby"));
    }

    #[rstest]
    #[case(&["--etcd-client-endpoints=a:1"], "cannot use --etcd-client-endpoints with --etcd-embed")]
    #[case(&["--etcd-client-username=u"], "cannot use --etcd-client-username with --etcd-embed")]
    #[case(&["--etcd-client-password=p"], "cannot use --etcd-client-password with --etcd-embed")]
    #[case(&["--etcd-embed=false"],
        "must specify --etcd-client-endpoints when not using embedded etcd")]
    #[case(&["--kubeconfig=x"], "kubeconfig flag is only valid in --mode=kubernetes")]
    #[case(&["--placement-enabled=true"], "this scheduler does not serve placement; run the \
        placement service and start without --placement-enabled")]
    #[case(&["--workers=0"], "workers must be larger than 0")]
    #[case(&["--id=x"], "scheduler ID: x is not found in initial cluster")]
    #[case(&["--etcd-initial-cluster=x"],
        r#"--etcd-initial-cluster: "x" is not of the form <id>=http://<ip>:<peer-port>"#)]
    #[case(&["--etcd-initial-cluster=a=b"],
        r#"--etcd-initial-cluster: "a=b" is not of the form <id>=http://<ip>:<peer-port>"#)]
    #[case(&["--etcd-space-quota=x"], "failed to parse etcd space quota: x")]
    #[case(&["--etcd-defragment-interval=x"],
        r#"--etcd-defragment-interval: "x" is not a duration of at least 1s"#)]
    #[case(&["--etcd-defragment-interval=999ms"],
        r#"--etcd-defragment-interval: "999ms" is not a duration of at least 1s"#)]
    #[case(&["--etcd-backend-batch-interval=x"],
        "failed to parse etcd backend batch interval: x")]
    #[case(&["--etcd-embed=false", "--etcd-client-endpoints=a:1", "--store-engine=embedded"],
        "--store-engine=embedded cannot be used with --etcd-embed=false")]
    #[case(&["--etcd-embed=false", "--etcd-client-endpoints=https://a:1",
        "--etcd-client-cert-file=x"],
        "--etcd-client-cert-file and --etcd-client-key-file belong together")]
    #[case(&["--etcd-embed=false", "--etcd-client-endpoints=a:1", "--etcd-client-ca-file=x"],
        "--etcd-client-*-file need --etcd-client-endpoints that begin with https://")]
    #[case(&["--id=a", "--etcd-initial-cluster=a=http://h:1,b=http://h:2", "--store-engine=embedded"],
        "--store-engine=embedded has one member, --etcd-initial-cluster has 2: use one replica or \
        --store-engine=etcd")]
    #[case(&["--id=a", "--etcd-initial-cluster=a=https://h:1"],
        "--etcd-initial-cluster: https://h:1 needs --tls-enabled")]
    fn refuses(#[case] args: &[&str], #[case] want: &str) {
        assert_eq!(flags(args).into_config().unwrap_err().to_string(), want);
    }

    #[test]
    fn the_password_is_in_no_debug_text() {
        let text = format!("{:?}", flags(&["--etcd-client-password=sesame"]));
        assert!(text.contains("etcd_client_password") && !text.contains("sesame"), "{text}");
    }

    /// As Dapr's own scheduler takes them: the list of members is of the embedded store alone.
    #[test]
    fn an_external_etcd_needs_no_list_of_members() {
        let args = [
            "--id=x",
            "--etcd-embed=false",
            "--etcd-client-endpoints=a:1,http://b:2",
            "--etcd-client-username=u",
        ];
        let StoreConfig::External(external) = flags(&args).into_config().unwrap().store else {
            panic!("the store is another one");
        };
        assert_eq!(external.endpoints, ["a:1", "http://b:2"]);
        assert_eq!(external.credentials.unwrap().0, "u");
    }

    #[test]
    fn the_shortest_interval_of_defragmentations_is_a_second() {
        assert!(flags(&["--etcd-defragment-interval=1s"]).into_config().is_ok());
    }

    #[rstest]
    #[case("0", Some(DEFAULT_QUOTA_BYTES))]
    #[case("-1", None)]
    #[case("16Mi", Some(16 << 20))]
    fn quotas(#[case] text: &str, #[case] want: Option<u64>) {
        let config = flags(&["--etcd-space-quota", text]).into_config().unwrap();
        assert_eq!(config.quota_bytes, want);
    }

    /// As the Helm chart calls it.
    #[test]
    fn takes_the_arguments_of_the_chart() {
        let config = flags(&[
            "--listen-address=0.0.0.0",
            "--id",
            "dapr-scheduler-server-0",
            "--etcd-initial-cluster",
            "dapr-scheduler-server-0=https://dapr-scheduler-server-0.dapr-scheduler-server.dapr-system.svc.cluster.local:2380",
            "--etcd-embed=true",
            "--log-level",
            "info",
            "--enable-metrics",
            "--metrics-port",
            "9090",
            "--etcd-client-port",
            "2379",
            "--etcd-data-dir=/var/run/data/dapr-scheduler/dapr-system/dapr-scheduler-server-0",
            "--etcd-space-quota=9.2E",
            "--etcd-compaction-mode=revision",
            "--etcd-compaction-retention=1000000",
            "--etcd-snapshot-count=100000",
            "--etcd-max-snapshots=10",
            "--etcd-max-wals=10",
            "--etcd-backend-batch-limit=10000",
            "--etcd-backend-batch-interval=100ms",
            "--etcd-max-txn-ops=10000",
            "--etcd-experimental-bootstrap-defrag-threshold-megabytes=100",
            "--etcd-initial-election-tick-advance=false",
            "--etcd-metrics=basic",
            "--tls-enabled",
            "--trust-domain=cluster.local",
            "--trust-anchors-file=/var/run/secrets/dapr.io/tls/ca.crt",
            "--sentry-address=dapr-sentry.dapr-system.svc.cluster.local:443",
            "--mode=kubernetes",
            "--workers=2048",
        ])
        .into_config()
        .unwrap();
        let dir = "/var/run/data/dapr-scheduler/dapr-system/dapr-scheduler-server-0/trilby";
        assert_eq!(config.store_dir, Path::new(dir));
        let tls = config.tls.unwrap();
        assert_eq!((tls.app_id.as_str(), tls.mode), ("dapr-scheduler", Mode::Kubernetes));
    }

    #[test]
    fn help_and_defaults_are_as_committed() {
        let mut command = <Flags as clap::CommandFactory>::command().term_width(100);
        insta::assert_snapshot!(command.render_long_help().to_string());
    }
}
