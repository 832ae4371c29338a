//! Flags and environment, checked once. Source of names and defaults: Dapr 1.18, sentry.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use identity::{KeyKind, TrustDomain};
use kubernetes::KubeFlags;
use runtime::flags::go_duration;
use runtime::{ProcessFlags, environment};

use crate::config_jwt::JwtFlags;
pub use crate::config_jwt::{JwtConfig, OidcConfig};

/// Sentry issues the certificates that Dapr's services and sidecars identify themselves with.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "sentry", version = runtime::VERSION)]
pub struct Flags {
    /// Flags of every service.
    #[command(flatten)]
    pub process: ProcessFlags,
    /// Where the API server is.
    #[command(flatten)]
    pub kube: KubeFlags,
    /// kubernetes or standalone
    #[arg(long, default_value = "standalone")]
    mode: String,
    /// Name of the control plane's Configuration resource, or in standalone mode path of a YAML file
    #[arg(long, default_value = DEFAULT_CONFIG)]
    config: String,
    /// Directory of the CA's files
    #[arg(long, default_value = "/var/run/secrets/dapr.io/credentials", value_name = "PATH")]
    issuer_credentials: PathBuf,
    /// File with the trust anchors, and key of the Secret and `ConfigMap`
    #[arg(long, default_value = "ca.crt", value_name = "NAME")]
    issuer_ca_filename: PathBuf,
    /// File with the issuer certificate chain, and key of the Secret
    #[arg(long, default_value = "issuer.crt", value_name = "NAME")]
    issuer_certificate_filename: PathBuf,
    /// File with the issuer key, and key of the Secret
    #[arg(long, default_value = "issuer.key", value_name = "NAME")]
    issuer_key_filename: PathBuf,
    /// Kind of the keys of a CA that sentry makes itself: ecdsa-p256, ed25519 or rsa-2048
    #[arg(long, default_value = "ecdsa-p256", value_name = "KIND")]
    ca_key_type: String,
    /// Lifetime of a CA that sentry makes itself, root and issuer
    #[arg(long, default_value = "8760h", value_name = "DURATION", value_parser = go_duration)]
    ca_lifetime: Duration,
    /// Percent of its life at whose rest a CA that sentry made itself is replaced by the next one,
    /// in stages and without restarts (Kubernetes mode only); 0 means never
    #[arg(long, default_value_t = 33, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=90))]
    ca_rotate_at: u8,
    /// How long the old root stays trusted at least after the new one signs, for signatures that
    /// are verified later, such as those of workflow histories
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = go_duration)]
    ca_keep_retired: Duration,
    /// Trust domain of the control plane
    #[arg(long, default_value = "localhost", value_name = "NAME")]
    trust_domain: String,
    /// Port of the gRPC server
    #[arg(long, default_value_t = 50001)]
    port: u16,
    /// Address that the gRPC server listens on; empty means all
    #[arg(long, default_value = "", value_name = "ADDRESS", hide_default_value = true)]
    listen_address: String,
    #[command(flatten)]
    jwt: JwtFlags,
}

const DEFAULT_CONFIG: &str = resources::names::CONTROL_PLANE_CONFIGURATION;

/// How sentry runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// In a cluster: the CA in a Secret and a `ConfigMap`, tokens checked by the API server.
    Kubernetes {
        /// Name of the control plane's Configuration resource.
        configuration: String,
        /// For running outside of a cluster.
        kubeconfig: Option<PathBuf>,
    },
    /// A plain process: the CA in files, callers believed.
    Standalone {
        /// YAML file with the Configuration.
        configuration: PathBuf,
    },
}

/// Where the parts of the CA are. In Kubernetes the file names are the keys of the Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleNames {
    /// Trust anchors.
    pub anchors: PathBuf,
    /// Issuer certificate chain.
    pub issuer_chain: PathBuf,
    /// Issuer key.
    pub issuer_key: PathBuf,
}

