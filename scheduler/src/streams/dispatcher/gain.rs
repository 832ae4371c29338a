//! Reading the jobs of new shards, while those of all others are triggered.

use std::collections::{BTreeSet, HashSet};
use std::future;
use std::sync::Arc;

use runtime::chain;
use tokio::sync::mpsc;

use super::{SCAN_RETRY, ScanError, Task};
use crate::engine::event::{Event, Found};
use crate::engine::shard::Shard;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::streams::scan;

/// Jobs that were deleted since the read began. Beyond it no change of the store is taken before
/// the read ends.
const MAX_GONE: usize = 65_536;

/// The read of the jobs of some shards.
pub(super) struct Gain {
    shards: BTreeSet<Shard>,
    pages: mpsc::Receiver<Vec<Found>>,
    /// Deleted since the read began, so that its pages may show what is gone.
    gone: HashSet<Arc<str>>,
}

impl Gain {
    /// The next page; `None` at the end. Never without a read.
    pub(super) async fn next(gain: &mut Option<Self>) -> Option<Vec<Found>> {
        match gain {
            Some(gain) => gain.pages.recv().await,
            None => future::pending().await,
        }
    }

    /// Whether changes of the store may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.gone.len() < MAX_GONE
    }

    fn wants(&self, key: &str, partition_id: u64) -> bool {
        self.shards.contains(&Shard::of(partition_id)) && !self.gone.contains(key)
    }

    pub(super) fn note_gone(&mut self, key: &Arc<str>) {
        self.gone.insert(Arc::clone(key));
    }

    /// Some shards are another member's again.
    pub(super) fn lose(&mut self, shards: &BTreeSet<Shard>) {
        self.shards.retain(|shard| !shards.contains(shard));
    }
}

impl Task {
    /// Reads the jobs of these shards, and of those whose read has not ended.
    pub(super) fn read_shards(&mut self, shards: impl Iterator<Item = Shard>) {
        let before = self.gain.take().map(|gain| gain.shards);
        let shards: BTreeSet<Shard> = before.into_iter().flatten().chain(shards).collect();
        let (sender, pages) = scan::pages();
        let wanted = Arc::new(shards.clone());
        let read = read_all(self.store.clone(), wanted, self.metrics.clone(), sender);
        let token = self.scope.token().clone();
        self.scope.spawn_detached("scheduler-shards", async move {
            token.run_until_cancelled(read).await;
        });
        self.gain = Some(Gain { shards, pages, gone: HashSet::new() });
    }

    /// Takes a page of the read; `None` is its end. Versions that the store no longer has are not
    /// delivered, and changes follow in the feed.
    pub(super) fn take_page(&mut self, page: Option<Vec<Found>>) {
        let Some(page) = page else {
            self.gain = None;
            return;
        };
        let Some(gain) = &self.gain else { return };
        let wanted = |found: &Found| gain.wants(&found.key, found.job.partition_id);
        let page = page.into_iter().filter(wanted).collect();
        self.step(Event::JobsFound(page));
    }
}

/// Sends the jobs of these shards, from the first when the store has not answered.
async fn read_all(
    store: Arc<dyn Store>,
    shards: Arc<BTreeSet<Shard>>,
    metrics: Metrics,
    pages: mpsc::Sender<Vec<Found>>,
) {
    while let Err(error) = read(&*store, shards.clone(), metrics.clone(), pages.clone()).await {
        tracing::warn!(target: "dapr.scheduler.store", "{}", chain(&error));
        tokio::time::sleep(SCAN_RETRY).await;
    }
}

async fn read(
    store: &dyn Store,
    shards: Arc<BTreeSet<Shard>>,
    metrics: Metrics,
    pages: mpsc::Sender<Vec<Found>>,
) -> Result<(), ScanError> {
    let snapshot = store.snapshot()?;
    let read = move || {
        let wanted = |id| shards.contains(&Shard::of(id));
        scan::read(&*snapshot, &wanted, &metrics, &pages)
    };
    Ok(tokio::task::spawn_blocking(read).await??)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gain(shards: &[u64]) -> Gain {
        let shards = shards.iter().map(|number| Shard::of(*number)).collect();
        Gain { shards, pages: scan::pages().1, gone: HashSet::new() }
    }

    #[test]
    fn a_page_shows_jobs_of_the_new_shards_that_are_not_gone() {
        let mut gain = gain(&[3, 4]);
        assert!(gain.wants("a", 3) && gain.wants("a", 1_024 + 4) && !gain.wants("a", 5));
        gain.note_gone(&"a".into());
        assert!(!gain.wants("a", 3) && gain.wants("b", 3));
        gain.lose(&[Shard::of(3)].into());
        assert!(!gain.wants("b", 3) && gain.wants("b", 4));
    }

    #[test]
    fn so_many_deleted_jobs_are_noted_and_no_more() {
        let mut gain = gain(&[]);
        for number in 1..=MAX_GONE {
            assert!(gain.has_room(), "{number}");
            gain.note_gone(&number.to_string().into());
        }
        assert!(!gain.has_room());
    }
}
