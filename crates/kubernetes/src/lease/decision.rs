//! What a candidate does next, and the record that makes it the holder. Pure.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

/// The Lease as a candidate last saw it.
#[derive(Debug, Clone, Default)]
pub(super) struct Observed {
    /// `None` when it does not exist.
    pub(super) lease: Option<Lease>,
    /// When this state of the lease was first seen.
    pub(super) since: Option<Instant>,
}

/// What a candidate does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// There is no Lease: create it.
    Create,
    /// It is free, expired, or held by this candidate: acquire or renew it.
    Acquire,
    /// Another candidate holds it.
    Wait,
}

pub(super) fn decide(observed: &Observed, identity: &str, now: Instant) -> Step {
    let Some(lease) = &observed.lease else { return Step::Create };
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
    let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    let age = observed.since.map(|since| now.saturating_duration_since(since));
    let expired = age.is_some_and(|age| age > duration);
    if holder.is_empty() || holder == identity || expired { Step::Acquire } else { Step::Wait }
}

/// The record that makes `identity` the holder from `now` on, for `lease`.
pub(super) fn record(
    old: Option<&LeaseSpec>,
    identity: &str,
    lease: Duration,
    now: jiff::Timestamp,
) -> LeaseSpec {
    let same = old.is_some_and(|old| old.holder_identity.as_deref() == Some(identity));
    let transitions = old.and_then(|old| old.lease_transitions).unwrap_or_default();
    let acquired = old.filter(|_| same).and_then(|old| old.acquire_time.clone());
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(i32::try_from(lease.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: acquired.or(Some(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if same || old.is_none() { transitions } else { transitions + 1 }),
        ..LeaseSpec::default()
    }
}

/// The record that releases the lease, so that the next candidate acquires it at once.
pub(super) fn released(spec: LeaseSpec) -> LeaseSpec {
    LeaseSpec { holder_identity: Some(String::new()), lease_duration_seconds: Some(1), ..spec }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use rstest::rstest;
    use runtime::clock;

    use super::*;
    use crate::lease::Timing;

    const LEASE: Duration = Timing::PATIENT.lease;

    fn observed(holder: &str, seconds: i32, since: Instant) -> Observed {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(seconds),
            lease_transitions: Some(3),
            ..LeaseSpec::default()
        };
        let lease = Lease { metadata: ObjectMeta::default(), spec: Some(spec) };
        Observed { lease: Some(lease), since: Some(since) }
    }

    #[rstest]
    #[case::free("", 0, Step::Acquire)]
    #[case::ours("me", 0, Step::Acquire)]
    #[case::held("other", 0, Step::Wait)]
    #[case::held_to_the_last("other", 15, Step::Wait)]
    #[case::expired("other", 16, Step::Acquire)]
    fn a_lease_is_acquired_when_its_holder_does_not_renew(
        #[case] holder: &str,
        #[case] age: u64,
        #[case] want: Step,
    ) {
        let start = clock::monotonic();
        let seen = observed(holder, 15, start);
        assert_eq!(decide(&seen, "me", start + Duration::from_secs(age)), want);
    }

    #[test]
    fn an_absent_lease_is_created() {
        assert_eq!(decide(&Observed::default(), "me", clock::monotonic()), Step::Create);
    }

    #[test]
    fn a_released_lease_is_free() {
        let start = clock::monotonic();
        let spec = record(None, "other", LEASE, jiff::Timestamp::UNIX_EPOCH);
        let lease = Lease { metadata: ObjectMeta::default(), spec: Some(released(spec)) };
        let seen = Observed { lease: Some(lease), since: Some(start) };
        assert_eq!(decide(&seen, "me", start), Step::Acquire);
    }

    #[test]
    fn a_takeover_counts_as_a_transition_and_a_renewal_does_not() {
        let old = observed("other", 15, clock::monotonic()).lease.and_then(|l| l.spec);
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let taken = record(old.as_ref(), "me", LEASE, at(1));
        assert_eq!(taken.lease_transitions, Some(4));
        let renewed = record(Some(&taken), "me", LEASE, at(5));
        assert_eq!(renewed.lease_transitions, Some(4));
        assert_eq!(renewed.acquire_time, Some(MicroTime(at(1))));
        assert_eq!(renewed.renew_time, Some(MicroTime(at(5))));
        assert_eq!(record(None, "me", LEASE, at(1)).lease_transitions, Some(0));
    }
}
