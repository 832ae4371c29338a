//! When the other replicas were last in contact, and what follows: which one leads, and whether
//! this one may vote. Pure: `now` is an argument.
//!
//! A follower grants no other replica its vote for [`LEASE`] after a message of its leader. The
//! leader counts [`LEADS`] from when it *sent* what a majority then acknowledged, so it has stopped
//! before another can be elected. Clocks of different machines are never compared.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A follower votes for no other replica for this long after a message of its leader.
pub(crate) const LEASE: Duration = Duration::from_millis(600);

/// The leader counts less than that: a tenth of a second is the margin for a slow timer.
const LEADS: Duration = Duration::from_millis(500);

/// A replica that starts neither votes nor counts for a vote until every promise from before its
/// restart has expired: twice the lease.
pub(crate) const SILENCE: Duration = Duration::from_millis(1_200);

/// Last contacts as one replica has recorded them.
#[derive(Debug)]
pub(crate) struct QuorumTracker {
    started: Instant,
    replicas: usize,
    /// The leader that sent the last accepted message.
    heard: Option<(u64, Instant)>,
    /// As leader: for each follower, the term and the time of sending of what it acknowledged last.
    acknowledged: BTreeMap<u64, (u64, Instant)>,
}

impl QuorumTracker {
    /// State at the start of one of `replicas`.
    pub(crate) fn new(replicas: usize, started: Instant) -> Self {
        Self { started, replicas, heard: None, acknowledged: BTreeMap::new() }
    }

    /// Number of replicas that decide, this one included.
    pub(crate) fn majority(&self) -> usize {
        self.replicas / 2 + 1
    }

    /// A message of a leader was accepted.
    pub(crate) fn record_leader(&mut self, leader: u64, now: Instant) {
        self.heard = Some((leader, now));
    }

    /// The leader has said that it stops: it counts as leader no longer, so that streams wait here
    /// for the election instead of being refused.
    pub(crate) fn forget_leader(&mut self) {
        self.heard = None;
    }

    /// A follower accepted what this replica sent as leader of `term`.
    pub(crate) fn acknowledge(&mut self, follower: u64, term: u64, sent: Instant) {
        let slot = self.acknowledged.entry(follower).or_insert((term, sent));
        *slot = (*slot).max((term, sent));
    }

    /// The follower that acknowledged last; a leader that stops makes it its successor.
    pub(crate) fn freshest(&self, term: u64) -> Option<u64> {
        let current = self.acknowledged.iter().filter(|(_, (of, _))| *of == term);
        current.max_by_key(|(_, (_, sent))| *sent).map(|(id, _)| *id)
    }

    /// Until when no other replica can lead, if this one was elected in `term`.
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

    /// The current leader as far as this replica knows.
    pub(crate) fn leader(&self, now: Instant) -> Option<u64> {
        self.heard.filter(|(_, at)| now < *at + LEASE).map(|(id, _)| id)
    }

    /// Whether this replica may vote.
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
        assert_eq!(leader.leads_until(4), None, "elected, but not confirmed yet");
        leader.acknowledge(1, 4, start);
        let stops = leader.leads_until(4).unwrap();
        // The follower receives it after it was sent, so its promise ends later.
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
    fn a_leader_that_stops_is_followed_no_longer() {
        let start = runtime::clock::monotonic();
        let mut follower = QuorumTracker::new(3, start);
        follower.record_leader(0, start);
        assert_eq!(follower.leader(start), Some(0));
        follower.forget_leader();
        assert_eq!((follower.leader(start), follower.follows_until()), (None, None));
    }

    #[test]
    fn a_replica_that_starts_keeps_promises_it_has_forgotten() {
        let start = runtime::clock::monotonic();
        let quorum = QuorumTracker::new(3, start);
        assert!(!quorum.can_vote(start + LEASE));
        assert!(quorum.can_vote(start + LEASE * 2));
    }
}
