//! The client of an external etcd.

use std::sync::Arc;

use prometheus::Histogram;
use runtime::Scope;
use tokio::sync::mpsc;
use transport::file_client::{FileClient, FileClientError};

use crate::config::ExternalEtcd;
use crate::store::StoreEvent;
use crate::store::etcd::{self, Credentials, EndpointError, Endpoints, Etcd};

/// Why the client of an external etcd cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    /// An endpoint is not an address.
    #[error("{0}")]
    Endpoint(String),
    /// The files for TLS cannot be used.
    #[error("TLS to the external etcd")]
    Tls(#[from] FileClientError),
}

impl ExternalError {
    #[expect(clippy::needless_pass_by_value, reason = "a function for map_err")]
    pub(super) fn endpoint(error: EndpointError) -> Self {
        Self::Endpoint(error.to_string())
    }
}

/// Creates the client. Returns before etcd answers.
///
/// # Errors
/// An endpoint is not an address, or the files for TLS cannot be used.
pub(super) fn connect(
    external: &ExternalEtcd,
    batches: Histogram,
    scope: &Scope,
) -> Result<(Etcd, mpsc::Receiver<StoreEvent>), ExternalError> {
    let tls = etcd::with_tls(&external.endpoints)
        .then(|| FileClient { ca: external.ca.clone(), certificate: external.certificate.clone() });
    if let Some(tls) = &tls {
        tls.config()?; // read again at each connection
    }
    let endpoints = Endpoints::parse(&external.endpoints, tls).map_err(ExternalError::endpoint)?;
    let credentials = external.credentials.as_ref().map(|(user, password)| Credentials {
        user: user.clone(),
        password: password.reveal().to_owned(),
    });
    Ok(Etcd::start(endpoints, credentials, Arc::default(), batches, scope))
}
