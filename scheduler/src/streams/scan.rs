//! Reading every stored job with its counter, in one pass over both.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::engine::event::Found;
use crate::engine::job::Job;
use crate::metrics::Metrics;
use crate::store::{Entry, Scan, Snapshot, StoreError, keys};
use crate::stored;

/// Records in one page.
const PAGE: usize = 1_000;
/// Pages that are decoded ahead of the engine.
const PAGES_AHEAD: usize = 2;

/// The channel of the pages of one read.
pub(super) fn pages() -> (mpsc::Sender<Vec<Found>>, mpsc::Receiver<Vec<Found>>) {
    mpsc::channel(PAGES_AHEAD)
}

/// Sends pages of the jobs whose partition id is wanted until all are read or the receiver is
/// dropped. Blocks. Others are not decoded; records that cannot be decoded are logged and counted.
pub(super) fn read(
    snapshot: &dyn Snapshot,
    wanted: &dyn Fn(u64) -> bool,
    metrics: &Metrics,
    pages: &mpsc::Sender<Vec<Found>>,
) -> Result<(), StoreError> {
    let mut jobs = Reader::new(snapshot, keys::JOBS);
    let mut counters = Reader::new(snapshot, keys::COUNTERS);
    let mut counter = counters.next()?;
    let mut page = Vec::with_capacity(PAGE);
    while let Some(entry) = jobs.next()? {
        let Some(name) = keys::job_name(&entry.key) else { continue };
        if stored::partition_id(&entry.record.value).is_some_and(|id| !wanted(id)) {
            continue;
        }
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
pub(super) fn decode(name: &Bytes, record: &Bytes, metrics: &Metrics) -> Option<(Arc<str>, Job)> {
    let text = std::str::from_utf8(name).ok();
    let job = text.map(|text| (text, stored::engine_job(record.clone())));
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

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::store::Revision;
    use crate::store::query::{Query, Selected};

    /// A store with these records.
    struct Shelf(Vec<Entry>);

    impl Snapshot for Shelf {
        fn scan(&self, scan: &Scan) -> Result<Vec<Entry>, StoreError> {
            let after = scan.after.as_ref();
            let wanted = |entry: &&Entry| {
                entry.key.starts_with(&scan.prefix) && after.is_none_or(|after| entry.key > *after)
            };
            Ok(self.0.iter().filter(wanted).take(scan.limit).cloned().collect())
        }

        fn select(&self, _: &Query) -> Result<Selected, StoreError> {
            Err(StoreError::NoSpace)
        }

        fn revision(&self) -> Revision {
            1
        }
    }

    /// A job with this partition id, after which the record may go on.
    fn job(name: &str, partition_id: u8, rest: &[u8]) -> Entry {
        let mut record = stored::job_due("1h");
        // The first field of the record is the partition id 1, in two bytes.
        record.value = [&[8, partition_id], &record.value[2..], rest].concat().into();
        Entry { key: keys::job(name.as_bytes()), record }
    }

    #[test]
    fn only_jobs_that_are_wanted_are_decoded() {
        let broken = [0x2a, 2, 0xff, 0xff]; // in the field `job`
        let shelf = Shelf(vec![
            job("a", 1, b""),
            job("b", 2, b""),
            job("c", 2, &broken),
            job("d", 3, &broken),
            job("e", 3, b""),
        ]);
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let (sender, mut found) = pages();
        read(&shelf, &|id| id != 2, &metrics, &sender).unwrap();
        let names: Vec<_> = found.try_recv().unwrap().into_iter().map(|job| job.key).collect();
        assert_eq!(names, ["a".into(), "e".into()] as [Arc<str>; 2]);
        let families = registry.gather();
        let corrupt = families.iter().find(|one| one.name() == "dapr_scheduler_corrupt_records");
        let corrupt = corrupt.unwrap().get_metric()[0].get_gauge().get_value();
        assert!((corrupt - 1.0).abs() < f64::EPSILON, "{corrupt}");
    }
}
