//! Flags and environment of the operator, raw and checked.
use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail, ensure};
use clap::{ArgAction, Parser};
use runtime::{
    ProcessFlags,
    flags::{go_bool, go_duration},
    kubernetes::KubeFlags,
};

use crate::{watchdog::Options, workload::WorkloadKind};

/// The command line, as typed. Names and defaults are those of Dapr 1.18.
#[derive(Clone, Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[command(
    name = "operator",
    about = "Serves custom resources to sidecars and keeps their Services"
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
    /// Address of the gRPC API; empty means all
    #[arg(long, default_value = "", value_name = "ADDRESS", hide_default_value = true)]
    pub listen_address: String,
    /// Port of the conversion webhook
    #[arg(long, default_value_t = 19443, value_name = "PORT")]
    pub webhook_server_port: u16,
    /// Address of the conversion webhook; empty means all
    #[arg(long, default_value = "", value_name = "ADDRESS", hide_default_value = true)]
    pub webhook_server_listen_address: String,
    /// PEM file of the trust anchors
    #[arg(long, default_value = "/var/run/secrets/dapr.io/tls/ca.crt", value_name = "PATH")]
    pub trust_anchors_file: PathBuf,
    /// Write Services without holding the lease; for a single replica
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = ArgAction::Set)]
    pub disable_leader_election: bool,
    /// Do not keep the Services of apps
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = ArgAction::Set)]
    pub disable_service_reconciler: bool,
    /// Keep the Services of Argo Rollouts too
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = ArgAction::Set)]
    pub enable_argo_rollout_service_reconciler: bool,
    /// Keep the Services of daemon sets too
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = ArgAction::Set)]
    pub enable_daemonset_service_reconciler: bool,
    /// Tell sidecars at once when a Secret that a resource refers to has changed
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = ArgAction::Set)]
    pub watch_secrets: bool,
    /// Write what is wrong with a Component into its status, and give the CRD a place for it
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = ArgAction::Set)]
    pub component_status: bool,
    /// The only namespace to watch; empty means all
    #[arg(long, default_value = "", value_name = "NAMESPACE", hide_default_value = true)]
    pub watch_namespace: String,
    /// How often to look for pods without sidecar: 0, once, or a Go duration of at least 1s
    #[arg(long, default_value = "0", value_name = "INTERVAL")]
    pub watch_interval: String,
    /// Pods that the watchdog may delete per minute; 0 or less means any number
    #[arg(long, default_value_t = 20, value_name = "N", allow_negative_numbers = true)]
    pub max_pod_restarts_per_minute: i64,
    /// The watchdog may label pods that have a sidecar
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = ArgAction::Set)]
    pub watchdog_can_patch_pod_labels: bool,
    /// Accepted for compatibility; the caches need no resync
    #[arg(long, default_value = "0", value_parser = go_duration, value_name = "DURATION")]
    pub cache_sync_period: Duration,
}

/// What the environment says.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `NAMESPACE`: where the control plane is.
    pub namespace: Option<String>,
    /// `ENABLE_WEBHOOKS`: `false` switches conversion off.
    pub enable_webhooks: Option<String>,
}

impl Environment {
    /// Reads the process's environment.
    pub fn read() -> Self {
        Self {
            namespace: runtime::environment::var("NAMESPACE"),
            enable_webhooks: runtime::environment::var("ENABLE_WEBHOOKS"),
        }
    }
}

/// Where the control plane is, as `NAMESPACE` says.
///
/// # Errors
/// It is unset or empty.
pub fn namespace(variable: Option<String>) -> anyhow::Result<String> {
    match variable {
        None => bail!("'NAMESPACE' environment variable not set"),
        Some(empty) if empty.is_empty() => bail!("'NAMESPACE' environment variable is empty"),
        Some(namespace) => Ok(namespace),
    }
}

/// When the watchdog looks for pods without sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchInterval {
    /// Never.
    Off,
    /// Until one pass succeeded.
    Once,
    /// Again and again.
    Every(Duration),
}

impl WatchInterval {
    /// Reads `0 false f no off` (any case), `once`, or a Go duration of at least a second.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "0" | "false" | "f" | "no" | "off" => return Ok(Self::Off),
            "once" => return Ok(Self::Once),
            _ => {}
        }
        let interval = runtime::go_duration::parse(text)
            .with_context(|| format!("--watch-interval {text:?} is not a duration"))?;
        ensure!(interval >= Duration::from_secs(1), "--watch-interval {text:?} is below 1s");
        Ok(Self::Every(interval))
    }
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the control plane is.
    pub namespace: String,
    /// Name of the control plane's Configuration.
    pub configuration: String,
    /// A kubeconfig that wins over everything.
    pub kubeconfig: Option<PathBuf>,
    /// Address and port of the gRPC API.
    pub api: (String, u16),
    /// Address and port of the conversion webhook; `None` when it is switched off.
    pub webhook: Option<(String, u16)>,
    /// PEM file of the trust anchors.
    pub trust_anchors: PathBuf,
    /// Whether only one replica at a time writes Services.
    pub elect: bool,
    /// Kinds of workloads that get Services.
    pub workloads: Vec<WorkloadKind>,
    /// Whether sidecars hear of changed Secrets; takes the right to list and watch them.
    pub push_secrets: bool,
    /// Whether the leader writes what it finds into the status of Components.
    pub component_status: bool,
    /// The only namespace to watch.
    pub watch_namespace: Option<String>,
    /// How the watchdog works.
    pub watchdog: Options,
}

impl Flags {
    /// Checks everything.
    ///
    /// # Errors
    /// `NAMESPACE` is unset or empty, or a flag has no meaning.
    pub fn into_config(self, environment: Environment) -> anyhow::Result<Config> {
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
            watch_namespace: Some(self.watch_namespace).filter(|namespace| !namespace.is_empty()),
            watchdog: Options {
                interval: WatchInterval::parse(&self.watch_interval)?,
                per_minute: self.max_pod_restarts_per_minute,
                may_label: self.watchdog_can_patch_pod_labels,
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
        assert_eq!(WatchInterval::parse(text).unwrap(), want);
    }

    #[rstest]
    #[case("500ms")]
    #[case("5")]
    #[case("")]
    fn refuses_other_watch_intervals(#[case] text: &str) {
        assert!(WatchInterval::parse(text).is_err());
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
    fn webhooks_can_be_switched_off() {
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
    fn kinds_of_workloads_are_switched_on_one_by_one() {
        use WorkloadKind::{DaemonSet, Deployment, Rollout, StatefulSet};
        let kinds = |args: &[&str]| flags(args).into_config(environment()).unwrap().workloads;
        let more =
            ["--enable-daemonset-service-reconciler", "--enable-argo-rollout-service-reconciler"];
        assert_eq!(kinds(&more), [Deployment, StatefulSet, DaemonSet, Rollout]);
        assert_eq!(kinds(&[more[0], "--disable-service-reconciler"]), []);
    }
}
