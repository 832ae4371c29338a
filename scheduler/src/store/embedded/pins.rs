//! Old revisions that clients still read page by page.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::store::{Revision, Snapshot};

/// Revisions that are pinned at a time. Each one costs disk space.
const MAX: usize = 16;
/// How long a revision stays pinned after the last page of it.
const TIME: Duration = Duration::from_mins(1);

/// Snapshots by revision, the one used last at the end.
#[derive(Default)]
pub(super) struct Pins(VecDeque<(Revision, Arc<dyn Snapshot>, Instant)>);

impl Pins {
    /// Keeps a snapshot for the next page.
    pub(super) fn pin(&mut self, revision: Revision, snapshot: Arc<dyn Snapshot>, now: Instant) {
        self.0.retain(|(other, ..)| *other != revision);
        if self.0.len() == MAX {
            self.0.pop_front();
        }
        self.0.push_back((revision, snapshot, now));
    }

    pub(super) fn get(&self, revision: Revision) -> Option<Arc<dyn Snapshot>> {
        let found = self.0.iter().find(|(other, ..)| *other == revision)?;
        Some(found.1.clone())
    }

    /// Drops pins that expired.
    pub(super) fn expire(&mut self, now: Instant) {
        self.0.retain(|(.., used)| now.saturating_duration_since(*used) < TIME);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::query::{Query, Selected};
    use crate::store::{Entry, Scan, StoreError};

    struct Empty;

    impl Snapshot for Empty {
        fn scan(&self, _: &Scan) -> Result<Vec<Entry>, StoreError> {
            Ok(Vec::new())
        }

        fn select(&self, _: &Query) -> Result<Selected, StoreError> {
            Ok(Selected::default())
        }

        fn revision(&self) -> Revision {
            1
        }
    }

    #[test]
    fn keeps_so_many_and_drops_the_one_used_first() {
        let now = runtime::clock::monotonic();
        let mut pins = Pins::default();
        let last = MAX as u64;
        (1..=last).for_each(|revision| pins.pin(revision, Arc::new(Empty), now));
        pins.pin(1, Arc::new(Empty), now);
        assert!((1..=last).all(|revision| pins.get(revision).is_some()));
        pins.pin(last + 1, Arc::new(Empty), now);
        assert!(pins.get(2).is_none() && pins.get(1).is_some());
    }

    #[test]
    fn a_pin_lasts_a_minute() {
        let now = runtime::clock::monotonic();
        let mut pins = Pins::default();
        pins.pin(1, Arc::new(Empty), now);
        pins.expire(now + Duration::from_secs(59));
        assert!(pins.get(1).is_some());
        pins.expire(now + TIME);
        assert!(pins.get(1).is_none());
    }
}
