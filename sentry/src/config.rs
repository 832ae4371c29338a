//! Flags and environment, validated once. Source of names and defaults: Dapr 1.18, sentry.

use std::path::PathBuf;
use std::time::Duration;

use identity::{KeyKind, SpiffeError, TrustDomain};
use kubernetes::KubeFlags;
use runtime::flags::{go_bool, go_duration};
use runtime::{ProcessFlags, environment};

use crate::authn::cluster::ImageExtension;
use crate::ca::{BundleNames, CaPolicy};
use crate::jwt::JwtConfig;
use crate::oidc::OidcConfig;

mod jwt;

pub use jwt::JwtConfigError;
use jwt::JwtFlags;

/// Why the flags are rejected.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The namespace of the control plane is unknown in Kubernetes mode.
    #[error(
        "environment variable NAMESPACE is not set; set it to the namespace of the control plane"
    )]
    NoNamespace,
    /// `--mode` is neither kubernetes nor standalone.
    #[error("Invalid options: invalid mode: {0}")]
    Mode(String),
    /// The lifetime of the CA is zero.
    #[error("--ca-lifetime must be longer than zero")]
    CaLifetime,
    /// The trust domain is invalid.
    #[error("--trust-domain {text:?}")]
    TrustDomain {
        /// Value of `--trust-domain`.
        text: String,
        /// Why it does not parse.
        #[source]
        cause: SpiffeError,
    },
    /// The key type of the CA is unknown.
    #[error("--ca-key-type {0:?} is not supported; use ecdsa-p256, ed25519 or rsa-2048")]
    CaKeyType(String),
    /// Flags of JWT SVIDs or OIDC discovery.
    #[error(transparent)]
    Jwt(#[from] JwtConfigError),
}

/// The certificate authority of Dapr: issues SPIFFE certificates to sidecars and control plane services
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "sentry", version = runtime::VERSION)]
pub struct Flags {
    /// The flags of every service.
    #[command(flatten)]
    pub process: ProcessFlags,
    /// The flags of the Kubernetes client.
    #[command(flatten)]
    pub kube: KubeFlags,
    /// kubernetes or standalone
    #[arg(long, default_value = "standalone")]
    mode: String,
    /// Name of the control plane's Configuration resource; in standalone mode the path of a YAML file
    #[arg(long, default_value = DEFAULT_CONFIG)]
    config: String,
    /// Directory of the CA's files
    #[arg(long, default_value = "/var/run/secrets/dapr.io/credentials", value_name = "PATH")]
    issuer_credentials: PathBuf,
    /// File of the trust anchors, and key of the Secret and the `ConfigMap`
    #[arg(long, default_value = "ca.crt", value_name = "NAME")]
    issuer_ca_filename: PathBuf,
    /// File of the issuer certificate chain, and key of the Secret
    #[arg(long, default_value = "issuer.crt", value_name = "NAME")]
    issuer_certificate_filename: PathBuf,
    /// File of the issuer key, and key of the Secret
    #[arg(long, default_value = "issuer.key", value_name = "NAME")]
    issuer_key_filename: PathBuf,
    /// Key type of a CA that sentry creates: ecdsa-p256, ed25519 or rsa-2048
    #[arg(long, default_value = "ecdsa-p256", value_name = "KIND")]
    ca_key_type: String,
    /// Lifetime of a CA that sentry creates, root and issuer
    #[arg(long, default_value = "8760h", value_name = "DURATION", value_parser = go_duration)]
    ca_lifetime: Duration,
    /// Remaining lifetime, in percent, at which sentry rotates a CA that it created, without restarts
    /// (Kubernetes mode only); 0 disables rotation
    #[arg(long, default_value_t = 33, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=90))]
    ca_rotate_at: u8,
    /// Minimum time for which the old root stays trusted after a rotation, for signatures that are
    /// verified later, such as those of workflow histories
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = go_duration)]
    ca_keep_retired: Duration,
    /// Trust domain of the control plane
    #[arg(long, default_value = "localhost", value_name = "NAME")]
    trust_domain: String,
    /// Port of the gRPC server
    #[arg(long, default_value_t = 50001)]
    port: u16,
    /// Listen address of the gRPC server; all interfaces if empty
    #[arg(long, default_value = "", value_name = "ADDRESS", hide_default_value = true)]
    listen_address: String,
    /// Put the container images of a pod into its certificate (Kubernetes mode only)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = true, value_parser = go_bool, action = clap::ArgAction::Set)]
    container_images_extension: bool,
    #[command(flatten)]
    jwt: JwtFlags,
}

