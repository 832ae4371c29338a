//! Reading every stored job with its counter, in one pass over both.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::engine::job::{Counter, Job};
use crate::metrics::Metrics;
use crate::store::{Entry, Scan, Snapshot, StoreError, keys};
use crate::stored;

/// Records in one page.
const PAGE: usize = 1_000;
/// Pages that are decoded ahead of the engine.
const PAGES_AHEAD: usize = 2;

/// A job of the store.
pub(super) struct Found {
    pub(super) key: Arc<str>,
    pub(super) revision: u64,
    pub(super) job: Job,
    pub(super) counter: Option<Counter>,
}

/// The channel of the pages of one read.
pub(super) fn pages() -> (mpsc::Sender<Vec<Found>>, mpsc::Receiver<Vec<Found>>) {
    mpsc::channel(PAGES_AHEAD)
}

/// Sends pages of jobs until all are read or the receiver is dropped. Blocks. Records that cannot
/// be decoded are logged and counted.
pub(super) fn read(
    snapshot: &dyn Snapshot,
    metrics: &Metrics,
    pages: &mpsc::Sender<Vec<Found>>,
) -> Result<(), StoreError> {
    let mut jobs = Reader::new(snapshot, keys::JOBS);
    let mut counters = Reader::new(snapshot, keys::COUNTERS);
    let mut counter = counters.next()?;
    let mut page = Vec::with_capacity(PAGE);
    while let Some(entry) = jobs.next()? {
        let Some(name) = keys::job_name(&entry.key) else { continue };
        let mut own = None;
        while let Some(other) = &counter {
            match keys::counter_name(&other.key) {
                Some(other_name) if other_name > name => break,
                Some(other_name) if other_name == name => {
                    own = Some(other.record.value.clone());
                }
                _ => {}
            }
            counter = counters.next()?;
        }
        let own = own.as_deref().and_then(stored::engine_counter);
        if let Some((key, job)) = decode(&name, &entry.record.value, metrics) {
            page.push(Found { key, revision: entry.record.mod_revision, job, counter: own });
        }
        if page.len() == PAGE {
            let full = std::mem::replace(&mut page, Vec::with_capacity(PAGE));
            if pages.blocking_send(full).is_err() {
                return Ok(());
            }
        }
    }
    let _ = pages.blocking_send(page);
    Ok(())
}

/// Decodes a stored job, or logs why it cannot.
pub(super) fn decode(name: &Bytes, record: &[u8], metrics: &Metrics) -> Option<(Arc<str>, Job)> {
    let text = std::str::from_utf8(name).ok();
    let job = text.map(|text| (text, stored::engine_job(record)));
    match job {
        Some((text, Ok(job))) => Some((text.into(), job)),
        failed => {
            let reason = match failed {
                Some((_, Err(corrupt))) => runtime::chain(&corrupt),
                _ => "its name is no UTF-8".to_owned(),
            };
            metrics.corrupt_record();
            tracing::error!(target: "dapr.scheduler.store",
                "Job {:?} is not armed: {reason}", String::from_utf8_lossy(name));
            None
        }
    }
}

/// Entries below a prefix, page by page.
struct Reader<'a> {
    snapshot: &'a dyn Snapshot,
    scan: Scan,
    page: std::vec::IntoIter<Entry>,
    done: bool,
}

impl<'a> Reader<'a> {
    fn new(snapshot: &'a dyn Snapshot, prefix: &'static str) -> Self {
        let scan = Scan { prefix: prefix.into(), after: None, limit: PAGE };
        Self { snapshot, scan, page: Vec::new().into_iter(), done: false }
    }

    fn next(&mut self) -> Result<Option<Entry>, StoreError> {
        loop {
            if let Some(entry) = self.page.next() {
                return Ok(Some(entry));
            }
            if self.done {
                return Ok(None);
            }
            let page = self.snapshot.scan(&self.scan)?;
            // A page may be short of damaged records: only an empty one is the end.
            self.done = page.is_empty();
            self.scan.after = page.last().map(|entry| entry.key.clone());
            self.page = page.into_iter();
        }
    }
}
