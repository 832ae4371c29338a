//! Errors of the gRPC API and their one mapping to the wire.
use crate::secrets::FillError;

/// Why a call is refused or fails. The texts are those of the reference (Dapr 1.18); the codes
/// are finer where sidecars treat them alike: they try again only after `Unavailable`,
/// `ResourceExhausted` and their own deadline.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The certificate names no namespace and app.
    #[error("failed to determine identity")]
    NoIdentity,
    /// The request names another namespace than the certificate.
    #[error("identity does not match requested namespace exp={requested} got={own}")]
    WrongNamespace {
        /// Namespace of the request.
        requested: String,
        /// Namespace of the certificate.
        own: String,
    },
    /// The same, in the words of the Configuration stream.
    #[error(
        "failed to authorize configuration update request: rpc error: code = PermissionDenied desc = {0}"
    )]
    ConfigurationStream(Box<ApiError>),
    /// The operator has not yet seen the objects of this kind.
    #[error("operator has not yet listed {0}, try again")]
    Starting(&'static str),
    /// The operator watches another namespace.
    #[error("operator watches namespace {0:?} only")]
    NotWatched(String),
    /// The CRD is not installed.
    #[error("{doing}: no matches for kind {kind:?} in version \"dapr.io/{version}\"")]
    NoCrd {
        /// What was tried.
        doing: String,
        /// Kind that is unknown to the API server.
        kind: &'static str,
        /// Its version.
        version: &'static str,
    },
    /// There is no such object.
    #[error("error getting {doing}: {kind}.dapr.io {name:?} not found")]
    NotFound {
        /// What was tried.
        doing: String,
        /// Kind of the object.
        kind: &'static str,
        /// Name of the object.
        name: String,
    },
    /// A secret is missing.
    #[error(transparent)]
    Fill(#[from] FillError),
    /// An object could not be printed.
    #[error("print an object")]
    Print(#[from] serde_json::Error),
}

impl From<ApiError> for tonic::Status {
    fn from(error: ApiError) -> Self {
        let text = error.to_string();
        match error {
            ApiError::NoIdentity
            | ApiError::WrongNamespace { .. }
            | ApiError::ConfigurationStream(_) => Self::permission_denied(text),
            ApiError::Starting(_) => Self::unavailable(text),
            ApiError::NotFound { .. } => Self::not_found(text),
            ApiError::Fill(cause) if cause.is_passing() => Self::unavailable(text),
            ApiError::Fill(_) => Self::failed_precondition(text),
            ApiError::NotWatched(_) | ApiError::NoCrd { .. } | ApiError::Print(_) => {
                Self::unknown(text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::*;
    use crate::secrets::FetchError;

    #[test]
    fn texts_and_codes_are_what_sidecars_know() {
        let status = |e: ApiError| {
            let status = Status::from(e);
            (status.code(), status.message().to_owned())
        };
        let missing = FillError::Secret(FetchError::NotFound("s".into()));
        assert_eq!(
            [
                status(ApiError::ConfigurationStream(Box::new(ApiError::NoIdentity))),
                status(ApiError::NotFound { doing: "configuration n/c".into(), kind: "Configuration", name: "c".into() }),
                status(ApiError::NoCrd { doing: "error listing resiliencies".into(), kind: "Resiliency", version: "v1alpha1" }),
                status(ApiError::Fill(missing)),
            ],
            [
                (Code::PermissionDenied, "failed to authorize configuration update request: rpc error: code = PermissionDenied desc = failed to determine identity".to_owned()),
                (Code::NotFound, "error getting configuration n/c: Configuration.dapr.io \"c\" not found".to_owned()),
                (Code::Unknown, "error listing resiliencies: no matches for kind \"Resiliency\" in version \"dapr.io/v1alpha1\"".to_owned()),
                (Code::FailedPrecondition, "Secret \"s\" not found".to_owned()),
            ]
        );
    }
}
