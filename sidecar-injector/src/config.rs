//! Flags and environment variables of the injector.
//! Source of names and defaults: Dapr 1.18.3, injector.

use std::path::PathBuf;
use std::time::Duration;

use identity::{SpiffeError, SpiffeId, TrustDomain};
use resources::annotations::is_truthy;
use resources::names;
use runtime::flags::{go_bool, go_duration};

use crate::admission::{
    AdmissionPolicy, AllowList, BadPathToken, BadPattern, CallerProof, PathToken,
};
use crate::pod::{BadDefaults, Defaults};
use crate::sidecar::{
    self, Actors, BadServiceAddress, ControlPlane, NativeDefault, Security, Settings, Toleration,
};

/// Default path of the trust anchors; the chart sets another.
const ANCHORS_FILE: &str = "/var/run/dapr.io/tls/ca.crt";
/// Default number of scheduler pods. Source: Dapr 1.18, chart.
const SCHEDULER_REPLICAS: u32 = 3;
/// Upper limit: each pod is an address in an argument of daprd.
const MAX_SCHEDULER_REPLICAS: u32 = 99;
/// Default directory for sockets of pluggable components.
const SOCKETS_FOLDER: &str = "/tmp/dapr-components-sockets";

/// The sidecar injector: a mutating webhook that adds daprd to annotated pods.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "injector", version = runtime::VERSION)]
pub struct Flags {
    /// Port of the webhook
    #[arg(long, default_value_t = 4000, value_name = "PORT")]
    pub port: u16,
    /// Listen address of the webhook; empty for all addresses
    #[arg(long, default_value = "", value_name = "ADDRESS", hide_default_value = true)]
    pub listen_address: String,
    /// Set the address of the scheduler on sidecars
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = true, value_parser = go_bool, action = clap::ArgAction::Set)]
    pub scheduler_enabled: bool,
    /// PEM file with the CA of the API server's client certificate. Without it, clients need no
    /// certificate
    #[arg(long, value_name = "PATH")]
    pub client_ca_file: Option<PathBuf>,
    /// Time to continue serving after a stop signal, until the API server uses another replica
    #[arg(long, default_value = "5s", value_parser = go_duration, value_name = "DURATION")]
    pub shutdown_delay: Duration,
    /// Credentials of the API server
    #[command(flatten)]
    pub kube: kubernetes::KubeFlags,
    /// Logs, metrics and health
    #[command(flatten)]
    pub process: runtime::ProcessFlags,
}

/// Inputs of the host besides flags and environment variables.
#[derive(Debug, Clone, Default)]
pub struct HostEnvironment {
    /// Content of `/etc/resolv.conf`; empty if unreadable.
    pub resolv_conf: String,
    /// Whether the process has a service account token for sentry.
    pub has_token: bool,
}

/// The validated configuration of the injector.
#[derive(Debug, Clone)]
pub struct Config {
    /// Port of the webhook.
    pub port: u16,
    /// Listen address of the webhook; empty for all addresses.
    pub listen_address: String,
    /// PEM file with the CA of client certificates. Without it, clients need no certificate.
    pub client_ca_file: Option<PathBuf>,
    /// Time to continue serving after a stop signal. Default 5 s.
    pub shutdown_delay: Duration,
    /// Kubeconfig for use outside a cluster.
    pub kubeconfig: Option<PathBuf>,
    /// PEM file of the trust anchors.
    pub anchors_file: PathBuf,
    /// Trust domain of the control plane.
    pub trust_domain: TrustDomain,
    /// `host:port` of sentry for the injector's own certificate.
    pub sentry_address: String,
    /// App id of the injector in its SPIFFE ID. Default `dapr-injector`.
    pub app_id: String,
    /// Service accounts that are allowed to inject.
    pub allowed: AllowList,
    /// Whether pods that are deliberately not injected get `dapr.io/injection-skipped`, which the
    /// admission guard reads. Default false.
    pub mark_skipped: bool,
    /// Whether to write Events about the owners of pods. Default false.
    pub events: bool,
    /// How the API server proves its identity.
    pub caller_proof: CallerProof,
    /// Settings of sidecars.
    pub settings: Settings,
    /// Warnings about settings, for the log.
    pub warnings: Vec<String>,
}

