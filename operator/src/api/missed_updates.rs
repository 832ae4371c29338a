//! Updates that sidecars missed while no operator was running.
//!
//! After a reconnect a sidecar lists Components, Subscriptions, MCPServers and policies again, but not
//! its Configuration and Resiliencies: it would miss their changes until the next one (Dapr 1.18). An
//! operator therefore sends each sidecar once the objects of these kinds that were written shortly
//! before it started. A sidecar ignores an object that equals its own copy.
use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use runtime::clock;

use crate::api::access::Caller;

/// How long a sidecar tries to reopen a stream (Dapr 1.18). No sidecar that reconnects can have missed
/// an earlier update, and none reconnects later.
const RECONNECT_WINDOW: Duration = Duration::from_mins(15);

/// Tracks which sidecars received the updates from before the start of this operator.
pub(crate) struct MissedUpdates {
    started: Instant,
    /// Objects written since this time may have been missed.
    since: Timestamp,
    /// Hashes of the sidecars that received the updates. A sidecar that restarts because of an
    /// update must not receive it again: it would restart repeatedly.
    sent: Mutex<HashSet<u64>>,
    hasher: RandomState,
}

impl Default for MissedUpdates {
    fn default() -> Self {
        Self {
            started: clock::monotonic(),
            since: clock::now().checked_sub(RECONNECT_WINDOW).unwrap_or(Timestamp::UNIX_EPOCH),
            sent: Mutex::default(),
            hasher: RandomState::new(),
        }
    }
}

impl MissedUpdates {
    /// The time since which the caller, whose stream of `kind` opens at `now`, may have missed updates.
    /// `None` when it has received them or cannot have missed any.
    pub(crate) fn since(
        &self,
        kind: &'static str,
        caller: &Caller,
        now: Instant,
    ) -> Option<Timestamp> {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(self.started) > RECONNECT_WINDOW {
            *sent = HashSet::new();
            return None;
        }
        let Caller { namespace, app_id, address, .. } = caller;
        let new = sent.insert(self.hasher.hash_one((kind, namespace, app_id, address)));
        new.then_some(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(app_id: &str, address: [u8; 4]) -> Caller {
        Caller { address: Some(address.into()), ..Caller::for_test("n", app_id) }
    }

    #[test]
    fn each_sidecar_receives_missed_updates_once_per_kind_within_the_window() {
        let updates = MissedUpdates::default();
        let (a, other_replica) = (caller("a", [10, 0, 0, 1]), caller("a", [10, 0, 0, 2]));
        let is_sent = |kind, caller, minutes: u64| {
            let now = updates.started + Duration::from_mins(minutes);
            updates.since(kind, caller, now).is_some()
        };
        assert!(is_sent("Configuration", &a, 0));
        assert!(!is_sent("Configuration", &a, 1), "the sidecar restarted");
        assert!(is_sent("Resiliency", &a, 1));
        assert!(is_sent("Configuration", &other_replica, 1));
        assert!(!is_sent("Configuration", &caller("b", [10, 0, 0, 3]), 16));
        assert!(updates.sent.lock().unwrap().is_empty(), "no state is kept after the window");
    }
}
