//! Why a request was not authenticated. Source of the texts: Dapr 1.18, sentry `SignCertificate`.

use identity::{SpiffeError, TokenError};

use super::pod_identity::Refusal;

/// Why a request was not authenticated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthnError {
    /// The validator is not enabled or does not exist.
    #[error("the requested validator is not enabled")]
    NotEnabled,
    /// The request names no validator and there is no default.
    #[error("a validator name must be specified in this environment")]
    NoDefault,
    /// The validator `jwks` requires a token.
    #[error("the request does not contain a token")]
    NoToken,
    /// The requested identity cannot be the subject of a token.
    #[error("failed to construct SPIFFE ID for requestor: {0}")]
    Requestor(SpiffeError),
    /// The identity provider's token does not prove the requested identity.
    #[error("token validation failed: {0}")]
    Token(TokenError),
    /// The request breaks the common rules; one per line.
    #[error("invalid request: {0}")]
    InvalidRequest(String),
    /// The requested trust domain is invalid.
    #[error(transparent)]
    TrustDomain(SpiffeError),
    /// The token does not prove the requested identity.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The caches of pods and Configurations are not filled yet.
    #[error("validator not ready")]
    NotReady,
    /// The API server failed, or did not respond in time.
    #[error("the Kubernetes API is unavailable: {0}")]
    ApiUnavailable(String),
}

impl AuthnError {
    /// The label of this error in metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::NotEnabled | Self::NoDefault => "validator",
            Self::InvalidRequest(_) | Self::TrustDomain(_) | Self::Requestor(_) => "request",
            Self::NoToken | Self::Token(_) => "token",
            Self::Refused(refusal) => refusal.label(),
            Self::NotReady | Self::ApiUnavailable(_) => "api_unavailable",
        }
    }
}