/// An invalid setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A required variable is absent or empty.
    #[error("environment variable {0} is required")]
    Missing(&'static str),
    /// A variable that is not a number.
    #[error("environment variable {name}: {value:?} is not an integer")]
    NotANumber {
        /// Name of the variable.
        name: &'static str,
        /// The value that was set.
        value: String,
    },
    /// The address of a Service for actors or reminders.
    #[error("environment variable {name}")]
    ServiceAddress {
        /// Name of the variable.
        name: &'static str,
        /// Why the address is invalid.
        #[source]
        source: BadServiceAddress,
    },
    /// An entry of the list of allowed service accounts.
    #[error("environment variable ALLOWED_SERVICE_ACCOUNTS")]
    AllowedServiceAccounts(#[from] BadPattern),
    /// Defaults for annotations of pods.
    #[error("environment variable SIDECAR_DEFAULTS")]
    SidecarDefaults(#[from] BadDefaults),
    /// The path token of the webhook.
    #[error("environment variable WEBHOOK_PATH_TOKEN")]
    PathToken(#[from] BadPathToken),
    /// The trust domain, or another part of a SPIFFE ID.
    #[error("environment variable {name}")]
    Identity {
        /// Name of the variable.
        name: &'static str,
        /// Why the name is invalid.
        #[source]
        source: SpiffeError,
    },
}

impl Flags {
    /// Validates flags and environment variables. `var` returns `None` for a variable that is not
    /// set.
    ///
    /// # Errors
    /// `ConfigError` names the first invalid variable.
    pub fn into_config(
        self,
        var: impl Fn(&str) -> Option<String>,
        host: &HostEnvironment,
    ) -> Result<Config, ConfigError> {
        let env = Environment(&var);
        let namespace = env.required("NAMESPACE")?;
        let domain = var("DAPR_CONTROL_PLANE_TRUST_DOMAIN").unwrap_or("cluster.local".to_owned());
        let identity = |name| move |source| ConfigError::Identity { name, source };
        let trust_domain =
            TrustDomain::parse(&domain).map_err(identity("DAPR_CONTROL_PLANE_TRUST_DOMAIN"))?;
        let sentry_id = SpiffeId::new(&trust_domain, &namespace, names::SERVICE_SENTRY)
            .map_err(identity("NAMESPACE"))?;
        let lists = [
            env.filled("ALLOWED_SERVICE_ACCOUNTS"),
            env.filled("ALLOWED_SERVICE_ACCOUNTS_PREFIX_NAMES"),
            // The watchdog of the operator submits a probe pod to test the injection.
            Some(format!("{namespace}:{}", names::SERVICE_ACCOUNT_OPERATOR)),
        ];
        let mut warnings = Vec::new();
        if lists[1].is_some() {
            warnings.push(
                "ALLOWED_SERVICE_ACCOUNTS_PREFIX_NAMES is deprecated; use patterns in ALLOWED_SERVICE_ACCOUNTS"
                    .to_owned(),
            );
        }
        let caller_proof = match env.filled("WEBHOOK_PATH_TOKEN") {
            Some(token) => CallerProof::PathToken(PathToken::parse(&token)?),
            None if self.client_ca_file.is_some() => CallerProof::ClientCertificate,
            None => CallerProof::None,
        };
        let mut settings = settings(&env, &namespace, &domain, host, &mut warnings)?;
        settings.scheduler = self.scheduler_enabled;
        settings.sentry_id = sentry_id.to_string();
        Ok(Config {
            port: self.port,
            listen_address: self.listen_address,
            client_ca_file: self.client_ca_file,
            shutdown_delay: self.shutdown_delay,
            kubeconfig: self.kube.kubeconfig,
            anchors_file: var("DAPR_TRUST_ANCHORS_FILE").unwrap_or(ANCHORS_FILE.to_owned()).into(),
            trust_domain,
            sentry_address: var("DAPR_SENTRY_ADDRESS").unwrap_or_default(),
            app_id: env
                .filled("SENTRY_LOCAL_IDENTITY")
                .unwrap_or(names::APP_ID_INJECTOR.to_owned()),
            allowed: AllowList::parse(lists.iter().flatten().map(String::as_str))?,
            mark_skipped: env.switch("MARK_SKIPPED_PODS", false),
            events: env.switch("INJECTION_EVENTS", false),
            caller_proof,
            settings,
            warnings,
        })
    }
}

impl Config {
    /// The settings of the webhook.
    pub fn admission_policy(&self) -> AdmissionPolicy {
        AdmissionPolicy {
            settings: self.settings.clone(),
            allowed: self.allowed.clone(),
            mark_skipped: self.mark_skipped,
            caller_proof: self.caller_proof.clone(),
        }
    }
}

fn settings(
    env: &Environment<'_>,
    namespace: &str,
    trust_domain: &str,
    host: &HostEnvironment,
    warnings: &mut Vec<String>,
) -> Result<Settings, ConfigError> {
    let domain = env.filled("KUBE_CLUSTER_DOMAIN");
    let domain = domain.unwrap_or_else(|| sidecar::cluster_domain(&host.resolv_conf));
    let control_plane = ControlPlane::new(namespace, domain);
    let service = |name| move |source| ConfigError::ServiceAddress { name, source };
    let actors = Actors::from_settings(
        env.switch("ACTORS_ENABLED", true),
        &env.text("ACTORS_SERVICE_NAME"),
        &env.text("ACTORS_SERVICE_ADDRESS"),
        &control_plane,
    )
    .map_err(service("ACTORS_SERVICE_ADDRESS"))?;
    let reminders = sidecar::reminders(
        &env.text("REMINDERS_SERVICE_NAME"),
        &env.text("REMINDERS_SERVICE_ADDRESS"),
        &control_plane,
    )
    .map_err(service("REMINDERS_SERVICE_ADDRESS"))?;
    Ok(Settings {
        image: env.required("SIDECAR_IMAGE")?,
        pull_policy: pull_policy(env.get("SIDECAR_IMAGE_PULL_POLICY").as_deref()),
        namespace: namespace.to_owned(),
        trust_domain: trust_domain.to_owned(),
        sentry_id: String::new(),
        control_plane,
        actors,
        reminders,
        scheduler: true,
        scheduler_replicas: scheduler_replicas(env)?,
        native: native(&env.text("NATIVE_SIDECAR_ENABLED")),
        defaults: match env.filled("SIDECAR_DEFAULTS") {
            Some(text) => Defaults::parse(&text)?,
            None => Defaults::new(),
        },
        sockets_folder: env
            .get("DAPR_COMPONENT_SOCKETS_FOLDER")
            .unwrap_or(SOCKETS_FOLDER.to_owned()),
        downward_api: env.switch("ENABLE_K8S_DOWNWARD_APIS", false),
        identity_token: host.has_token,
        entrypoint_tolerations: tolerations(env, warnings),
        security: Security {
            run_as_non_root: env.switch("SIDECAR_RUN_AS_NON_ROOT", true),
            run_as_user: env.number("SIDECAR_RUN_AS_USER")?,
            run_as_group: env.number("SIDECAR_RUN_AS_GROUP")?,
            read_only_root: env.switch("SIDECAR_READ_ONLY_ROOT_FILESYSTEM", true),
            drop_all: env.switch("SIDECAR_DROP_ALL_CAPABILITIES", false),
        },
        strict_annotations: env.switch("STRICT_ANNOTATIONS", false),
    })
}

fn tolerations(env: &Environment<'_>, warnings: &mut Vec<String>) -> Vec<Toleration> {
    let Some(text) = env.filled("IGNORE_ENTRYPOINT_TOLERATIONS") else { return Vec::new() };
    Toleration::parse_list(&text).unwrap_or_else(|error| {
        warnings.push(format!(
            "IGNORE_ENTRYPOINT_TOLERATIONS is not a JSON list of tolerations and is ignored: {error}"
        ));
        Vec::new()
    })
}

fn scheduler_replicas(env: &Environment<'_>) -> Result<u32, ConfigError> {
    let name = "SCHEDULER_REPLICAS";
    let Some(number) = env.number(name)? else { return Ok(SCHEDULER_REPLICAS) };
    let number = u32::try_from(number).ok().filter(|n| (1..=MAX_SCHEDULER_REPLICAS).contains(n));
    number.ok_or_else(|| ConfigError::NotANumber { name, value: env.text(name) })
}

fn native(text: &str) -> NativeDefault {
    match text.trim() {
        auto if auto.eq_ignore_ascii_case("auto") => NativeDefault::Auto,
        text if is_truthy(text) => NativeDefault::On,
        _ => NativeDefault::Off,
    }
}

fn pull_policy(text: Option<&str>) -> &'static str {
    match text {
        None | Some("Always") => "Always",
        Some("Never") => "Never",
        Some(_) => "IfNotPresent",
    }
}

/// Typed access to environment variables.
struct Environment<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Environment<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name)
    }

    fn filled(&self, name: &str) -> Option<String> {
        self.get(name).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default()
    }

    fn required(&self, name: &'static str) -> Result<String, ConfigError> {
        self.filled(name).ok_or(ConfigError::Missing(name))
    }

    fn switch(&self, name: &str, default: bool) -> bool {
        self.filled(name).map_or(default, |value| is_truthy(&value))
    }

    fn number(&self, name: &'static str) -> Result<Option<i64>, ConfigError> {
        let Some(value) = self.filled(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| ConfigError::NotANumber { name, value })
    }
}
