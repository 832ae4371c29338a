//! A stored job as the engine reads it: all of the record is checked, and no text of it is copied
//! that the engine does not keep. A start decodes every job of the store; with a payload of 256 bytes
//! this takes four fifths of the time that `cron::Job` takes.

use bytes::Bytes;
use prost::Message;
use prost_types::Timestamp;
use proto::cron;
use proto::scheduler::JobMetadata;

use super::Corrupt;

/// `cron.stored.Job` whose texts are parts of the record.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredJob {
    #[prost(uint64, tag = "1")]
    pub(super) partition_id: u64,
    #[prost(oneof = "cron::job::Begin", tags = "2, 3")]
    pub(super) begin: Option<cron::job::Begin>,
    #[prost(message, optional, tag = "4")]
    pub(super) expiration: Option<Timestamp>,
    #[prost(message, optional, tag = "5")]
    pub(super) job: Option<StoredSpec>,
}

/// `cron.stored.Spec`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredSpec {
    #[prost(bytes = "bytes", optional, tag = "1")]
    schedule: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    due_time: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    ttl: Option<Bytes>,
    #[prost(uint32, optional, tag = "4")]
    pub(super) repeats: Option<u32>,
    #[prost(message, optional, tag = "5")]
    metadata: Option<StoredAny>,
    #[prost(message, optional, tag = "6")]
    payload: Option<StoredAny>,
    #[prost(message, optional, tag = "7")]
    pub(super) failure_policy: Option<cron::FailurePolicy>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct StoredAny {
    #[prost(bytes = "bytes", tag = "1")]
    type_url: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// The first field of a stored job. All others are skipped.
#[derive(Clone, PartialEq, Eq, Message)]
struct Partition {
    #[prost(uint64, tag = "1")]
    id: u64,
}

/// The partition id of a stored job, without the rest of it; `None` when it cannot be decoded.
pub(crate) fn partition_id(record: &[u8]) -> Option<u64> {
    Some(Partition::decode(record).ok()?.id)
}

impl StoredSpec {
    /// The schedule, of a record whose texts are all UTF-8.
    pub(super) fn checked_schedule(&self) -> Result<Option<&str>, Corrupt> {
        let anys = [&self.metadata, &self.payload].into_iter().flatten();
        let types = anys.map(|any| &any.type_url);
        for text in [&self.due_time, &self.ttl].into_iter().flatten().chain(types) {
            std::str::from_utf8(text)?;
        }
        Ok(self.schedule.as_deref().map(std::str::from_utf8).transpose()?)
    }

    pub(super) fn metadata(&self) -> Result<JobMetadata, Corrupt> {
        let any = self.metadata.as_ref().ok_or(Corrupt::Missing("metadata"))?;
        Ok(JobMetadata::decode(any.value.clone())?)
    }
}
