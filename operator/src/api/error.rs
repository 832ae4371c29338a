//! Errors of the gRPC API and their mapping to gRPC status codes.
use crate::cache::store::NotListed;
use crate::secrets::resolution::FillError;

/// Why a call fails. The texts are those of Dapr 1.18. The codes are more specific where sidecars do
/// not distinguish them: a sidecar retries only after `Unavailable`, `ResourceExhausted` and its own
/// deadline.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The SPIFFE id of the caller contains no namespace and app id.
    #[error("failed to determine identity")]
    NoIdentity,
    /// The namespace of the request is not the caller's.
    #[error("identity does not match requested namespace exp={requested} got={own}")]
    WrongNamespace { requested: String, own: String },
    /// An authorization error of the Configuration stream, which has its own text.
    #[error(
        "failed to authorize configuration update request: rpc error: code = PermissionDenied desc = {0}"
    )]
    ConfigurationStream(Box<ApiError>),
    #[error(transparent)]
    NotListed(#[from] NotListed),
    #[error("operator watches namespace {0:?} only")]
    NotWatched(String),
    /// The CRD is not installed.
    #[error("{doing}: no matches for kind {kind:?} in version \"dapr.io/{version}\"")]
    NoCrd { doing: String, kind: &'static str, version: &'static str },
    #[error("error getting {doing}: {kind}.dapr.io {name:?} not found")]
    NotFound { doing: String, kind: &'static str, name: String },
    #[error(transparent)]
    Fill(#[from] FillError),
    /// The pods of the caller cannot be read, so it is unknown which access rules it enforces.
    #[error("read the version of the sidecar of app {app_id}: {reason}")]
    SidecarVersion { app_id: String, reason: String },
    /// The answer is larger than a sidecar can read.
    #[error(
        "the {plural} for app {app_id:?} in namespace {namespace:?} need more than 4 MiB (4194304 bytes), and a sidecar reads no larger message: limit {plural} to the apps that use them with scopes, or make them fewer or smaller"
    )]
    TooLarge { plural: &'static str, namespace: String, app_id: String },
    /// Sidecars of the namespace have not read earlier answers.
    #[error("sidecars of namespace {0:?} have not read earlier messages; try again")]
    BudgetExhausted(String),
    /// The replicas of the app have as many calls open as they may together.
    #[error(
        "app {app_id:?} in namespace {namespace:?} has {limit} open {what}, the most that are served; try again"
    )]
    TooManyCalls { what: &'static str, limit: usize, namespace: String, app_id: String },
    #[error("serialize an object")]
    Serialize(#[from] serde_json::Error),
}

impl From<ApiError> for tonic::Status {
    fn from(error: ApiError) -> Self {
        let text = error.to_string();
        match error {
            ApiError::NoIdentity
            | ApiError::WrongNamespace { .. }
            | ApiError::ConfigurationStream(_) => Self::permission_denied(text),
            ApiError::NotListed(_) | ApiError::SidecarVersion { .. } => Self::unavailable(text),
            ApiError::NotFound { .. } => Self::not_found(text),
            ApiError::Fill(cause) if cause.is_transient() => Self::unavailable(text),
            ApiError::Fill(_) | ApiError::TooLarge { .. } => Self::failed_precondition(text),
            ApiError::BudgetExhausted(_) | ApiError::TooManyCalls { .. } => {
                Self::resource_exhausted(text)
            }
            ApiError::NotWatched(_) | ApiError::NoCrd { .. } | ApiError::Serialize(_) => {
                Self::unknown(text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::*;
    use crate::secrets::resolution::FetchError;

    #[test]
    fn texts_and_codes_are_those_of_dapr() {
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
