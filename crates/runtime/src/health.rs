//! Readiness as a set of guards: each part of a process holds one until it can serve.

pub(crate) mod liveness;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The guards of a process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readiness {
    targets: Arc<Mutex<BTreeMap<&'static str, bool>>>,
}

impl Readiness {
    pub(crate) fn guard(&self, name: &'static str) -> ReadyGuard {
        let guard = ReadyGuard { name, readiness: self.clone() };
        guard.set(false);
        guard
    }

    /// Whether there is at least one target and all are ready.
    pub(crate) fn all_ready(&self) -> bool {
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        !targets.is_empty() && targets.values().all(|ready| *ready)
    }

    /// The names of the targets that are not ready, for the answer of `/readyz`.
    pub(crate) fn waiting(&self) -> Vec<&'static str> {
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets.iter().filter(|(_, ready)| !**ready).map(|(name, _)| *name).collect()
    }
}

/// One part's readiness. It starts not ready and stays registered.
#[derive(Debug, Clone)]
pub struct ReadyGuard {
    name: &'static str,
    readiness: Readiness,
}

impl ReadyGuard {
    /// Marks the part as ready.
    pub fn set_ready(&self) {
        self.set(true);
    }

    /// Marks the part as not ready.
    pub fn set_not_ready(&self) {
        self.set(false);
    }

    fn set(&self, ready: bool) {
        let mut targets = self.readiness.targets.lock().unwrap_or_else(PoisonError::into_inner);
        if targets.insert(self.name, ready) != Some(ready) {
            drop(targets);
            tracing::debug!(target: "dapr.healthz", target_name = self.name, ready, "health target changed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_only_when_every_target_is() {
        let readiness = Readiness::default();
        assert!(!readiness.all_ready(), "nothing is registered");
        let (a, b) = (readiness.guard("a"), readiness.guard("b"));
        a.set_ready();
        assert!(!readiness.all_ready());
        assert_eq!(readiness.waiting(), ["b"]);
        b.set_ready();
        assert!(readiness.all_ready());
        a.set_not_ready();
        assert!(!readiness.all_ready());
    }
}
