//! The configuration that the flags mean. Source: Dapr 1.18, `scheduler`.

mod flags;
mod quantity;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use identity::{KeyKind, TrustDomain};
use runtime::{ProcessFlags, environment};
use transport::anchors::AnchorSource;
use transport::svid::{self, Mode};

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
    /// What clients are told to dial; `None` to find out.
    pub broadcast: Option<String>,
    /// Credentials for the API server, in Kubernetes mode; `None` for those of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// How to get a certificate; `None` for plain text.
    pub tls: Option<svid::Options>,
    /// Where the embedded engine keeps its files.
    pub store_dir: PathBuf,
    /// Where the reference keeps its files.
    pub reference_dir: PathBuf,
    /// Limit of the stored bytes; `None` for none.
    pub quota_bytes: Option<u64>,
    /// Upper bound of jobs that are dispatched at once.
    pub workers: u32,
    /// The etcd API.
    pub client: ClientPort,
}

/// Where and how the etcd API is served.
#[derive(Debug, Clone)]
pub struct ClientPort {
    /// Bind address; `localhost` is both loopback addresses.
    pub listen_address: String,
    /// Port; 0 for a free one.
    pub port: u16,
    /// Operations in one transaction.
    pub max_txn_ops: u32,
    /// The own entry of `--etcd-initial-cluster`, which clients see as the address of this member.
    pub peer_url: String,
}

impl Flags {
    /// The shared flags. The metrics port listens where the gRPC port does (Dapr 1.18).
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
    /// Flags that exclude each other, with the texts of Dapr 1.18, or a value that is not valid.
    pub fn into_config(self) -> anyhow::Result<Config> {
        self.check_engine()?;
        ensure!(
            !self.placement_enabled,
            "this scheduler does not serve placement; run the placement service and start without \
             --placement-enabled"
        );
        ensure!(self.workers > 0, "workers must be larger than 0");
        let peer_url = self.peer_url()?;
        let quota = quantity::parse(&self.etcd_space_quota).with_context(|| {
            format!("failed to parse etcd space quota: {}", self.etcd_space_quota)
        })?;
        let namespace = environment::namespace();
        let root = self.root(&namespace);
        Ok(Config {
            tls: self.with_tls().then(|| self.identity(namespace)).transpose()?,
            store_dir: root.join(OWN_DATA),
            reference_dir: root.join(REFERENCE_DATA),
            quota_bytes: match quota {
                0 => Some(DEFAULT_QUOTA_BYTES),
                quota => u64::try_from(quota).ok(),
            },
            kubeconfig: self.kubeconfig,
            client: ClientPort {
                listen_address: self.etcd_client_listen_address,
                port: self.etcd_client_port,
                max_txn_ops: self.etcd_max_txn_ops,
                peer_url,
            },
            id: self.id,
            listen_address: self.listen_address,
            port: self.port,
            broadcast: self.override_broadcast_host_port,
            workers: self.workers,
        })
    }

    /// The store that is asked for must be one that this version has.
    fn check_engine(&self) -> anyhow::Result<()> {
        if self.kubeconfig.is_some() {
            ensure!(
                self.mode == Mode::Kubernetes,
                "kubeconfig flag is only valid in --mode=kubernetes"
            );
        }
        if self.etcd_embed {
            for (flag, unset) in [
                ("endpoints", self.etcd_client_endpoints.iter().all(String::is_empty)),
                ("username", self.etcd_client_username.is_empty()),
                ("password", self.etcd_client_password.is_empty()),
            ] {
                ensure!(unset, "cannot use --etcd-client-{flag} with --etcd-embed");
            }
        } else {
            let endpoints = self.etcd_client_endpoints.iter().any(|at| !at.is_empty());
            ensure!(endpoints, "must specify --etcd-client-endpoints when not using embedded etcd");
            ensure!(
                self.store_engine == StoreEngine::Auto,
                "--store-engine={} cannot be used with --etcd-embed=false",
                self.store_engine
            );
            bail!("this version has no engine for an external etcd: use --etcd-embed=true");
        }
        ensure!(
            self.store_engine != StoreEngine::Etcd,
            "this version has no engine etcd: use --store-engine=auto or embedded"
        );
        resources::go_duration::parse(&self.etcd_backend_batch_interval).with_context(|| {
            format!(
                "failed to parse etcd backend batch interval: {}",
                self.etcd_backend_batch_interval
            )
        })?;
        Ok(())
    }

