//! The flags of the etcd that runs as a child of the scheduler.

use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime::environment;
use transport::svid::Mode;

use super::{ConfigError, Flags, ensure};

/// Directory of certificates, below the directory for temporary files. Source: Dapr 1.18.
const IDENTITY: &str = "secrets/dapr.io/tls";

/// The file that tells Dapr's own scheduler that a directory is not one of before 1.15.
const MARKER: &str = "dapr-scheduler-existing-cluster";

/// etcd answers nothing while it is defragmented.
const MIN_DEFRAGMENT_INTERVAL: Duration = Duration::from_secs(1);

/// One entry of `--etcd-initial-cluster`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) id: String,
    /// `http[s]://<host>:<port>`
    pub(crate) url: String,
}

impl Peer {
    /// Parses an entry.
    fn parse(entry: &str) -> Result<Self, ConfigError> {
        let peer = entry.split_once('=').map(|(id, url)| Self { id: id.into(), url: url.into() });
        let peer = peer.filter(|peer| !peer.id.is_empty() && peer.authority().is_some());
        peer.ok_or_else(|| ConfigError::NotAMember(entry.to_owned()))
    }

    /// Whether members use TLS among each other.
    pub(crate) fn with_tls(&self) -> bool {
        self.url.starts_with("https://")
    }

    pub(crate) fn host(&self) -> &str {
        self.authority().map_or("", |(host, _)| host)
    }

    pub(crate) fn port(&self) -> u16 {
        self.authority().map_or(0, |(_, port)| port)
    }

    /// Host and port of the URL; `None` when it has none.
    fn authority(&self) -> Option<(&str, u16)> {
        let plain = self.url.strip_prefix("http://");
        let rest = plain.or_else(|| self.url.strip_prefix("https://"))?;
        let (host, port) = rest.rsplit_once(':').filter(|(host, _)| !host.is_empty())?;
        Some((host, port.parse().ok()?))
    }
}

/// The configuration of an etcd as child process.
#[derive(Debug, Clone)]
pub struct ChildEtcd {
    /// This member.
    pub(crate) own: Peer,
    /// All members, including this one.
    pub(crate) peers: Vec<Peer>,
    /// Members listen on every address in Kubernetes mode.
    pub(crate) mode: Mode,
    /// Each member is defragmented once in it.
    pub(crate) defragment_interval: Duration,
    /// Arguments that etcd gets unchanged.
    pub(crate) tuning: Vec<String>,
    /// Directory of this member's certificate for connections between members.
    pub(crate) identity_dir: PathBuf,
    /// Without this file Dapr's own scheduler deletes the data.
    pub(crate) marker: PathBuf,
}

impl Flags {
    /// The members of `--etcd-initial-cluster`, in its order.
    ///
    /// # Errors
    /// An entry is not of the form `<id>=<url>`.
    pub(super) fn peers(&self) -> Result<Vec<Peer>, ConfigError> {
        let mut peers: Vec<Peer> = Vec::new();
        for entry in &self.etcd_initial_cluster {
            let peer = Peer::parse(entry)?;
            peers.retain(|known| known.id != peer.id); // the last one wins
            peers.push(peer);
        }
        Ok(peers)
    }

    /// The configuration of etcd as one of these members.
    ///
    /// # Errors
    /// The own member is missing, or needs a certificate that it does not get.
    pub(super) fn child(
        &self,
        peers: Vec<Peer>,
        quota_bytes: Option<u64>,
    ) -> Result<ChildEtcd, ConfigError> {
        let own = peers.iter().find(|peer| peer.id == self.id).cloned();
        let own = own.ok_or_else(|| ConfigError::UnknownId(self.id.clone()))?;
        ensure(!own.with_tls() || self.with_tls(), ConfigError::PeerTls(own.url.clone()))?;
        Ok(ChildEtcd {
            own,
            peers,
            mode: self.identity.mode,
            defragment_interval: self.defragment_interval()?,
            tuning: self.etcd_tuning(quota_bytes),
            identity_dir: self.identity_dir(),
            marker: Path::new(&self.etcd_data_dir).join(MARKER),
        })
    }

    fn defragment_interval(&self) -> Result<Duration, ConfigError> {
        let text = &self.etcd_defragment_interval;
        let interval = resources::go_duration::parse(text).ok();
        let interval = interval.filter(|interval| *interval >= MIN_DEFRAGMENT_INTERVAL);
        interval.ok_or_else(|| ConfigError::DefragmentInterval(text.clone()))
    }

    /// Arguments of etcd with a flag of the same meaning. Source: Dapr 1.18.
    fn etcd_tuning(&self, quota_bytes: Option<u64>) -> Vec<String> {
        let quota = quota_bytes.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(-1);
        vec![
            format!("--quota-backend-bytes={quota}"),
            format!("--auto-compaction-mode={}", self.etcd_compaction_mode),
            format!("--auto-compaction-retention={}", self.etcd_compaction_retention),
            format!("--snapshot-count={}", self.etcd_snapshot_count),
            format!("--max-snapshots={}", self.etcd_max_snapshots),
            format!("--max-wals={}", self.etcd_max_wals),
            format!("--backend-batch-limit={}", self.etcd_backend_batch_limit),
            format!("--backend-batch-interval={}", self.etcd_backend_batch_interval),
            format!("--max-txn-ops={}", self.etcd_max_txn_ops),
            format!(
                "--experimental-bootstrap-defrag-threshold-megabytes={}",
                self.etcd_experimental_bootstrap_defrag_threshold_megabytes
            ),
            format!("--initial-election-tick-advance={}", self.etcd_initial_election_tick_advance),
            format!("--metrics={}", self.etcd_metrics),
        ]
    }

    fn identity_dir(&self) -> PathBuf {
        let temporary = || environment::var("TMPDIR").filter(|dir| !dir.is_empty());
        let default = || PathBuf::from(temporary().unwrap_or("/tmp".into())).join(IDENTITY);
        self.identity_directory_write.clone().unwrap_or_else(default)
    }
}
