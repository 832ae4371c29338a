//! A value with its revisions, as bytes: a header of fixed length, then the value.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::Revision;

/// Four numbers of eight bytes.
pub(crate) const HEADER_BYTES: usize = 32;

/// A stored value with its revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Revision of the write that created the key.
    pub(crate) create_revision: Revision,
    /// Revision of the last write.
    pub(crate) mod_revision: Revision,
    /// Writes since the creation, 1 after it.
    pub(crate) version: u64,
    /// The lease that the key belongs to; 0 for none.
    pub(crate) lease: u64,
    pub(crate) value: Bytes,
}

impl Record {
    /// The record as it is stored.
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES + self.value.len());
        for number in [self.create_revision, self.mod_revision, self.version, self.lease] {
            bytes.put_u64(number);
        }
        bytes.put_slice(&self.value);
        bytes.freeze()
    }

    /// Decodes a stored record; `None` for other bytes.
    pub(crate) fn decode(mut bytes: Bytes) -> Option<Self> {
        let mut header = bytes.get(..HEADER_BYTES)?;
        let mut next = || header.get_u64();
        let (create_revision, mod_revision) = (next(), next());
        let (version, lease) = (next(), next());
        bytes.advance(HEADER_BYTES);
        Some(Self { create_revision, mod_revision, version, lease, value: bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_wrote_and_refuses_less() {
        let record = Record {
            create_revision: 2,
            mod_revision: 3,
            version: 4,
            lease: 5,
            value: Bytes::from_static(b"value"),
        };
        let bytes = record.encode();
        assert_eq!(Record::decode(bytes.clone()), Some(record));
        assert_eq!(Record::decode(bytes.slice(..HEADER_BYTES)).unwrap().value, Bytes::new());
        assert_eq!(Record::decode(bytes.slice(..HEADER_BYTES - 1)), None);
    }
}
