//! Flags of JWT SVIDs and OIDC discovery. Source of names and defaults: Dapr 1.18, sentry.

use std::path::{Path, PathBuf};
use std::time::Duration;

use identity::JwtAlgorithm;
use runtime::flags::{go_bool, go_duration};

use crate::jwt::JwtConfig;
use crate::oidc::OidcConfig;

/// Why flags of JWT SVIDs or OIDC discovery are rejected.
#[derive(Debug, thiserror::Error)]
pub enum JwtConfigError {
    /// An issuer without JWT SVIDs.
    #[error("jwt-issuer cannot be set when jwt-enabled is false")]
    IssuerAlone,
    /// The signing algorithm is unknown.
    #[error("--jwt-signing-algorithm {0:?} is not supported")]
    Algorithm(String),
    /// The signing algorithm is not one of sidecars.
    #[error(
        "--jwt-signing-algorithm EdDSA is not supported: sidecars reject such tokens and would not start; use RS*, PS* or ES*"
    )]
    EdDsa,
    /// The lifetime is zero.
    #[error("--jwt-ttl must be longer than zero")]
    Ttl,
    /// One of two files.
    #[error("oidc-server-tls-cert-file and oidc-server-tls-key-file must be set together")]
    OneFile,
    /// OIDC discovery without a certificate.
    #[error(
        "oidc-server-tls-cert-file and oidc-server-tls-key-file are required; set --oidc-server-tls-enabled=false to serve without TLS"
    )]
    NoFiles,
}

/// JWT SVIDs and OIDC discovery.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct JwtFlags {
    /// Issue JWT SVIDs
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = clap::ArgAction::Set)]
    jwt_enabled: bool,
    /// File of the JWT signing key, and key of the Secret
    #[arg(long, default_value = "jwt.key", value_name = "NAME")]
    jwt_key_filename: PathBuf,
    /// File of the JSON web key set, and key of the Secret and the `ConfigMap`
    #[arg(long, default_value = "jwks.json", value_name = "NAME")]
    jwks_filename: PathBuf,
    /// Issuer claim of JWT SVIDs
    #[arg(long, value_name = "URL")]
    jwt_issuer: Option<String>,
    /// Signing algorithm of JWT SVIDs: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or ES512
    #[arg(long, default_value = "RS256", value_name = "NAME")]
    jwt_signing_algorithm: String,
    /// Key id of JWT SVIDs; defaults to the thumbprint of the key
    #[arg(long, value_name = "ID")]
    jwt_key_id: Option<String>,
    /// Lifetime of JWT SVIDs
    #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = go_duration)]
    jwt_ttl: Duration,
    /// Serve OIDC discovery; requires --jwt-enabled
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = clap::ArgAction::Set)]
    oidc_enabled: bool,
    /// Listen address of the OIDC server
    #[arg(long, default_value = "localhost", value_name = "ADDRESS")]
    oidc_server_listen_address: String,
    /// Port of the OIDC server
    #[arg(long, default_value_t = 9080, value_name = "PORT")]
    oidc_server_listen_port: u16,
    /// Require TLS for OIDC discovery
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = true, value_parser = go_bool, action = clap::ArgAction::Set)]
    oidc_server_tls_enabled: bool,
    /// Certificate file of the OIDC server; enables TLS together with the key file
    #[arg(long, value_name = "PATH")]
    oidc_server_tls_cert_file: Option<PathBuf>,
    /// Key file of the OIDC server
    #[arg(long, value_name = "PATH")]
    oidc_server_tls_key_file: Option<PathBuf>,
    /// Override of `jwks_uri` in the discovery document
    #[arg(long, value_name = "URL")]
    oidc_jwks_uri: Option<String>,
    /// Path prefix of the OIDC server
    #[arg(long, value_name = "PATH")]
    oidc_path_prefix: Option<String>,
    /// Hosts that OIDC discovery is served for; all if empty
    #[arg(long, value_delimiter = ',', value_name = "HOSTS")]
    oidc_allowed_hosts: Vec<String>,
}

impl JwtFlags {
    /// Validates the flags; `directory` holds the CA's files.
    ///
    /// # Errors
    /// [`JwtConfigError`]: a value is invalid or contradicts another flag.
    pub(crate) fn into_config(
        self,
        directory: &Path,
    ) -> Result<(Option<JwtConfig>, Option<OidcConfig>), JwtConfigError> {
        let oidc = self.oidc()?;
        if !self.jwt_enabled {
            if self.jwt_issuer.is_some() {
                return Err(JwtConfigError::IssuerAlone);
            }
            if oidc.is_some() {
                tracing::info!("OIDC discovery is disabled because --jwt-enabled is not set");
            }
            return Ok((None, None));
        }
        let name = &self.jwt_signing_algorithm;
        let algorithm =
            JwtAlgorithm::parse(name).ok_or_else(|| JwtConfigError::Algorithm(name.clone()))?;
        if algorithm == JwtAlgorithm::EdDsa {
            return Err(JwtConfigError::EdDsa);
        }
        if self.jwt_ttl.is_zero() {
            return Err(JwtConfigError::Ttl);
        }
        if oidc.is_some() && self.jwt_issuer.is_none() {
            tracing::warn!(
                "--oidc-enabled without --jwt-issuer: tokens have no issuer, so relying parties will reject them"
            );
        }
        let jwt = JwtConfig {
            key: directory.join(self.jwt_key_filename),
            jwks: directory.join(self.jwks_filename),
            issuer: self.jwt_issuer,
            algorithm,
            key_id: self.jwt_key_id.filter(|id| !id.is_empty()),
            ttl: self.jwt_ttl,
        };
        Ok((Some(jwt), oidc))
    }

