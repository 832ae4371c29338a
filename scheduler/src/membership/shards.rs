//! Which shards are this member's, and the steps from those that it has. Pure.
//!
//! A shard belongs to the member whose id gives it the highest weight: when a member comes or goes,
//! only shards move that are its own. A member has a shard while it holds the claim, a key in the
//! store with its lease; the next owner waits until that key is gone.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::epoch::Epoch;
use crate::engine::shard::{SHARDS, Shard};
use crate::store::{Entry, keys};

/// Shards with the epoch of the claim of each.
pub(crate) type Claims = BTreeMap<Shard, Epoch>;

/// The claim of a member in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) lease: i64,
    pub(super) epoch: Epoch,
}

/// The key of a claim.
pub(crate) fn key(shard: Shard) -> Bytes {
    format!("{}{}", keys::SHARDS, shard.number()).into()
}

/// The claims in the store.
pub(super) fn claims(entries: &[Entry]) -> BTreeMap<Shard, Claim> {
    let claim = |entry: &Entry| {
        let number = std::str::from_utf8(entry.key.strip_prefix(keys::SHARDS.as_bytes())?).ok()?;
        let number = number.parse::<u16>().ok().filter(|number| *number < SHARDS)?;
        let (lease, epoch) = (entry.record.lease.cast_signed(), entry.record.mod_revision);
        Some((Shard::of(number.into()), Claim { lease, epoch }))
    };
    entries.iter().filter_map(claim).collect()
}

/// The steps of one member.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Stop these: another member's, or the claim is gone.
    pub(super) stop: BTreeSet<Shard>,
    /// Then delete these claims.
    pub(super) free: Claims,
    /// Claim these.
    pub(super) claim: Vec<Shard>,
    /// Start these, whose claims were written without an answer.
    pub(super) adopt: Claims,
}

/// The steps of member `own`, who has `held`, among these members and claims.
pub(super) fn plan(
    own: &str,
    lease: i64,
    ids: &[String],
    claims: &BTreeMap<Shard, Claim>,
    held: &Claims,
) -> Plan {
    let mut plan = Plan::default();
    for shard in Shard::all() {
        let is_own = owner(shard, ids) == Some(own);
        let claim = claims.get(&shard);
        let epoch = claim.filter(|claim| claim.lease == lease).map(|claim| claim.epoch);
        let running = held.get(&shard).copied();
        if running.is_some() && (!is_own || running != epoch) {
            plan.stop.insert(shard);
        }
        match (is_own, epoch) {
            (true, None) if claim.is_none() => plan.claim.push(shard),
            (true, Some(epoch)) if running != Some(epoch) => {
                plan.adopt.insert(shard, epoch);
            }
            (false, Some(epoch)) => {
                plan.free.insert(shard, epoch);
            }
            _ => {}
        }
    }
    plan
}

/// The member with the highest weight.
fn owner(shard: Shard, ids: &[String]) -> Option<&str> {
    ids.iter().map(String::as_str).max_by_key(|id| (weight(shard, id), *id))
}

/// Must stay as it is: members of two versions compute it at a time. FNV-1a, then the last steps of
/// `SplitMix64`, because similar ids must have unlike weights.
fn weight(shard: Shard, id: &str) -> u64 {
    let hash = id
        .bytes()
        .chain(shard.number().to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::store::Record;

    const LEASE: i64 = 5;

    fn ids(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("dapr-scheduler-server-{number}")).collect()
    }

    fn owned(ids: &[String], id: &str) -> BTreeSet<Shard> {
        Shard::all().filter(|shard| owner(*shard, ids) == Some(id)).collect()
    }

    #[rstest]
    #[case(1)]
    #[case(2)]
    #[case(3)]
    #[case(7)]
    fn members_have_similar_parts(#[case] count: usize) {
        let ids = ids(count);
        let mean = usize::from(SHARDS) / count;
        for id in &ids {
            let own = owned(&ids, id).len();
            assert!(own.abs_diff(mean) <= mean / 4, "{id} has {own} of {SHARDS}");
        }
    }

    #[test]
    fn only_the_shards_of_the_member_that_left_move() {
        let three = ids(3);
        let two = [three[0].clone(), three[2].clone()];
        for id in &two {
            assert!(owned(&two, id).is_superset(&owned(&three, id)));
        }
    }

    /// Other versions compute the same.
    #[test]
    fn weights_stay_as_they_are() {
        let owners = |from: u64| -> String {
            let shards = (from..from + 16).map(Shard::of);
            shards.map(|shard| owner(shard, &ids(3)).unwrap().chars().last().unwrap()).collect()
        };
        assert_eq!([owners(0), owners(1_008)], ["1222221222202010", "2102122202220012"]);
    }

    fn entry(key: Bytes, lease: u64, mod_revision: u64) -> Entry {
        let record =
            Record { create_revision: 1, mod_revision, version: 1, lease, value: Bytes::new() };
        Entry { key, record }
    }

    #[test]
    fn claims_are_read_from_their_keys() {
        let last = Shard::of(u64::from(SHARDS) - 1);
        let other = |name: &str| entry(format!("{}{name}", keys::SHARDS).into(), 5, 9);
        let entries = [entry(key(last), 5, 9), other("1024"), other("x"), other("")];
        assert_eq!(claims(&entries), [(last, Claim { lease: 5, epoch: 9 })].into());
    }

    /// The first shards of member 0 among two and of the other one.
    fn two() -> (Vec<String>, Shard, Shard) {
        let ids = ids(2);
        let first = |id: &str| *owned(&ids, id).first().unwrap();
        let (mine, other) = (first(&ids[0]), first(&ids[1]));
        (ids, mine, other)
    }

    #[rstest]
    #[case::free_shard(None, None, false, (0, 0, 1, 0))]
    #[case::running(Some((LEASE, 9)), Some(9), false, (0, 0, 0, 0))]
    #[case::of_another_lease(Some((6, 9)), None, false, (0, 0, 0, 0))]
    #[case::written_without_an_answer(Some((LEASE, 9)), None, false, (0, 0, 0, 1))]
    #[case::deleted(None, Some(9), false, (1, 0, 1, 0))]
    #[case::taken_by_another(Some((6, 11)), Some(9), false, (1, 0, 0, 0))]
    #[case::written_again(Some((LEASE, 11)), Some(9), false, (1, 0, 0, 1))]
    #[case::moved(Some((LEASE, 9)), Some(9), true, (1, 1, 0, 0))]
    #[case::stopped_but_not_freed(Some((LEASE, 9)), None, true, (0, 1, 0, 0))]
    #[case::never_mine(None, None, true, (0, 0, 0, 0))]
    fn steps_follow_from_claims(
        #[case] claim: Option<(i64, Epoch)>,
        #[case] running: Option<Epoch>,
        #[case] moved: bool,
        #[case] want: (usize, usize, usize, usize),
    ) {
        let (ids, mine, other) = two();
        let shard = if moved { other } else { mine };
        // All others are claimed by their owners.
        let mut claims: BTreeMap<Shard, Claim> =
            Shard::all().map(|shard| (shard, Claim { lease: 6, epoch: 3 })).collect();
        claims.remove(&shard);
        claims.extend(claim.map(|(lease, epoch)| (shard, Claim { lease, epoch })));
        let held = running.map(|epoch| (shard, epoch)).into_iter().collect();
        let plan = plan(&ids[0], LEASE, &ids, &claims, &held);
        let sizes = (plan.stop.len(), plan.free.len(), plan.claim.len(), plan.adopt.len());
        assert_eq!(sizes, want);
    }
}
