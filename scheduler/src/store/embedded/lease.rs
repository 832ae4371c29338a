//! Leases: keys that are deleted when they are not renewed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};

use crate::store::kv::LeaseInfo;

/// Shortest time of a lease in seconds; a shorter one becomes this long. etcd 3.5 with its default
/// election timeout.
pub(crate) const MIN_TTL: i64 = 2;
/// Longest time of a lease in seconds. etcd 3.5.
pub(crate) const MAX_TTL: i64 = 9_000_000_000;

const GRANTED: u8 = b'l';
const HELD: u8 = b'k';

/// A key was attached to a lease or detached from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attachment {
    pub(super) key: Bytes,
    pub(super) lease: i64,
    pub(super) attached: bool,
}

/// The stored form of a lease: one write.
pub(super) fn granted(id: i64, ttl: Option<i64>) -> (Bytes, Option<Bytes>) {
    let key = [&[GRANTED], id.to_be_bytes().as_slice()].concat().into();
    (key, ttl.map(|ttl| Bytes::copy_from_slice(&ttl.to_be_bytes())))
}

/// The write for an attached or detached key.
pub(super) fn held(change: &Attachment) -> (Bytes, Option<Bytes>) {
    let key = [&[HELD], change.lease.to_be_bytes().as_slice(), &change.key].concat().into();
    (key, change.attached.then(Bytes::new))
}

#[derive(Debug)]
struct Lease {
    ttl: i64,
    deadline: Instant,
    keys: BTreeSet<Bytes>,
}

/// All leases by id.
#[derive(Debug, Default)]
pub(super) struct Leases(BTreeMap<i64, Lease>);

impl Leases {
    /// Reads the writes of [`granted`] and [`held`]; every lease is renewed.
    pub(super) fn read(stored: &[(Bytes, Bytes)], now: Instant) -> Self {
        let mut leases = Self::default();
        for kind in [GRANTED, HELD] {
            for (key, value) in stored {
                let mut key = key.clone();
                if key.len() < 9 || key.get_u8() != kind {
                    continue;
                }
                let id = key.get_i64();
                if kind == HELD {
                    leases.apply(&Attachment { key, lease: id, attached: true });
                } else if let Ok(ttl) = <[u8; 8]>::try_from(value.as_ref()) {
                    leases.grant(id, i64::from_be_bytes(ttl), now);
                }
            }
        }
        leases
    }

    pub(super) fn exists(&self, id: i64) -> bool {
        self.0.contains_key(&id)
    }

    pub(super) fn grant(&mut self, id: i64, ttl: i64, now: Instant) {
        let deadline = now + duration(ttl);
        self.0.insert(id, Lease { ttl, deadline, keys: BTreeSet::new() });
    }

    pub(super) fn remove(&mut self, id: i64) {
        self.0.remove(&id);
    }

    pub(super) fn apply(&mut self, change: &Attachment) {
        if let Some(lease) = self.0.get_mut(&change.lease) {
            if change.attached {
                lease.keys.insert(change.key.clone());
            } else {
                lease.keys.remove(&change.key);
            }
        }
    }

    /// The keys of a lease, in order.
    pub(super) fn keys(&self, id: i64) -> Option<Vec<Bytes>> {
        Some(self.0.get(&id)?.keys.iter().cloned().collect())
    }

    /// Renews a lease; returns its granted seconds. An expired lease is lost,
    /// even if its keys are not deleted yet.
    pub(super) fn renew(&mut self, id: i64, now: Instant) -> Option<i64> {
        let lease = self.0.get_mut(&id).filter(|lease| lease.deadline > now)?;
        lease.deadline = now + duration(lease.ttl);
        Some(lease.ttl)
    }

    /// The expired leases.
    pub(super) fn expired(&self, now: Instant) -> Vec<i64> {
        let passed = self.0.iter().filter(|(_, lease)| lease.deadline <= now);
        passed.map(|(id, _)| *id).collect()
    }

    pub(super) fn infos(&self, id: Option<i64>, now: Instant) -> Vec<LeaseInfo> {
        let wanted = self.0.iter().filter(|(other, _)| id.is_none_or(|id| id == **other));
        let info = |(id, lease): (&i64, &Lease)| {
            let left = lease.deadline.saturating_duration_since(now).as_secs();
            LeaseInfo {
                id: *id,
                ttl: lease.ttl,
                remaining: i64::try_from(left).unwrap_or(i64::MAX),
                keys: lease.keys.iter().cloned().collect(),
            }
        };
        wanted.map(info).collect()
    }
}

fn duration(ttl: i64) -> Duration {
    Duration::from_secs(ttl.clamp(MIN_TTL, MAX_TTL).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attach(key: &'static str, attached: bool) -> Attachment {
        Attachment { key: key.into(), lease: -5, attached }
    }

    #[test]
    fn what_was_stored_comes_back_with_its_whole_time() {
        let now = runtime::clock::monotonic();
        let stored: Vec<(Bytes, Bytes)> = [
            granted(-5, Some(20)),
            held(&attach("b", true)),
            held(&attach("a", true)),
            ("totals".into(), Some("x".into())),
        ]
        .into_iter()
        .map(|(key, value)| (key, value.unwrap()))
        .collect();
        let leases = Leases::read(&stored, now);
        let keys = vec!["a".into(), "b".into()];
        assert_eq!(leases.infos(None, now), [LeaseInfo { id: -5, ttl: 20, remaining: 20, keys }]);
        assert_eq!(granted(-5, None), (granted(-5, Some(1)).0, None));
        assert_eq!(held(&attach("a", false)), (held(&attach("a", true)).0, None));
    }

    #[test]
    fn a_lease_ends_when_it_is_not_renewed() {
        let start = runtime::clock::monotonic();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut leases = Leases::default();
        leases.grant(1, 1, start);
        leases.grant(2, 3, start);
        assert!(leases.expired(after(1)).is_empty(), "the shortest time is 2 s");
        assert_eq!(leases.renew(2, after(2)), Some(3));
        assert_eq!(leases.expired(after(4)), [1]);
        assert_eq!(leases.renew(1, after(4)), None, "too late");
        assert_eq!(leases.expired(after(5)), [1, 2]);
        leases.remove(1);
        assert!(!leases.exists(1) && leases.exists(2));
        assert_eq!((leases.keys(1), leases.keys(2)), (None, Some(vec![])));
    }
}