const DEFAULT_CONFIG: &str = resources::names::CONTROL_PLANE_CONFIGURATION;

/// The mode of operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// In a cluster: the CA is in a Secret and a `ConfigMap`, the API server reviews tokens.
    Kubernetes {
        /// Name of the control plane's Configuration resource.
        configuration: String,
        /// Path of a kubeconfig; used only outside a cluster.
        kubeconfig: Option<PathBuf>,
    },
    /// A plain process: the CA is in files, callers are not authenticated.
    Standalone {
        /// Path of the Configuration in YAML.
        configuration: PathBuf,
    },
}

/// The validated configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Mode of operation.
    pub mode: Mode,
    /// Namespace of the control plane.
    pub namespace: String,
    /// Trust domain of the control plane.
    pub trust_domain: TrustDomain,
    /// Where the CA is stored.
    pub bundle: BundleNames,
    /// Key kind of a CA that sentry creates.
    pub ca_key_kind: KeyKind,
    /// Lifetime of such a CA.
    pub ca_lifetime: Duration,
    /// Remaining lifetime, in percent, at which it is rotated; 0 disables rotation.
    pub ca_rotate_at: u8,
    /// Minimum time for which its root stays trusted after a rotation.
    pub ca_keep_retired: Duration,
    /// Listen address of the gRPC server; all interfaces if empty.
    pub listen_address: String,
    /// Port of the gRPC server; 0 lets the kernel choose.
    pub port: u16,
    /// Whether certificates carry the container images of their pod.
    pub image_extension: ImageExtension,
    /// How JWT SVIDs are issued; `None` disables them.
    pub jwt: Option<JwtConfig>,
    /// How OIDC discovery is served; `None` disables it.
    pub oidc: Option<OidcConfig>,
}

impl Flags {
    /// Validates the flags and reads the environment.
    ///
    /// # Errors
    /// [`ConfigError`]: a value is invalid or contradicts another flag.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        let namespace = environment::namespace();
        let mode = match self.mode.as_str() {
            "kubernetes" => {
                if environment::var("NAMESPACE").is_none_or(|name| name.is_empty()) {
                    return Err(ConfigError::NoNamespace);
                }
                let named = if self.config.is_empty() { DEFAULT_CONFIG } else { &self.config };
                let configuration = named.to_owned();
                Mode::Kubernetes { configuration, kubeconfig: self.kube.kubeconfig }
            }
            "standalone" => Mode::Standalone { configuration: self.config.into() },
            other => return Err(ConfigError::Mode(other.to_owned())),
        };
        let directory = self.issuer_credentials;
        // `join` with an absolute name replaces the directory.
        let bundle = BundleNames {
            anchors: directory.join(self.issuer_ca_filename),
            issuer_chain: directory.join(self.issuer_certificate_filename),
            issuer_key: directory.join(self.issuer_key_filename),
        };
        if self.ca_lifetime.is_zero() {
            return Err(ConfigError::CaLifetime);
        }
        let (jwt, oidc) = self.jwt.into_config(&directory)?;
        let trust_domain = TrustDomain::parse(&self.trust_domain)
            .map_err(|cause| ConfigError::TrustDomain { text: self.trust_domain, cause })?;
        let image_extension = if self.container_images_extension {
            ImageExtension::Enabled
        } else {
            ImageExtension::Disabled
        };
        Ok(Config {
            mode,
            namespace,
            trust_domain,
            bundle,
            ca_key_kind: key_kind(&self.ca_key_type)?,
            ca_lifetime: self.ca_lifetime,
            ca_rotate_at: self.ca_rotate_at,
            ca_keep_retired: self.ca_keep_retired,
            listen_address: self.listen_address,
            port: self.port,
            image_extension,
            jwt,
            oidc,
        })
    }
}