    fn oidc(&self) -> Result<Option<OidcConfig>, JwtConfigError> {
        let tls = match (&self.oidc_server_tls_cert_file, &self.oidc_server_tls_key_file) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            _ => return Err(JwtConfigError::OneFile),
        };
        if !self.oidc_enabled {
            return Ok(None);
        }
        if tls.is_none() && self.oidc_server_tls_enabled {
            return Err(JwtConfigError::NoFiles);
        }
        Ok(Some(OidcConfig {
            listen_address: self.oidc_server_listen_address.clone(),
            port: self.oidc_server_listen_port,
            tls,
            jwks_uri: self.oidc_jwks_uri.clone().filter(|uri| !uri.is_empty()),
            path_prefix: prefix(self.oidc_path_prefix.as_deref().unwrap_or_default()),
            allowed_hosts: self
                .oidc_allowed_hosts
                .iter()
                .map(|host| host.trim().to_owned())
                .filter(|host| !host.is_empty())
                .collect(),
        }))
    }
}

fn prefix(given: &str) -> String {
    match given.trim_matches('/') {
        "" => String::new(),
        name => format!("/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use rstest::rstest;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Probe {
        #[command(flatten)]
        jwt: JwtFlags,
    }

    fn config(args: &[&str]) -> Result<(Option<JwtConfig>, Option<OidcConfig>), JwtConfigError> {
        let probe = Probe::try_parse_from(["sentry"].iter().chain(args)).unwrap();
        probe.jwt.into_config(Path::new("/ca"))
    }

    #[rstest]
    #[case::off(&[])]
    #[case::oidc_alone_is_off(&["--oidc-enabled", "--oidc-server-tls-enabled=false"])]
    fn is_disabled(#[case] args: &[&str]) {
        assert_eq!(config(args).unwrap(), (None, None));
    }

    #[test]
    fn has_the_defaults_of_dapr() {
        let want = JwtConfig {
            key: "/ca/jwt.key".into(),
            jwks: "/ca/jwks.json".into(),
            issuer: None,
            algorithm: JwtAlgorithm::Rs256,
            key_id: None,
            ttl: Duration::from_hours(24),
        };
        assert_eq!(config(&["--jwt-enabled"]).unwrap(), (Some(want), None));
    }

    #[test]
    fn applies_every_flag() {
        let args = [
            "--jwt-enabled=true",
            "--jwt-key-filename=/keys/k",
            "--jwks-filename=set.json",
            "--jwt-issuer=https://i",
            "--jwt-signing-algorithm=ES512",
            "--jwt-key-id=k1",
            "--jwt-ttl=1h30m",
            "--oidc-enabled",
            "--oidc-server-listen-address=0.0.0.0",
            "--oidc-server-listen-port=9",
            "--oidc-server-tls-cert-file=c",
            "--oidc-server-tls-key-file=k",
            "--oidc-jwks-uri=https://j",
            "--oidc-path-prefix=/p/",
            "--oidc-allowed-hosts=a,b",
            "--oidc-allowed-hosts=c",
        ];
        let jwt = JwtConfig {
            key: "/keys/k".into(),
            jwks: "/ca/set.json".into(),
            issuer: Some("https://i".to_owned()),
            algorithm: JwtAlgorithm::Es512,
            key_id: Some("k1".to_owned()),
            ttl: Duration::from_mins(90),
        };
        let oidc = OidcConfig {
            listen_address: "0.0.0.0".to_owned(),
            port: 9,
            tls: Some(("c".into(), "k".into())),
            jwks_uri: Some("https://j".to_owned()),
            path_prefix: "/p".to_owned(),
            allowed_hosts: ["a", "b", "c"].map(str::to_owned).to_vec(),
        };
        assert_eq!(config(&args).unwrap(), (Some(jwt), Some(oidc)));
    }

    #[rstest]
    #[case::issuer(&["--jwt-issuer=x"], "jwt-issuer cannot be set when jwt-enabled is false")]
    #[case::algorithm(&["--jwt-enabled", "--jwt-signing-algorithm=HS256"], "--jwt-signing-algorithm \"HS256\" is not supported")]
    #[case::eddsa(&["--jwt-enabled", "--jwt-signing-algorithm=EdDSA"], "--jwt-signing-algorithm EdDSA is not supported")]
    #[case::ttl(&["--jwt-enabled", "--jwt-ttl=0s"], "--jwt-ttl must be longer than zero")]
    #[case::one_file(&["--oidc-server-tls-cert-file=c"], "oidc-server-tls-cert-file and oidc-server-tls-key-file must be set together")]
    #[case::no_files(&["--jwt-enabled", "--oidc-enabled"], "oidc-server-tls-cert-file and oidc-server-tls-key-file are required")]
    fn rejects(#[case] args: &[&str], #[case] want: &str) {
        let error = config(args).unwrap_err().to_string();
        assert!(error.starts_with(want), "{error}");
    }

    #[rstest]
    #[case("", "")]
    #[case("/", "")]
    #[case("/a/b/", "/a/b")]
    #[case("a", "/a")]
    fn normalises_prefixes(#[case] given: &str, #[case] want: &str) {
        assert_eq!(prefix(given), want);
    }
}
