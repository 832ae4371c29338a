//! Flags and environment of the operator, raw and checked.
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser};
use kubernetes::KubeFlags;
use runtime::ProcessFlags;
use runtime::flags::{go_bool, go_duration};

use crate::services::workload::WorkloadKind;
use crate::watchdog::{Options, OwnerKinds, OwnerKindsError, WatchInterval};

/// Shortest interval of the watchdog (Dapr 1.18).
const SHORTEST_WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The command-line flags of the operator. Names and defaults are those of Dapr 1.18.
#[derive(Clone, Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[command(
    name = "operator",
    about = "Serves custom resources to sidecars and reconciles the Services of apps"
)]
pub struct Flags {
    /// Flags of every service.
    #[command(flatten)]
    pub process: ProcessFlags,
    /// Flags of services that use the API server.
    #[command(flatten)]
    pub kube: KubeFlags,
    /// Name of the Configuration that holds the control plane's mTLS settings
    #[arg(long, default_value = "daprsystem", value_name = "NAME")]
    pub config: String,
    /// Port of the gRPC API
    #[arg(long, default_value_t = 6500, value_name = "PORT")]
    pub port: u16,
    /// Address that the gRPC API listens on; empty means all addresses
    #[arg(long, default_value = "", value_name = "ADDRESS", hide_default_value = true)]
    pub listen_address: String,
    /// Port of the conversion webhook
    #[arg(long, default_value_t = 19443, value_name = "PORT")]
    pub webhook_server_port: u16,
    /// Address that the conversion webhook listens on; empty means all addresses
    #[arg(long, default_value = "", value_name = "ADDRESS", hide_default_value = true)]
    pub webhook_server_listen_address: String,
    /// PEM file with the trust anchors
    #[arg(long, default_value = "/var/run/secrets/dapr.io/tls/ca.crt", value_name = "PATH")]
    pub trust_anchors_file: PathBuf,
    /// Reconcile without leader election; use with a single replica only
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = ArgAction::Set)]
    pub disable_leader_election: bool,
    /// Do not reconcile the Services of apps
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = ArgAction::Set)]
    pub disable_service_reconciler: bool,
    /// Reconcile the Services of Argo Rollouts too
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = ArgAction::Set)]
    pub enable_argo_rollout_service_reconciler: bool,
    /// Reconcile the Services of daemon sets too
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = ArgAction::Set)]
    pub enable_daemonset_service_reconciler: bool,
    /// Update sidecars immediately when a Secret that a resource references changes; requires the
    /// right to list and watch Secrets
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = ArgAction::Set)]
    pub watch_secrets: bool,
    /// Write problems of a Component to its status; adds a status subresource and printer columns to
    /// the CRD
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = ArgAction::Set)]
    pub component_status: bool,
    /// Add printer columns, which kubectl get shows, to the CRDs of every kind
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = ArgAction::Set)]
    pub printer_columns: bool,
    /// Withhold workflow access rules with requires from sidecars before Dapr 1.19, which ignore
    /// requires and would grant access
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = true, value_parser = go_bool, action = ArgAction::Set)]
    pub withhold_gated_workflow_rules: bool,
    /// Namespace to watch; empty means all namespaces
    #[arg(long, default_value = "", value_name = "NAMESPACE", hide_default_value = true)]
    pub watch_namespace: String,
    /// Interval at which the watchdog checks for pods without sidecar: 0 (off), once, or a Go duration
    /// of at least 1s
    #[arg(long, default_value = "0", value_name = "INTERVAL")]
    pub watch_interval: String,
    /// Pods that the watchdog deletes per minute at most; 0 or less means no limit
    #[arg(long, default_value_t = 20, value_name = "N", allow_negative_numbers = true)]
    pub max_pod_restarts_per_minute: i64,
    /// Further kinds of controllers whose pods the watchdog deletes: Kind.group, separated by commas.
    /// Those of Deployments, stateful sets, daemon sets and replication controllers always are
    #[arg(long, default_value = "", value_name = "KINDS", hide_default_value = true)]
    pub watchdog_owner_kinds: String,
    /// Let the watchdog label pods that have a sidecar
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = ArgAction::Set)]
    pub watchdog_can_patch_pod_labels: bool,
    /// Accepted for compatibility and ignored: the caches need no resync
    #[arg(long, default_value = "0", value_parser = go_duration, value_name = "DURATION")]
    pub cache_sync_period: Duration,
}

