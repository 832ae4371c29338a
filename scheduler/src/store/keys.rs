//! The layout of keys. Source: Dapr 1.18, embedded etcd; its command line reads the same keys.

use bytes::Bytes;

/// Jobs, by composed name.
pub(crate) const JOBS: &str = "dapr/jobs/";
/// Counters, by the composed name of their job.
pub(crate) const COUNTERS: &str = "dapr/counters/";

/// Members, by id. Each key here counts as one.
pub(crate) const LEADERSHIP: &str = "dapr/leadership/";
/// Members that share jobs by shards, by id. Dapr 1.18 ignores it, and what follows.
pub(crate) const MEMBERS: &str = "dapr/rs/member/";
/// Owners of shards, by number. Each key has the lease of its member.
pub(crate) const SHARDS: &str = "dapr/rs/shard-epoch/";

/// Put with counters, for the quota of etcd. After all other keys of members, whose watch does not
/// see it.
pub(crate) const WRITTEN: &str = "dapr/rs/written";

/// The key of a job.
pub(crate) fn job(name: &[u8]) -> Bytes {
    join(JOBS, name)
}

/// The key of a job's counter.
pub(crate) fn counter(name: &[u8]) -> Bytes {
    join(COUNTERS, name)
}

/// The composed name in the key of a job.
pub(crate) fn job_name(key: &Bytes) -> Option<Bytes> {
    key.starts_with(JOBS.as_bytes()).then(|| key.slice(JOBS.len()..))
}

/// The composed name in the key of a counter.
pub(crate) fn counter_name(key: &Bytes) -> Option<Bytes> {
    key.starts_with(COUNTERS.as_bytes()).then(|| key.slice(COUNTERS.len()..))
}

fn join(prefix: &str, name: &[u8]) -> Bytes {
    [prefix.as_bytes(), name].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_from_their_keys() {
        let name = b"app||ns||a||x||y";
        assert_eq!(job_name(&job(name)).unwrap(), &name[..]);
        assert_eq!(counter_name(&counter(name)).unwrap(), &name[..]);
        assert_eq!(job_name(&counter(name)), None);
        assert_eq!(counter_name(&job(name)), None);
    }
}