    /// The own entry of the list of members, which must be the only one.
    fn peer_url(&self) -> anyhow::Result<String> {
        let mut members = BTreeMap::new();
        for entry in &self.etcd_initial_cluster {
            let member = entry.split_once('=').filter(|(id, url)| !id.is_empty() && is_url(url));
            let (id, url) = member.with_context(|| {
                format!("--etcd-initial-cluster: {entry:?} is not of the form <id>=http://<ip>:<peer-port>")
            })?;
            members.insert(id, url);
        }
        let own = members.get(self.id.as_str()).with_context(|| {
            format!("scheduler ID: {} is not found in initial cluster", self.id)
        })?;
        ensure!(
            members.len() == 1,
            "the embedded engine has one member, --etcd-initial-cluster has {}: use one replica",
            members.len()
        );
        Ok((*own).to_owned())
    }

    fn with_tls(&self) -> bool {
        self.tls_enabled || self.mode == Mode::Kubernetes
    }

    fn root(&self, namespace: &str) -> PathBuf {
        let root = Path::new(&self.etcd_data_dir);
        match self.mode {
            Mode::Kubernetes => root.to_owned(),
            Mode::Standalone => root.join(format!("{namespace}-{}", self.id)),
        }
    }

    fn identity(&self, namespace: String) -> anyhow::Result<svid::Options> {
        let trust_domain = TrustDomain::parse(&self.trust_domain)
            .with_context(|| format!("--trust-domain {:?}", self.trust_domain))?;
        let sentry_address = self
            .sentry_address
            .clone()
            .unwrap_or_else(|| format!("dapr-sentry.{namespace}.svc:443"));
        Ok(svid::Options {
            app_id: APP_ID.to_owned(),
            control_plane_namespace: namespace.clone(),
            namespace,
            trust_domain,
            sentry_address,
            anchors: AnchorSource::File { path: self.trust_anchors_file.clone(), fallback: None },
            key_kind: KeyKind::Ed25519,
            mode: self.mode,
        })
    }
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let port = rest.and_then(|rest| rest.rsplit_once(':')).filter(|(host, _)| !host.is_empty());
    port.is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use rstest::rstest;

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
    #[case(&["--etcd-backend-batch-interval=x"],
        "failed to parse etcd backend batch interval: x")]
    #[case(&["--store-engine=etcd"],
        "this version has no engine etcd: use --store-engine=auto or embedded")]
    #[case(&["--etcd-embed=false", "--etcd-client-endpoints=a:1", "--store-engine=embedded"],
        "--store-engine=embedded cannot be used with --etcd-embed=false")]
    #[case(&["--etcd-embed=false", "--etcd-client-endpoints=a:1"],
        "this version has no engine for an external etcd: use --etcd-embed=true")]
    #[case(&["--id=a", "--etcd-initial-cluster=a=http://h:1,b=http://h:2"],
        "the embedded engine has one member, --etcd-initial-cluster has 2: use one replica")]
    fn refuses(#[case] args: &[&str], #[case] want: &str) {
        assert_eq!(flags(args).into_config().unwrap_err().to_string(), want);
    }

    #[test]
    fn the_password_is_in_no_debug_text() {
        let text = format!("{:?}", flags(&["--etcd-client-password=sesame"]));
        assert!(text.contains("etcd_client_password") && !text.contains("sesame"), "{text}");
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
