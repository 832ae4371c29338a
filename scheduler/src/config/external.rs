//! The flags of an external etcd.

use std::path::PathBuf;

use super::{ConfigError, Flags, Password, ensure};

/// An etcd that runs elsewhere and keeps the jobs.
#[derive(Debug, Clone)]
pub struct ExternalEtcd {
    /// Addresses, with or without scheme; at least one.
    pub endpoints: Vec<String>,
    /// User and password; `None` for none.
    pub credentials: Option<(String, Password)>,
    /// CA certificates of its servers, PEM; `None` for the system's store.
    pub ca: Option<PathBuf>,
    /// Client certificate and key, PEM.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

impl Flags {
    /// The etcd that the flags name; `None` with `--etcd-embed`.
    ///
    /// # Errors
    /// Half of a client certificate, or files for TLS that no endpoint needs.
    pub(super) fn external(&self) -> Result<Option<ExternalEtcd>, ConfigError> {
        if self.etcd_embed {
            return Ok(None);
        }
        let endpoints = self.etcd_client_endpoints.iter().filter(|at| !at.is_empty());
        let endpoints: Vec<String> = endpoints.cloned().collect();
        let ca = self.etcd_client_ca_file.clone();
        let certificate = self.etcd_client_cert_file.clone().zip(self.etcd_client_key_file.clone());
        let half = self.etcd_client_cert_file.is_some() != self.etcd_client_key_file.is_some();
        ensure(!half, ConfigError::HalfCertificate)?;
        let tls = endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
        ensure(tls || ca.is_none() && certificate.is_none(), ConfigError::NoTlsEndpoint)?;
        let user = &self.etcd_client_username;
        let credentials =
            (!user.is_empty()).then(|| (user.clone(), self.etcd_client_password.clone()));
        Ok(Some(ExternalEtcd { endpoints, credentials, ca, certificate }))
    }
}
