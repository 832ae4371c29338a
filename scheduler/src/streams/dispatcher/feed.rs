//! The changes of the store, and the reads of all its jobs, as events of the engine.

use std::sync::Arc;

use bytes::Bytes;
use runtime::chain;

use super::control::Releasing;
use super::{ScanError, Task};
use crate::engine::event::{Event, Found, Origin};
use crate::engine::shard::Shard;
use crate::membership::epoch::Epoch;
use crate::store::{Change, Revision, Source, StoreEvent, keys};
use crate::stored;
use crate::streams::scan;

impl Task {
    pub(super) async fn take_feed(&mut self, feed: StoreEvent) {
        match feed {
            // The engine knows its own writes.
            StoreEvent::Changes { source: Source::Engine, .. } => {}
            StoreEvent::Changes { source, changes } => {
                let known = changes.first().is_some_and(|first| first.revision <= self.scanned);
                if !known && self.owner.is_some() {
                    self.take_changes(source, &changes).await;
                }
            }
            StoreEvent::JobPut { key, value, revision } => {
                if let Some(name) = keys::job_name(&key)
                    && revision > self.scanned
                    && self.owner.is_some()
                {
                    self.take_job(Source::Api, &name, revision, Some(&value)).await;
                }
            }
            // Deliveries need their records, which cannot be read.
            StoreEvent::Failed => {
                self.unread = true;
                self.heed_fence();
            }
            StoreEvent::Reopened => self.scan_again().await,
            StoreEvent::Lost => {
                self.metrics.resync();
                self.scan_again().await;
            }
        }
    }

    /// Reads the store as a whole. While that fails nothing is delivered, and it is tried again.
    pub(super) async fn scan_again(&mut self) {
        self.unread = self.owner.is_some();
        self.heed_fence();
        if !self.unread {
            return;
        }
        self.writes.send_all(&self.store);
        match self.scan().await {
            Ok(()) => {
                self.unread = false;
                self.gain = None; // they are among all
            }
            Err(error) => tracing::warn!(target: "dapr.scheduler.store", "{}", chain(&error)),
        }
        self.heed_fence();
    }

    /// Takes the changes of one revision: its jobs before its counters, which are read again for
    /// jobs that are known.
    async fn take_changes(&mut self, source: Source, changes: &[Change]) {
        for change in changes {
            if let Some(name) = keys::job_name(&change.key) {
                let new = change.new.as_ref().map(|new| &new.value);
                self.take_job(source, &name, change.revision, new).await;
            }
        }
        if !matches!(source, Source::ClientPort | Source::Member) {
            return;
        }
        if changes.iter().any(|change| change.key.starts_with(keys::LEADERSHIP.as_bytes())) {
            self.leadership.notify_one();
        }
        for change in changes.iter().filter(|change| change.new.is_some()) {
            let name = keys::counter_name(&change.key);
            let name = name.as_deref().and_then(|name| std::str::from_utf8(name).ok());
            if let Some(name) = name {
                self.step(Event::CounterPut { key: name.into() });
            }
        }
    }

    /// The epoch since which a job is this member's; `None` when it is, or is about to be, another's.
    fn epoch(&self, partition_id: u64) -> Option<Epoch> {
        let leaves = |releasing: &Releasing| releasing.gives_up(Shard::of(partition_id));
        if self.releasing.as_ref().is_some_and(leaves) {
            return None;
        }
        self.owner.as_ref()?.epoch(partition_id)
    }

    /// A job is not, or no longer, this member's.
    fn job_gone(&mut self, key: Arc<str>, revision: Revision) {
        if let Some(gain) = &mut self.gain {
            gain.note_gone(&key);
        }
        self.step(Event::JobDeleted { key, revision });
    }

    async fn take_job(
        &mut self,
        source: Source,
        name: &Bytes,
        revision: Revision,
        new: Option<&Bytes>,
    ) {
        // Those of others are not decoded.
        let new = new.filter(|record| {
            stored::partition_id(record).is_none_or(|id| self.epoch(id).is_some())
        });
        let job = new.and_then(|record| scan::decode(name, record, &self.metrics));
        let owned = job.and_then(|(key, job)| {
            let epoch = self.epoch(job.partition_id)?;
            Some((key, job, epoch))
        });
        let Some((key, job, epoch)) = owned else {
            // The previous version may have been this member's.
            if let Ok(key) = std::str::from_utf8(name) {
                self.job_gone(key.into(), revision);
            }
            return;
        };
        // A job of the API has no counter yet: its partition id is new. A job of the client port
        // may have one; a store that cannot be read is scanned when it serves again.
        let (counter, origin) = match source {
            Source::ClientPort => {
                let stored = self.store.get(keys::counter(name)).await.ok().flatten();
                let counter = stored.and_then(|record| stored::engine_counter(&record.value));
                (counter, Origin::ClientPort)
            }
            Source::Member => (None, Origin::Member),
            // Another member had the shard at that time, and may have counted.
            Source::Api | Source::Engine if revision < epoch => (None, Origin::Member),
            Source::Api | Source::Engine => (None, Origin::Api),
        };
        self.step(Event::JobPut { key, revision, job, counter, origin });
    }

    /// Passes all stored jobs to the engine, which forgets others. Beats with each page.
    pub(super) async fn scan(&mut self) -> Result<(), ScanError> {
        let snapshot = self.store.snapshot()?;
        let (pages, mut found) = scan::pages();
        let (metrics, owner) = (self.metrics.clone(), self.owner.clone());
        let read = tokio::task::spawn_blocking(move || {
            let wanted = |id| owner.as_ref().is_some_and(|owner| owner.epoch(id).is_some());
            scan::read(&*snapshot, &wanted, &metrics, &pages).map(|()| snapshot.revision())
        });
        self.step(Event::ScanBegun);
        while let Some(page) = found.recv().await {
            self.beat();
            let own = |found: &Found| self.epoch(found.job.partition_id).is_some();
            let page = page.into_iter().filter(own).collect();
            self.step(Event::JobsFound(page));
        }
        self.scanned = read.await??;
        self.step(Event::ScanEnded);
        Ok(())
    }
}