/// The environment variables that the operator reads.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `NAMESPACE`: the namespace of the control plane; required.
    pub namespace: Option<String>,
    /// `ENABLE_WEBHOOKS`: `false` disables the conversion webhook; default enabled.
    pub enable_webhooks: Option<String>,
}

impl Environment {
    /// Reads the environment of the process.
    pub fn read() -> Self {
        Self {
            namespace: runtime::environment::var("NAMESPACE"),
            enable_webhooks: runtime::environment::var("ENABLE_WEBHOOKS"),
        }
    }
}

/// Why the flags or the environment are invalid.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `NAMESPACE` is not set.
    #[error("'NAMESPACE' environment variable not set")]
    NamespaceUnset,
    /// `NAMESPACE` is empty.
    #[error("'NAMESPACE' environment variable is empty")]
    NamespaceEmpty,
    /// `--watch-interval` is not a word or duration.
    #[error("--watch-interval {text:?} is not a duration")]
    WatchInterval {
        /// Value of the flag.
        text: String,
        /// Why it is not a duration.
        source: runtime::go_duration::GoDurationError,
    },
    /// `--watch-interval` is below one second.
    #[error("--watch-interval {0:?} is shorter than 1s")]
    WatchIntervalTooShort(String),
    /// `--watchdog-owner-kinds` holds more than kinds.
    #[error(transparent)]
    OwnerKinds(#[from] OwnerKindsError),
}

/// Checks the namespace of the control plane, the value of `NAMESPACE`.
///
/// # Errors
/// [`ConfigError::NamespaceUnset`] and [`ConfigError::NamespaceEmpty`].
pub fn namespace(variable: Option<String>) -> Result<String, ConfigError> {
    let namespace = variable.ok_or(ConfigError::NamespaceUnset)?;
    if namespace.is_empty() { Err(ConfigError::NamespaceEmpty) } else { Ok(namespace) }
}

/// Parses `0 false f no off` (any case), `once`, or a Go duration of at least one second.
fn parse_watch_interval(text: &str) -> Result<WatchInterval, ConfigError> {
    match text.to_ascii_lowercase().as_str() {
        "0" | "false" | "f" | "no" | "off" => return Ok(WatchInterval::Off),
        "once" => return Ok(WatchInterval::Once),
        _ => {}
    }
    let interval = runtime::go_duration::parse(text)
        .map_err(|source| ConfigError::WatchInterval { text: text.to_owned(), source })?;
    if interval < SHORTEST_WATCH_INTERVAL {
        return Err(ConfigError::WatchIntervalTooShort(text.to_owned()));
    }
    Ok(WatchInterval::Every(interval))
}

/// A checked configuration.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Config {
    /// Namespace of the control plane.
    pub namespace: String,
    /// Name of the control plane's Configuration.
    pub configuration: String,
    /// Path of a kubeconfig; takes precedence over the in-cluster configuration.
    pub kubeconfig: Option<PathBuf>,
    /// Address and port of the gRPC API.
    pub api: (String, u16),
    /// Address and port of the conversion webhook; `None` when it is disabled.
    pub webhook: Option<(String, u16)>,
    /// PEM file with the trust anchors.
    pub trust_anchors: PathBuf,
    /// Whether leader election is enabled.
    pub elect: bool,
    /// Kinds of workloads whose Services are reconciled; empty disables the reconciler.
    pub(crate) workloads: Vec<WorkloadKind>,
    /// Whether a changed Secret updates sidecars; requires the right to list and watch Secrets.
    pub push_secrets: bool,
    /// Whether the leader writes the status of Components.
    pub component_status: bool,
    /// Whether the leader adds printer columns to the CRDs.
    pub printer_columns: bool,
    /// Whether rules that an older sidecar cannot enforce are withheld from it.
    pub withhold_gated_rules: bool,
    /// Namespace to watch; `None` for all.
    pub watch_namespace: Option<String>,
    pub(crate) watchdog: Options,
}

