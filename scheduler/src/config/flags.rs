//! The command line.

use std::fmt;
use std::path::PathBuf;

use runtime::ProcessFlags;
use runtime::flags::go_bool;
use transport::flags::IdentityFlags;

/// The command line. Flags of etcd that the embedded engine has no use for are accepted.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "scheduler",
    about = "Triggers jobs and actor reminders",
    args_override_self = true
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Flags {
    /// Logs, health, metrics.
    #[command(flatten)]
    pub process: ProcessFlags,
    /// Name of this member; with --etcd-embed it must be in --etcd-initial-cluster
    #[arg(long, default_value = "dapr-scheduler-server-0", value_name = "ID")]
    pub id: String,
    /// Port that sidecars connect to
    #[arg(long, default_value_t = 50006, value_name = "PORT")]
    pub port: u16,
    /// Address that the port and the metrics port listen on; empty means all
    #[arg(long, default_value = "", value_name = "ADDRESS", hide_default_value = true)]
    pub listen_address: String,
    /// Address that sidecars connect to [default: the address of this host]
    #[arg(long, value_name = "HOST:PORT")]
    pub override_broadcast_host_port: Option<String>,
    /// Serve with mTLS, with a certificate from sentry; always so in kubernetes mode
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = clap::ArgAction::Set)]
    pub tls_enabled: bool,
    /// Serve /scheduler/jobs on the health port: counts by application, without names of jobs
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = clap::ArgAction::Set)]
    pub metadata_enabled: bool,
    /// The own identity.
    #[command(flatten)]
    pub identity: IdentityFlags,
    /// Accepted for compatibility
    #[arg(long, hide = true)]
    pub kubeconfig: Option<PathBuf>,
    /// Where the engine etcd finds the certificate of this member
    #[arg(long, hide = true)]
    pub identity_directory_write: Option<PathBuf>,
    /// Upper bound of jobs that are dispatched at once
    #[arg(long, default_value_t = 2048, value_name = "NUMBER")]
    pub workers: u32,
    /// Engine that stores jobs with --etcd-embed: auto, embedded or etcd
    #[arg(long, value_enum, default_value_t = StoreEngine::Auto, value_name = "ENGINE",
          hide_possible_values = true)]
    pub store_engine: StoreEngine,
    /// Store jobs in --etcd-data-dir; false stores them in the etcd of --etcd-client-endpoints
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = true, value_parser = go_bool, action = clap::ArgAction::Set)]
    pub etcd_embed: bool,
    /// All members, as id=url of their peer port
    #[arg(
        long,
        default_value = "dapr-scheduler-server-0=http://localhost:2380",
        value_delimiter = ',',
        value_name = "ID=URL"
    )]
    pub etcd_initial_cluster: Vec<String>,
    /// Directory of the stored jobs
    #[arg(long, default_value = "./data", value_name = "PATH")]
    pub etcd_data_dir: String,
    /// Port of the etcd API
    #[arg(long, default_value_t = 2379, value_name = "PORT")]
    pub etcd_client_port: u16,
    /// Address that the etcd API listens on
    #[arg(long, default_value = "localhost", value_name = "ADDRESS")]
    pub etcd_client_listen_address: String,
    /// Stored bytes above which new jobs are refused; 0 for 2Gi, negative for no limit
    #[arg(long, default_value = "9.2E", value_name = "QUANTITY", allow_hyphen_values = true)]
    pub etcd_space_quota: String,
    /// Operations in one transaction of the etcd API
    #[arg(long, default_value_t = 10_000, value_name = "NUMBER")]
    pub etcd_max_txn_ops: u32,
    /// Passed on to the engine etcd; has no effect on the embedded one
    #[arg(long, default_value = "revision", value_name = "MODE", hide = true)]
    pub etcd_compaction_mode: String,
    /// Passed on to the engine etcd; has no effect on the embedded one
    #[arg(long, default_value = "1000000", value_name = "RETENTION", hide = true)]
    pub etcd_compaction_retention: String,
    /// Passed on to the engine etcd; has no effect on the embedded one
    #[arg(long, default_value_t = 100_000, value_name = "NUMBER", hide = true)]
    pub etcd_snapshot_count: u64,
    /// Passed on to the engine etcd; has no effect on the embedded one
    #[arg(long, default_value_t = 10, value_name = "NUMBER", hide = true)]
    pub etcd_max_snapshots: u32,
    /// Passed on to the engine etcd; has no effect on the embedded one
    #[arg(long, default_value_t = 10, value_name = "NUMBER", hide = true)]
    pub etcd_max_wals: u32,
    /// Passed on to the engine etcd; has no effect on the embedded one
    #[arg(long, default_value_t = 10_000, value_name = "NUMBER", hide = true)]
    pub etcd_backend_batch_limit: i64,
    /// Passed on to the engine etcd; has no effect on the embedded one
    #[arg(long, default_value = "100ms", value_name = "DURATION", hide = true)]
    pub etcd_backend_batch_interval: String,
    /// Passed on to the engine etcd; has no effect on the embedded one
    #[arg(long, default_value_t = 100, value_name = "MEGABYTES", hide = true)]
    pub etcd_experimental_bootstrap_defrag_threshold_megabytes: u32,
    /// Interval in which the engine etcd is defragmented, where that frees room
    #[arg(long, default_value = "10m", value_name = "DURATION", hide = true)]
    pub etcd_defragment_interval: String,
    /// Passed on to the engine etcd; has no effect on the embedded one
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = clap::ArgAction::Set,
          hide = true)]
    pub etcd_initial_election_tick_advance: bool,
    /// Passed on to the engine etcd; has no effect on the embedded one
    #[arg(long, default_value = "basic", value_name = "KIND", hide = true)]
    pub etcd_metrics: String,
    /// Must be false: placement is a service of its own
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = clap::ArgAction::Set,
          hide = true)]
    pub placement_enabled: bool,
    /// Accepted for compatibility
    #[arg(long, value_name = "DURATION", hide = true)]
    pub placement_disseminate_timeout: Option<String>,
    /// Accepted for compatibility
    #[arg(long, value_name = "DURATION", hide = true)]
    pub placement_disseminate_coalesce_window: Option<String>,
    /// Endpoints of an external etcd
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
    pub etcd_client_endpoints: Vec<String>,
    /// User of an external etcd
    #[arg(long, default_value = "", value_name = "NAME", hide_default_value = true)]
    pub etcd_client_username: String,
    /// Password of an external etcd
    #[arg(
        long,
        default_value = "",
        value_name = "PASSWORD",
        hide_default_value = true,
        env = "DAPR_SCHEDULER_ETCD_CLIENT_PASSWORD",
        hide_env_values = true
    )]
    pub etcd_client_password: Password,
    /// CA certificates of an external etcd with https endpoints [default: the system's]
    #[arg(long, value_name = "PATH")]
    pub etcd_client_ca_file: Option<PathBuf>,
    /// Client certificate for an external etcd; read again at each connection
    #[arg(long, value_name = "PATH")]
    pub etcd_client_cert_file: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, value_name = "PATH")]
    pub etcd_client_key_file: Option<PathBuf>,
}

/// A password; `Debug` does not print it.
#[derive(Clone)]
pub struct Password(String);

impl Password {
    /// The password in plain text.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// True when none was given.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Password {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// The value of `--store-engine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StoreEngine {
    /// By the other flags and what is on disk.
    Auto,
    /// A store in this process.
    Embedded,
    /// An etcd as child process.
    Etcd,
}

impl fmt::Display for StoreEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Embedded => "embedded",
            Self::Etcd => "etcd",
        })
    }
}
