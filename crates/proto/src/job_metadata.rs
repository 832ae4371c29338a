//! `dapr.proto.scheduler.v1.JobMetadata` that keeps every byte that it was read from.
//!
//! `prost` drops unknown fields, at any depth. A job's metadata is stored and forwarded to
//! sidecars, which may be newer than the scheduler between them.
use prost::bytes::{Buf, BufMut};
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};

use crate::packages::scheduler::v1::JobTargetMetadata;

/// Field numbers of [`KnownMetadata`].
const KNOWN: std::ops::RangeInclusive<u32> = 1..=4;

/// The decoded fields.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct KnownMetadata {
    /// Scheduling app.
    #[prost(string, tag = "1")]
    pub app_id: String,
    /// Namespace of the app.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// Target of the trigger.
    #[prost(message, optional, tag = "3")]
    pub target: Option<JobTargetMetadata>,
    /// Name of the limit that a trigger counts against.
    #[prost(string, optional, tag = "4")]
    pub concurrency_key: Option<String>,
}

/// The message as received, and its known fields.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct JobMetadata {
    known: KnownMetadata,
    /// Every field, in the order of the wire.
    raw: Vec<u8>,
}

impl JobMetadata {
    /// The decoded fields.
    pub fn known(&self) -> &KnownMetadata {
        &self.known
    }
}

impl From<KnownMetadata> for JobMetadata {
    fn from(known: KnownMetadata) -> Self {
        Self { raw: known.encode_to_vec(), known }
    }
}

impl std::fmt::Debug for JobMetadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.known.fmt(f)
    }
}

impl Message for JobMetadata {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.raw);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        let start = self.raw.len();
        encoding::encode_key(tag, wire_type, &mut self.raw);
        let value = self.raw.len();
        copy_value(wire_type, buffer, &mut self.raw)?;
        if KNOWN.contains(&tag) {
            let mut value = self.raw.get(value..).unwrap_or_default();
            self.known.merge_field(tag, wire_type, &mut value, context).inspect_err(|_| {
                self.raw.truncate(start);
            })?;
        }
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.raw.len()
    }

    fn clear(&mut self) {
        self.known.clear();
        self.raw.clear();
    }
}

/// Copies the value of one field. Groups are rejected: proto3 has none.
fn copy_value(
    wire_type: WireType,
    from: &mut impl Buf,
    into: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let bytes = match wire_type {
        WireType::Varint => {
            encoding::encode_varint(encoding::decode_varint(from)?, into);
            return Ok(());
        }
        WireType::ThirtyTwoBit => 4,
        WireType::SixtyFourBit => 8,
        WireType::LengthDelimited => {
            let length = encoding::decode_varint(from)?;
            encoding::encode_varint(length, into);
            usize::try_from(length).unwrap_or(usize::MAX)
        }
        // Decoding a group as a field of the message fails with prost's own error.
        WireType::StartGroup | WireType::EndGroup => {
            return encoding::skip_field(wire_type, 0, from, DecodeContext::default());
        }
    };
    if from.remaining() < bytes {
        // The same failure, from prost: its error cannot be constructed otherwise.
        return encoding::skip_field(
            WireType::LengthDelimited,
            1,
            &mut [0x7f_u8].as_slice(),
            DecodeContext::default(),
        );
    }
    into.put(from.take(bytes));
    Ok(())
}

#[cfg(test)]
mod tests {
    use job_target_metadata::Type;

    use super::*;
    use crate::scheduler::{GetJobRequest, TargetActorReminder, job_target_metadata};

    fn known() -> KnownMetadata {
        let actor = TargetActorReminder { id: "1".into(), r#type: "cat".into() };
        KnownMetadata {
            app_id: "app".into(),
            namespace: "ns".into(),
            target: Some(JobTargetMetadata { r#type: Some(Type::Actor(actor)) }),
            concurrency_key: Some("key".into()),
        }
    }

    /// A message of a later version: unknown fields of every wire type around the known ones, and
    /// one inside the target.
    fn later() -> Vec<u8> {
        let mut bytes = vec![0x58, 0x07]; // field 11, varint
        bytes.extend([0x61, 1, 2, 3, 4, 5, 6, 7, 8]); // field 12, 64 bits
        bytes.extend(known().encode_to_vec());
        bytes.extend([0x1a, 2, 0x50, 5]); // field 3, target, whose field 10 is 5
        bytes.extend([0x6d, 1, 2, 3, 4]); // field 13, 32 bits
        bytes.extend([0x72, 3, b'n', b'e', b'w']); // field 14, bytes
        bytes
    }

    #[test]
    fn unknown_fields_survive_inside_another_message() {
        let metadata = JobMetadata::decode(later().as_slice()).unwrap();
        assert_eq!(metadata.known(), &known());
        let request = GetJobRequest { name: "n".into(), metadata: Some(metadata) };
        let read = GetJobRequest::decode(request.encode_to_vec().as_slice()).unwrap();
        assert_eq!(read.metadata.unwrap().encode_to_vec(), later());
    }

    #[test]
    fn what_is_made_here_reads_back() {
        let metadata = JobMetadata::from(known());
        assert_eq!(metadata.encode_to_vec(), known().encode_to_vec());
        assert_eq!(JobMetadata::decode(metadata.encode_to_vec().as_slice()).unwrap(), metadata);
    }

    #[test]
    fn a_message_that_is_cut_short_is_refused() {
        let bytes = later();
        for (end, _) in bytes.iter().enumerate().skip(1) {
            let part = bytes.get(..end).unwrap();
            let plain = KnownMetadata::decode(part);
            assert_eq!(JobMetadata::decode(part).is_ok(), plain.is_ok(), "{end} bytes");
        }
    }

    #[test]
    fn groups_are_refused() {
        assert!(JobMetadata::decode([0x5c_u8].as_slice()).is_err());
        assert!(JobMetadata::decode([0x5b_u8, 0x5c].as_slice()).is_err());
    }
}
