//! The jobs of this member.

use bytes::Bytes;

use super::epoch::Epoch;
use super::shards::{self, Claims};
use crate::engine::shard::Shard;
use crate::store::Condition;

/// Which jobs are this member's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// All, of a single member's store.
    All,
    /// A part, while all members agree on their number.
    Part(Part),
    /// Those of the shards that it has claimed.
    Shards(Claims),
}

/// The jobs whose partition id has this remainder. Source: Dapr 1.18.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// The member's key, which is as it was when the epoch began.
    pub(crate) key: Bytes,
    pub(crate) epoch: Epoch,
    /// Position among the sorted keys.
    pub(crate) index: u64,
    /// Number of members.
    pub(crate) total: u64,
}

impl Ownership {
    /// The epoch since which a job is this member's; `None` when it is another's.
    pub(crate) fn epoch(&self, partition_id: u64) -> Option<Epoch> {
        match self {
            Self::All => Some(1),
            Self::Part(part) => part.owns(partition_id).then_some(part.epoch),
            Self::Shards(claims) => claims.get(&Shard::of(partition_id)).copied(),
        }
    }

    /// The epoch of the jobs of a shard that are this member's.
    pub(crate) fn epoch_of(&self, shard: Shard) -> Option<Epoch> {
        match self {
            Self::All => Some(1),
            Self::Part(part) => Some(part.epoch),
            Self::Shards(claims) => claims.get(&shard).copied(),
        }
    }

    /// A condition that holds in the store while a shard's jobs are this member's. A late write
    /// under it changes nothing.
    pub(crate) fn condition(&self, shard: Shard) -> Option<Condition> {
        let (key, mod_revision) = match self {
            Self::All => return None,
            Self::Part(part) => (part.key.clone(), part.epoch),
            // Revision 0 never holds: the shard was lost.
            Self::Shards(claims) => {
                (shards::key(shard), claims.get(&shard).copied().unwrap_or_default())
            }
        };
        Some(Condition::Unchanged { key, mod_revision })
    }
}

impl Part {
    /// Whether a job belongs to it.
    pub(crate) fn owns(&self, partition_id: u64) -> bool {
        partition_id % self.total.max(1) == self.index
    }
}