impl Flags {
    /// Checks the flags and the environment.
    ///
    /// # Errors
    /// [`ConfigError`]: `NAMESPACE` is unset or empty, or `--watch-interval` or
    /// `--watchdog-owner-kinds` is not valid.
    pub fn into_config(self, environment: Environment) -> Result<Config, ConfigError> {
        let namespace = namespace(environment.namespace)?;
        let webhooks = environment.enable_webhooks.unwrap_or_default();
        let webhook = (self.webhook_server_listen_address, self.webhook_server_port);
        let workloads = [
            (WorkloadKind::Deployment, true),
            (WorkloadKind::StatefulSet, true),
            (WorkloadKind::DaemonSet, self.enable_daemonset_service_reconciler),
            (WorkloadKind::Rollout, self.enable_argo_rollout_service_reconciler),
        ];
        let wanted = |(kind, on)| (on && !self.disable_service_reconciler).then_some(kind);
        Ok(Config {
            namespace,
            configuration: self.config,
            kubeconfig: self.kube.kubeconfig,
            api: (self.listen_address, self.port),
            webhook: (!webhooks.eq_ignore_ascii_case("false")).then_some(webhook),
            trust_anchors: self.trust_anchors_file,
            elect: !self.disable_leader_election,
            workloads: workloads.into_iter().filter_map(wanted).collect(),
            push_secrets: self.watch_secrets,
            component_status: self.component_status,
            printer_columns: self.printer_columns,
            withhold_gated_rules: self.withhold_gated_workflow_rules,
            watch_namespace: Some(self.watch_namespace).filter(|namespace| !namespace.is_empty()),
            watchdog: Options {
                interval: parse_watch_interval(&self.watch_interval)?,
                per_minute: self.max_pod_restarts_per_minute,
                may_label: self.watchdog_can_patch_pod_labels,
                owner_kinds: OwnerKinds::parse(&self.watchdog_owner_kinds)?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use rstest::rstest;

    use super::*;

    fn flags(args: &[&str]) -> Flags {
        Flags::parse_from(std::iter::once("operator").chain(args.iter().copied()))
    }

    fn environment() -> Environment {
        Environment { namespace: Some("dapr-system".to_owned()), enable_webhooks: None }
    }

    #[test]
    fn help_and_defaults_are_unchanged() {
        insta::assert_snapshot!("help", Flags::command().term_width(100).render_long_help());
        insta::assert_debug_snapshot!("defaults", flags(&[]).into_config(environment()).unwrap());
    }

    #[rstest]
    #[case("0", WatchInterval::Off)]
    #[case("False", WatchInterval::Off)]
    #[case("ONCE", WatchInterval::Once)]
    #[case("1m", WatchInterval::Every(Duration::from_mins(1)))]
    fn reads_watch_intervals(#[case] text: &str, #[case] want: WatchInterval) {
        assert_eq!(parse_watch_interval(text).unwrap(), want);
    }

    #[rstest]
    #[case("500ms")]
    #[case("5")]
    #[case("")]
    fn refuses_other_watch_intervals(#[case] text: &str) {
        assert!(parse_watch_interval(text).is_err());
    }

    #[rstest]
    #[case::unset(None, "'NAMESPACE' environment variable not set")]
    #[case::empty(Some(""), "'NAMESPACE' environment variable is empty")]
    fn namespace_is_required(#[case] namespace: Option<&str>, #[case] want: &str) {
        let environment =
            Environment { namespace: namespace.map(str::to_owned), enable_webhooks: None };
        let error = flags(&[]).into_config(environment).unwrap_err();
        assert_eq!(error.to_string(), want);
    }

    #[test]
    fn webhooks_can_be_disabled() {
        let environment = Environment { enable_webhooks: Some("FALSE".into()), ..environment() };
        assert_eq!(flags(&[]).into_config(environment).unwrap().webhook, None);
    }

    #[test]
    fn booleans_take_values_with_an_equals_sign() {
        let flags = flags(&["--disable-leader-election", "--disable-service-reconciler=false"]);
        let config = flags.into_config(environment()).unwrap();
        assert!(!config.elect);
        assert_eq!(config.workloads, [WorkloadKind::Deployment, WorkloadKind::StatefulSet]);
    }

    #[test]
    fn kinds_of_workloads_are_enabled_separately() {
        use WorkloadKind::{DaemonSet, Deployment, Rollout, StatefulSet};
        let kinds = |args: &[&str]| flags(args).into_config(environment()).unwrap().workloads;
        let more =
            ["--enable-daemonset-service-reconciler", "--enable-argo-rollout-service-reconciler"];
        assert_eq!(kinds(&more), [Deployment, StatefulSet, DaemonSet, Rollout]);
        assert_eq!(kinds(&[more[0], "--disable-service-reconciler"]), []);
    }
}
