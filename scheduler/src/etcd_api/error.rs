//! Codes and texts of etcd, by which its clients recognise errors.

use tonic::{Code, Status};

use crate::store::StoreError;
use crate::store::kv::KvError;

/// Why a request is refused before the store sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    #[error("etcdserver: key not found")]
    NoOperation,
    #[error("etcdserver: value is provided")]
    ValueProvided,
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    #[error("etcdserver: invalid sort option")]
    SortOption,
    #[error("etcdserver: too large lease TTL")]
    LeaseTtl,
    /// Go clients continue without a token.
    #[error("etcdserver: authentication is not enabled")]
    NoAuthentication,
}

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        let code = match invalid {
            Invalid::LeaseTtl => Code::OutOfRange,
            Invalid::NoAuthentication => Code::FailedPrecondition,
            _ => Code::InvalidArgument,
        };
        Self::new(code, invalid.to_string())
    }
}

/// The answer to a request that the store refused.
pub(super) fn status(error: KvError) -> Status {
    match error {
        KvError::KeyNotFound => Status::invalid_argument("etcdserver: key not found"),
        KvError::LeaseNotFound => Status::not_found("etcdserver: requested lease not found"),
        KvError::LeaseExists => Status::failed_precondition("etcdserver: lease already exists"),
        KvError::Compacted => {
            Status::out_of_range("etcdserver: mvcc: required revision has been compacted")
        }
        KvError::Future => {
            Status::out_of_range("etcdserver: mvcc: required revision is a future revision")
        }
        KvError::Refused(why) => Status::unknown(why),
        KvError::Store(error @ StoreError::NoSpace) => {
            Status::resource_exhausted(error.to_string())
        }
        // With the text of etcd its clients retry.
        KvError::Store(StoreError::Unavailable(_)) => Status::unavailable("etcdserver: no leader"),
    }
}
