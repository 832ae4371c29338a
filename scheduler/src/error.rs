//! Why a call is refused, and the one mapping to gRPC. Codes and texts are those of Dapr 1.18
//! unless a variant says otherwise; sidecars turn the codes into HTTP statuses.

use tonic::Status;

use crate::schedule::ScheduleError;
use crate::store::StoreError;
use crate::stored::names::NameError;

/// Why a call or a stream is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("missing namespace or appID in request")]
    Incomplete,
    #[error("failed to get identity from context")]
    NoIdentity,
    #[error("identity does not match request")]
    OtherIdentity,
    /// Dapr 1.19: the types of an app's workflow engine belong to that app.
    #[error("actor type {0:?} is reserved for another app")]
    ReservedType(String),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("job cannot be nil")]
    NoJob,
    #[error("job failed validation: {0}")]
    Invalid(ScheduleError),
    #[error("job already exists: '{0}'")]
    Exists(String),
    #[error("job not found: {0}")]
    NotFound(String),
    #[error("initial request is required on stream connection")]
    NoInitial,
    #[error("duplicate target type specified: {0}")]
    DuplicateType(&'static str),
    #[error("{0} is not a target type")]
    UnknownType(i32),
    #[error("a message after the first one has no result")]
    NoResult,
    #[error("{0} is not a result status")]
    UnknownStatus(i32),
    #[error("server is closing")]
    Closing,
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored record that cannot be given to a caller.
    #[error("job {0:?} is damaged in the store")]
    Damaged(String),
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::Incomplete => Self::invalid_argument(text),
            Refusal::NoIdentity => Self::unauthenticated(text),
            Refusal::OtherIdentity | Refusal::ReservedType(_) => Self::permission_denied(text),
            Refusal::Exists(_) => Self::already_exists(text),
            Refusal::NotFound(_) => Self::not_found(text),
            Refusal::Store(StoreError::NoSpace) => Self::resource_exhausted(text),
            Refusal::Store(StoreError::Unavailable(_)) | Refusal::Closing => {
                Self::unavailable(text)
            }
            Refusal::Damaged(_) => Self::data_loss(text),
            Refusal::Name(_)
            | Refusal::NoJob
            | Refusal::Invalid(_)
            | Refusal::NoInitial
            | Refusal::DuplicateType(_)
            | Refusal::UnknownType(_)
            | Refusal::NoResult
            | Refusal::UnknownStatus(_) => Self::unknown(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tonic::Code;

    use super::*;

    #[rstest]
    #[case(Refusal::Incomplete, Code::InvalidArgument, "missing namespace or appID in request")]
    #[case(Refusal::NoIdentity, Code::Unauthenticated, "failed to get identity from context")]
    #[case(Refusal::OtherIdentity, Code::PermissionDenied, "identity does not match request")]
    #[case(Refusal::NoJob, Code::Unknown, "job cannot be nil")]
    #[case(Refusal::Name(NameError::Empty), Code::Unknown, "job name cannot be empty")]
    #[case(Refusal::Exists("app||n||a||x".into()), Code::AlreadyExists,
        "job already exists: 'app||n||a||x'")]
    #[case(Refusal::NotFound("x".into()), Code::NotFound, "job not found: x")]
    #[case(Refusal::NoInitial, Code::Unknown, "initial request is required on stream connection")]
    #[case(
        Refusal::DuplicateType("JOB_TARGET_TYPE_JOB"),
        Code::Unknown,
        "duplicate target type specified: JOB_TARGET_TYPE_JOB"
    )]
    #[case(
        Refusal::Store(StoreError::NoSpace),
        Code::ResourceExhausted,
        "etcdserver: mvcc: database space exceeded"
    )]
    #[case(Refusal::Store(StoreError::Unavailable("x".into())), Code::Unavailable,
        "the job store is not available: x")]
    fn codes_and_texts(#[case] refusal: Refusal, #[case] code: Code, #[case] text: &str) {
        let status = Status::from(refusal);
        assert_eq!((status.code(), status.message()), (code, text));
    }
}
