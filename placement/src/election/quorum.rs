//! When the other replicas were last heard, and what follows: who leads, and who may vote. Pure: `now`
//! is an argument.
//!
//! A follower that heard from its leader votes for nobody else during [`LEASE`]. The leader counts
//! [`LEADS`] from when it *sent* what a majority then acknowledged, so that it has stopped before
//! anybody else can win. Clocks of different machines are never compared.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A follower votes for nobody else for this long after it heard from its leader.
pub(crate) const LEASE: Duration = Duration::from_millis(600);

/// The leader counts less than that: a tenth of a second is room for a slow timer.
const LEADS: Duration = Duration::from_millis(500);

/// A replica that starts neither votes nor counts for a vote until whatever it promised before, in
/// a former life, is over: twice the lease.
pub(crate) const SILENCE: Duration = Duration::from_millis(1_200);

/// What one replica knows.
#[derive(Debug)]
pub(crate) struct QuorumTracker {
    started: Instant,
    replicas: usize,
    /// The leader that was heard last.
    heard: Option<(u64, Instant)>,
    /// As leader: for each follower, the term and the time of sending of what it acknowledged last.
    acknowledged: BTreeMap<u64, (u64, Instant)>,
}

impl QuorumTracker {
    /// Of one of `replicas`, at its start.
    pub(crate) fn new(replicas: usize, started: Instant) -> Self {
        Self { started, replicas, heard: None, acknowledged: BTreeMap::new() }
    }

    /// How many replicas, this one included, decide.
    pub(crate) fn majority(&self) -> usize {
        self.replicas / 2 + 1
    }

    /// A leader spoke and was accepted.
    pub(crate) fn record_leader(&mut self, leader: u64, now: Instant) {
        self.heard = Some((leader, now));
    }

    /// A follower accepted what this replica sent as leader of `term`.
    pub(crate) fn acknowledge(&mut self, follower: u64, term: u64, sent: Instant) {
        let slot = self.acknowledged.entry(follower).or_insert((term, sent));
        *slot = (*slot).max((term, sent));
    }

    /// The follower that acknowledged last, of which a leader that stops makes its successor.
    pub(crate) fn freshest(&self, term: u64) -> Option<u64> {
        let current = self.acknowledged.iter().filter(|(_, (of, _))| *of == term);
        current.max_by_key(|(_, (_, sent))| *sent).map(|(id, _)| *id)
    }

    /// Until when nobody else can lead, if this replica was elected in `term`.
    pub(crate) fn leads_until(&self, term: u64) -> Option<Instant> {
        let mut sent: Vec<Instant> =
            self.acknowledged.values().filter(|(of, _)| *of == term).map(|(_, at)| *at).collect();
        sent.sort_unstable_by(|a, b| b.cmp(a));
        // One vote of the majority is its own.
        let others = self.majority() - 1;
        Some(*sent.get(others.checked_sub(1)?)? + LEADS)
    }

    /// Until when another replica counts as leader.
    pub(crate) fn follows_until(&self) -> Option<Instant> {
        self.heard.map(|(_, at)| at + LEASE)
    }

    /// The leader that is known.
    pub(crate) fn leader(&self, now: Instant) -> Option<u64> {
        self.heard.filter(|(_, at)| now < *at + LEASE).map(|(id, _)| id)
    }

    /// True once it may vote.
    pub(crate) fn can_vote(&self, now: Instant) -> bool {
        now >= self.started + SILENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: Duration = Duration::from_millis(120);

    #[test]
    fn a_leader_stops_before_its_followers_may_vote() {
        let start = runtime::clock::monotonic();
        let mut leader = QuorumTracker::new(3, start);
        assert_eq!(leader.leads_until(4), None, "elected, but nobody confirmed it yet");
        leader.acknowledge(1, 4, start);
        let stops = leader.leads_until(4).unwrap();
        // The follower hears it after it was sent, so its promise ends later.
        let mut follower = QuorumTracker::new(3, start);
        follower.record_leader(0, start);
        assert!(stops < follower.follows_until().unwrap());
        assert_eq!(leader.leads_until(5), None, "another term, another confirmation");
    }

    #[test]
    fn the_slowest_of_the_majority_counts() {
        let start = runtime::clock::monotonic();
        let mut leader = QuorumTracker::new(5, start);
        for (follower, after) in [(1, 3), (2, 1), (3, 2)] {
            leader.acknowledge(follower, 1, start + HEARTBEAT * after);
        }
        assert_eq!(leader.leads_until(1), Some(start + HEARTBEAT * 2 + LEADS));
        leader.acknowledge(1, 1, start); // late: an older one that was overtaken
        assert_eq!(leader.freshest(1), Some(1));
        assert_eq!(leader.leads_until(1), Some(start + HEARTBEAT * 2 + LEADS));
    }

    #[test]
    fn a_replica_that_starts_keeps_promises_it_has_forgotten() {
        let start = runtime::clock::monotonic();
        let quorum = QuorumTracker::new(3, start);
        assert!(!quorum.can_vote(start + LEASE));
        assert!(quorum.can_vote(start + LEASE * 2));
    }
}
