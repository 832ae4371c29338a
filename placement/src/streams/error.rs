//! Why a stream is refused or ended, and the one mapping to gRPC. Sidecars log these texts; codes
//! and texts are those of Dapr 1.18 unless a variant states otherwise.

use std::time::Duration;

use tonic::Status;

use crate::rounds::table::MAX_TABLE_BYTES;
use crate::streams::limits::{FIRST_MESSAGE, MAX_NAME_BYTES, MAX_TYPES};

/// Why a message of a sidecar is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// mTLS is on and the certificate names no workload.
    #[error("failed to get client ID from context")]
    NoIdentity,
    /// A message with a version and no operation.
    #[error("both operation and version must be set or both must be unset")]
    VersionWithoutOperation,
    /// An empty id or namespace.
    #[error("host ID and namespace must be provided")]
    Incomplete,
    /// Another app id than the certificate's.
    #[error("provided app ID {claimed} doesn't match the one in the SPIFFE ID ({proven})")]
    OtherApp {
        /// The app id in the message.
        claimed: String,
        /// The app id in the certificate.
        proven: String,
    },
    /// Another namespace than the certificate's.
    #[error(
        "provided client namespace {claimed} doesn't match the one in the SPIFFE ID ({proven})"
    )]
    OtherNamespace {
        /// The namespace in the message.
        claimed: String,
        /// The namespace in the certificate.
        proven: String,
    },
    /// An actor type that belongs to another app's workflow engine.
    #[error("entity {entity} is not allowed for app ID {app_id} in namespace {namespace}")]
    ReservedEntity {
        /// The actor type.
        entity: String,
        /// The app id of the message.
        app_id: String,
        /// The namespace of the message.
        namespace: String,
    },
    /// More actor types than a host may report. Ours: Dapr 1.18 has no limit.
    #[error("{count} actor types reported, at most {MAX_TYPES} are allowed")]
    TooManyTypes {
        /// Different types in the message.
        count: usize,
    },
    /// A name that is too long. Ours: Dapr 1.18 has no limit.
    #[error("{field} has {bytes} bytes, at most {MAX_NAME_BYTES} are allowed")]
    TooLong {
        /// The field of the message.
        field: &'static str,
        /// Its length in bytes.
        bytes: usize,
    },
    /// A later message has another app id or namespace. Ours: Dapr 1.18 lets such a message
    /// overwrite the entry of a foreign stream.
    #[error("namespace and app ID must not change on a stream")]
    ChangedIdentity,
}

impl From<&Refusal> for Status {
    fn from(refusal: &Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::NoIdentity => Self::unauthenticated(text),
            Refusal::VersionWithoutOperation
            | Refusal::Incomplete
            | Refusal::TooManyTypes { .. }
            | Refusal::TooLong { .. }
            | Refusal::ChangedIdentity => Self::invalid_argument(text),
            Refusal::OtherApp { .. }
            | Refusal::OtherNamespace { .. }
            | Refusal::ReservedEntity { .. } => Self::permission_denied(text),
        }
    }
}

/// Why the server ends an accepted stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum End {
    /// It did not acknowledge a step in time.
    #[error("dissemination timeout after {} for version {version}", runtime::go_duration::format(*.after))]
    TimedOut {
        /// The budget of the round.
        after: Duration,
        /// The version of the round.
        version: u64,
    },
    /// The stream sent no message in time. Ours: Dapr 1.18 has no limit.
    #[error("no report within {}", runtime::go_duration::format(FIRST_MESSAGE))]
    NoReport,
    /// The report would make the table of its namespace larger than a sidecar can read. Ours: Dapr
    /// 1.18 sends such a table, and every sidecar of the namespace loses its stream.
    #[error(
        "the actor table of namespace {namespace} would exceed {MAX_TABLE_BYTES} bytes, which no \
         sidecar can read: register fewer actor types or hosts"
    )]
    TableFull {
        /// The namespace whose table is full.
        namespace: String,
    },
    /// Another replica leads, or none. Sidecars match the words "is not a leader", and 1.14 to 1.16
    /// the code, to continue with the next address. Dapr 1.18.
    #[error("node id={id} is not a leader. Only the leader can serve requests")]
    NotLeader {
        /// The id of this replica.
        id: String,
    },
    /// This replica lost leadership. Dapr 1.18 sends the same text with the code UNKNOWN.
    #[error("lost leadership")]
    LostLeadership,
    /// The process stops, and the stream is new. Dapr 1.18.
    #[error("placement server is shutting down")]
    Refused,
    /// The process stops. Dapr 1.18 sends the same text with the code UNKNOWN.
    #[error("cancelling context, received signal terminated")]
    Stopped,
}

impl From<End> for Status {
    fn from(end: End) -> Self {
        let text = end.to_string();
        match end {
            End::TimedOut { .. } | End::NoReport => Self::deadline_exceeded(text),
            End::TableFull { .. } => Self::resource_exhausted(text),
            End::NotLeader { .. } => Self::failed_precondition(text),
            End::LostLeadership | End::Refused | End::Stopped => Self::unavailable(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn a_follower_refuses_with_the_text_that_sidecars_match() {
        let status = Status::from(End::NotLeader { id: "dapr-placement-1".to_owned() });
        let text = "node id=dapr-placement-1 is not a leader. Only the leader can serve requests";
        assert_eq!((status.code(), status.message()), (tonic::Code::FailedPrecondition, text));
    }

    #[rstest]
    #[case(Duration::from_secs(1), "dissemination timeout after 1s for version 7")]
    #[case(Duration::from_mins(1), "dissemination timeout after 1m0s for version 7")]
    fn timeouts_are_written_as_go_writes_them(#[case] after: Duration, #[case] want: &str) {
        assert_eq!(Status::from(End::TimedOut { after, version: 7 }).message(), want);
    }
}
