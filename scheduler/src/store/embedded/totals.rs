//! Numbers that are stored with every batch.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::store::Revision;

/// Key of the totals.
pub(super) const KEY: &str = "totals";
/// Six numbers of eight bytes and the alarm.
const BYTES: usize = 49;

/// The numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) revision: Revision,
    /// Bytes of all keys and values, with the cost of each key.
    pub(super) live_bytes: u64,
    /// Batches written, this one included.
    pub(super) sequence: u64,
    /// The last explicit compaction; 0 before the first.
    pub(super) compacted: Revision,
    /// Ids of the cluster and of its one member, chosen when the store was created. Not 0.
    pub(super) cluster_id: u64,
    pub(super) member_id: u64,
    /// Puts are refused until the alarm is cleared.
    pub(super) no_space: bool,
}

impl Totals {
    /// The totals of an empty store.
    pub(super) fn new(cluster_id: u64, member_id: u64) -> Self {
        Self {
            revision: 1,
            live_bytes: 0,
            sequence: 0,
            compacted: 0,
            cluster_id: cluster_id.max(1),
            member_id: member_id.max(1),
            no_space: false,
        }
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(BYTES);
        for number in [
            self.revision,
            self.live_bytes,
            self.sequence,
            self.compacted,
            self.cluster_id,
            self.member_id,
        ] {
            bytes.put_u64(number);
        }
        bytes.put_u8(self.no_space.into());
        bytes.freeze()
    }

    /// Decodes the bytes of [`Totals::encode`].
    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() != BYTES {
            return None;
        }
        let mut next = || bytes.get_u64();
        let (revision, live_bytes, sequence, compacted) = (next(), next(), next(), next());
        let (cluster_id, member_id) = (next(), next());
        let no_space = bytes.get_u8() != 0;
        Some(Self { revision, live_bytes, sequence, compacted, cluster_id, member_id, no_space })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_wrote_and_nothing_else() {
        let totals = Totals {
            revision: 7,
            live_bytes: 8,
            sequence: 9,
            compacted: 3,
            no_space: true,
            ..Totals::new(0, 5)
        };
        assert_eq!((totals.cluster_id, totals.member_id), (1, 5));
        let bytes = totals.encode();
        assert_eq!(Totals::decode(&bytes), Some(totals));
        assert_eq!(Totals::decode(&bytes[1..]), None);
        assert_eq!(Totals::decode(&[&bytes[..], b"x"].concat()), None);
    }
}
