//! Fixed parts of all jobs, each of which has one owner at a time.

/// Number of shards.
pub(crate) const SHARDS: u16 = 1_024;

/// A part of all jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Shard(u16);

impl Shard {
    /// The shard of the jobs with this `stored.Job.partition_id`.
    pub(crate) const fn of(partition_id: u64) -> Self {
        let [low, high, ..] = partition_id.to_le_bytes();
        Self(u16::from_le_bytes([low, high]) % SHARDS)
    }

    /// All shards, in order.
    pub(crate) fn all() -> impl Iterator<Item = Self> + Clone {
        (0..SHARDS).map(Self)
    }

    /// The position among all.
    pub(crate) const fn number(self) -> u16 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remainder_of_the_partition_id_is_the_shard() {
        for id in [0, 1, 1_023, 1_024, 65_535, 65_536, 1 << 40, u64::MAX] {
            assert_eq!(u64::from(Shard::of(id).number()), id % u64::from(SHARDS), "{id}");
        }
        assert_eq!(Shard::all().count(), usize::from(SHARDS));
    }
}