impl BundleNames {
    /// The key of the Secret (or `ConfigMap`) that belongs to a path.
    pub fn key(path: &Path) -> String {
        path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Everything that sentry is told from outside, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How sentry runs.
    pub mode: Mode,
    /// Own namespace, which is the control plane's.
    pub namespace: String,
    /// Trust domain of the control plane.
    pub trust_domain: TrustDomain,
    /// Where the CA is.
    pub bundle: BundleNames,
    /// Keys of a CA that sentry makes itself.
    pub ca_key_kind: KeyKind,
    /// How long such a CA lives.
    pub ca_lifetime: Duration,
    /// Percent of its life at whose rest it is replaced; 0 means never.
    pub ca_rotate_at: u8,
    /// How long its root stays trusted at least after it was replaced.
    pub ca_keep_retired: Duration,
    /// Address of the gRPC server; empty means all.
    pub listen_address: String,
    /// Port of the gRPC server; 0 lets the kernel choose.
    pub port: u16,
    /// JWT SVIDs, if they are issued.
    pub jwt: Option<JwtConfig>,
    /// OIDC discovery, if it is served.
    pub oidc: Option<OidcConfig>,
}

impl Flags {
    /// Checks the flags and adds what the environment says.
    ///
    /// # Errors
    /// A value is illegal, or asks for something that this release does not have.
    pub fn into_config(self) -> anyhow::Result<Config> {
        let namespace = environment::namespace();
        let mode = match self.mode.as_str() {
            "kubernetes" => {
                ensure!(
                    environment::var("NAMESPACE").is_some_and(|name| !name.is_empty()),
                    "NAMESPACE is not set; it names the namespace of the control plane"
                );
                let named = if self.config.is_empty() { DEFAULT_CONFIG } else { &self.config };
                let configuration = named.to_owned();
                Mode::Kubernetes { configuration, kubeconfig: self.kube.kubeconfig }
            }
            "standalone" => Mode::Standalone { configuration: self.config.into() },
            other => bail!("Invalid options: invalid mode: {other}"),
        };
        let directory = self.issuer_credentials;
        // A relative name stands in the directory, an absolute one replaces it.
        let bundle = BundleNames {
            anchors: directory.join(self.issuer_ca_filename),
            issuer_chain: directory.join(self.issuer_certificate_filename),
            issuer_key: directory.join(self.issuer_key_filename),
        };
        ensure!(!self.ca_lifetime.is_zero(), "--ca-lifetime must be longer than zero");
        let (jwt, oidc) = self.jwt.into_config(&directory)?;
        let trust_domain = TrustDomain::parse(&self.trust_domain)
            .with_context(|| format!("--trust-domain {:?}", self.trust_domain))?;
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
            jwt,
            oidc,
        })
    }
}

fn key_kind(name: &str) -> anyhow::Result<KeyKind> {
    match name {
        "ecdsa-p256" => Ok(KeyKind::EcdsaP256),
        "ed25519" => Ok(KeyKind::Ed25519),
        "rsa-2048" => Ok(KeyKind::Rsa2048),
        other => bail!("--ca-key-type {other:?} is unknown; use ecdsa-p256, ed25519 or rsa-2048"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use rstest::rstest;

    fn config(args: &[&str]) -> anyhow::Result<Config> {
        Flags::try_parse_from(["sentry"].iter().chain(args))?.into_config()
    }

    #[test]
    fn the_defaults_are_dapr_s() {
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
    #[case::key_type(&["--ca-key-type", "dsa"], "--ca-key-type \"dsa\" is unknown")]
    fn refuses_what_it_cannot_do(#[case] args: &[&str], #[case] want: &str) {
        let error = config(args).unwrap_err().to_string();
        assert!(error.starts_with(want), "{error}");
    }

    #[test]
    fn absolute_names_leave_the_directory_and_keep_their_key() {
        let config = config(&["--issuer-ca-filename", "/etc/ca/root.pem"]).unwrap();
        assert_eq!(config.bundle.anchors, Path::new("/etc/ca/root.pem"));
        assert_eq!(BundleNames::key(&config.bundle.anchors), "root.pem");
    }
}
