//! What sidecars may have missed while they had no operator.
//!
//! A sidecar that has lost its streams lists Components, Subscriptions, MCPServers and policies anew,
//! but not its Configuration and Resiliencies: what changed about those meanwhile it would hear of
//! at the next change only (Dapr 1.18). So an operator that has just begun tells each sidecar once
//! what was written shortly before. A sidecar that knows it already does nothing.
use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use runtime::clock;

use crate::access::Caller;

/// How long sidecars try to open a stream again before they give up (Dapr 1.18): of what was written
/// earlier nobody who comes back can be ignorant, and nobody comes back later.
const PATIENCE: Duration = Duration::from_mins(15);

/// The time before this operator.
pub struct Outage {
    begin: Instant,
    /// What was written since may have been missed.
    since: Timestamp,
    /// Who was told, as hashes. Telling twice would never end where a sidecar cannot use what it is
    /// told and starts anew each time.
    told: Mutex<HashSet<u64>>,
    hasher: RandomState,
}

impl Default for Outage {
    /// Ends now.
    fn default() -> Self {
        Self {
            begin: clock::monotonic(),
            since: clock::now().checked_sub(PATIENCE).unwrap_or(Timestamp::UNIX_EPOCH),
            told: Mutex::default(),
            hasher: RandomState::new(),
        }
    }
}

impl Outage {
    /// From when on the caller, whose stream of `kind` opens at `now`, may have missed something;
    /// `None` when it was told already, or can have missed nothing.
    pub fn missed_since(
        &self,
        kind: &'static str,
        caller: &Caller,
        now: Instant,
    ) -> Option<Timestamp> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(self.begin) > PATIENCE {
            *told = HashSet::new();
            return None;
        }
        let Caller { namespace, app_id, address } = caller;
        let new = told.insert(self.hasher.hash_one((kind, namespace, app_id, address)));
        new.then_some(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(app_id: &str, address: [u8; 4]) -> Caller {
        let namespace = "n".to_owned();
        Caller { namespace, app_id: app_id.to_owned(), address: Some(address.into()) }
    }

    #[test]
    fn each_sidecar_is_told_once_per_kind_and_only_soon_after_the_begin() {
        let outage = Outage::default();
        let (a, other_replica) = (caller("a", [10, 0, 0, 1]), caller("a", [10, 0, 0, 2]));
        let told = |kind, caller, minutes: u64| {
            let now = outage.begin + Duration::from_mins(minutes);
            outage.missed_since(kind, caller, now).is_some()
        };
        assert!(told("Configuration", &a, 0));
        assert!(!told("Configuration", &a, 1), "it started anew");
        assert!(told("Resiliency", &a, 1));
        assert!(told("Configuration", &other_replica, 1));
        assert!(!told("Configuration", &caller("b", [10, 0, 0, 3]), 16));
        assert!(outage.told.lock().unwrap().is_empty(), "nothing is kept");
    }
}