impl From<&Config> for CaPolicy {
    fn from(config: &Config) -> Self {
        Self {
            trust_domain: config.trust_domain.clone(),
            namespace: config.namespace.clone(),
            key_kind: config.ca_key_kind,
            lifetime: config.ca_lifetime,
            rotate_at: config.ca_rotate_at,
            keep_retired: config.ca_keep_retired,
        }
    }
}

fn key_kind(name: &str) -> Result<KeyKind, ConfigError> {
    match name {
        "ecdsa-p256" => Ok(KeyKind::EcdsaP256),
        "ed25519" => Ok(KeyKind::Ed25519),
        "rsa-2048" => Ok(KeyKind::Rsa2048),
        other => Err(ConfigError::CaKeyType(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser as _;
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn config(args: &[&str]) -> Result<Config, ConfigError> {
        Flags::try_parse_from(["sentry"].iter().chain(args)).unwrap().into_config()
    }

    #[test]
    fn has_the_defaults_of_dapr() {
        let config = config(&[]).unwrap();
        let directory = Path::new("/var/run/secrets/dapr.io/credentials");
        assert_eq!(config.mode, Mode::Standalone { configuration: "daprsystem".into() });
        assert_eq!(config.trust_domain.as_str(), "localhost");
        assert_eq!(config.port, 50001);
        assert_eq!(config.bundle.anchors, directory.join("ca.crt"));
        assert_eq!(config.bundle.issuer_chain, directory.join("issuer.crt"));
        assert_eq!(config.bundle.issuer_key, directory.join("issuer.key"));
        assert_eq!(config.ca_key_kind, KeyKind::EcdsaP256);
    }

    #[rstest]
    #[case::mode(&["--mode", "both"], "Invalid options: invalid mode: both")]
    #[case::trust_domain(&["--trust-domain", "Upper"], "--trust-domain \"Upper\"")]
    #[case::issuer_alone(&["--jwt-issuer", "x"], "jwt-issuer cannot be set when jwt-enabled is false")]
    #[case::key_type(&["--ca-key-type", "dsa"], "--ca-key-type \"dsa\" is not supported")]
    fn rejects_invalid_flags(#[case] args: &[&str], #[case] want: &str) {
        let error = config(args).unwrap_err().to_string();
        assert!(error.starts_with(want), "{error}");
    }

    #[test]
    fn absolute_names_replace_the_directory_and_keep_their_key() {
        let config = config(&["--issuer-ca-filename", "/etc/ca/root.pem"]).unwrap();
        assert_eq!(config.bundle.anchors, Path::new("/etc/ca/root.pem"));
        assert_eq!(BundleNames::key(&config.bundle.anchors), "root.pem");
    }

    proptest! {
        #[test]
        fn no_command_line_panics(args in prop::collection::vec(prop_oneof![
            "--(mode|config|port|trust-domain|jwt-ttl|jwt-signing-algorithm|oidc-path-prefix)=.{0,8}",
            "--(jwt-enabled|oidc-enabled|oidc-server-tls-enabled)(=(true|false|x))?",
            "-{0,2}[a-z-]{0,12}",
        ], 0..6)) {
            let line = std::iter::once("sentry".to_owned()).chain(args);
            if let Ok(flags) = Flags::try_parse_from(line)
                && let Ok(config) = flags.into_config()
            {
                prop_assert!(TrustDomain::parse(config.trust_domain.as_str()).is_ok());
                prop_assert!(config.oidc.is_none() || config.jwt.is_some());
            }
        }
    }
}
