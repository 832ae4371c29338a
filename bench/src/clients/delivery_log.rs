//! The fate of jobs that are numbered from 0: acknowledged or not, delivered when and how often.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use runtime::clock::monotonic;

/// Largest recorded latency. Latencies are microseconds with three significant digits.
const LONGEST: Duration = Duration::from_mins(10);
/// Value for "not delivered yet".
const NEVER: u64 = u64::MAX;

/// The log; callers and streams write to it concurrently.
#[derive(Debug)]
pub struct DeliveryLog {
    begin: Instant,
    jobs: Box<[Entry]>,
    delivered: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    /// When it was due to be sent, in nanoseconds since the start.
    due: AtomicU64,
    acknowledged: AtomicBool,
    /// When it was first delivered, likewise.
    first: AtomicU64,
    times: AtomicU32,
}

/// Counts of acknowledged, lost and repeated jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deliveries {
    /// Jobs that were acknowledged.
    pub acknowledged: u64,
    /// Acknowledged jobs that were never delivered.
    pub lost: u64,
    /// Jobs that were delivered more than once.
    pub twice: u64,
}

impl DeliveryLog {
    /// A log of `count` jobs.
    pub fn new(count: usize) -> Self {
        let entry = || Entry {
            due: AtomicU64::new(0),
            acknowledged: AtomicBool::new(false),
            first: AtomicU64::new(NEVER),
            times: AtomicU32::new(0),
        };
        let jobs = (0..count).map(|_| entry()).collect();
        Self { begin: monotonic(), jobs, delivered: AtomicU64::new(0) }
    }

    /// Records when the job is due to be scheduled or delivered: its latency starts then.
    pub fn due(&self, job: usize, at: Instant) {
        if let Some(entry) = self.jobs.get(job) {
            entry.due.store(self.nanoseconds(at), Ordering::Relaxed);
        }
    }

    /// Records that the scheduler acknowledged the job.
    pub fn acknowledged(&self, job: usize) {
        if let Some(entry) = self.jobs.get(job) {
            entry.acknowledged.store(true, Ordering::Relaxed);
        }
    }

    /// Records a delivery. Unknown numbers are ignored.
    pub fn delivered(&self, job: usize, at: Instant) {
        let Some(entry) = self.jobs.get(job) else { return };
        if entry.times.fetch_add(1, Ordering::Relaxed) == 0 {
            entry.first.store(self.nanoseconds(at), Ordering::Relaxed);
            self.delivered.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Number of jobs that were delivered at least once.
    pub fn count(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// The counts so far.
    pub fn deliveries(&self) -> Deliveries {
        let mut found = Deliveries::default();
        for entry in &self.jobs {
            let times = entry.times.load(Ordering::Relaxed);
            let acknowledged = entry.acknowledged.load(Ordering::Relaxed);
            found.acknowledged += u64::from(acknowledged);
            found.lost += u64::from(acknowledged && times == 0);
            found.twice += u64::from(times > 1);
        }
        found
    }

    /// From due to the first delivery, in microseconds, of all jobs that were delivered.
    ///
    /// # Errors
    /// Never: the bounds of the histogram are right.
    pub fn latencies(&self) -> Result<Histogram<u64>> {
        let longest = u64::try_from(LONGEST.as_micros())?;
        let mut latencies = Histogram::new_with_bounds(1, longest, 3).context("histogram")?;
        for entry in &self.jobs {
            let first = entry.first.load(Ordering::Relaxed);
            if first != NEVER {
                let due = entry.due.load(Ordering::Relaxed);
                latencies.saturating_record(first.saturating_sub(due) / 1_000);
            }
        }
        Ok(latencies)
    }

    /// Times of the first delivery of the first and of the last delivered job.
    pub fn span(&self) -> Option<(Instant, Instant)> {
        let first = self.jobs.iter().map(|entry| entry.first.load(Ordering::Relaxed));
        let (mut earliest, mut latest) = (NEVER, None);
        for at in first.filter(|at| *at != NEVER) {
            earliest = earliest.min(at);
            latest = latest.max(Some(at));
        }
        let at = |nanoseconds| self.begin + Duration::from_nanos(nanoseconds);
        latest.map(|latest| (at(earliest), at(latest)))
    }

    fn nanoseconds(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.begin);
        u64::try_from(since.as_nanos()).unwrap_or(NEVER - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_acknowledged_jobs_can_be_lost_and_any_can_come_twice() {
        let log = DeliveryLog::new(4);
        let now = monotonic();
        for job in [0, 1] {
            log.acknowledged(job);
        }
        for job in [0, 0, 2, 4] {
            log.delivered(job, now);
        }
        assert_eq!(log.deliveries(), Deliveries { acknowledged: 2, lost: 1, twice: 1 });
        assert_eq!(log.count(), 2);
    }

    #[test]
    fn a_latency_is_from_due_to_the_first_delivery() {
        let log = DeliveryLog::new(3);
        let at = |ms| log.begin + Duration::from_millis(ms);
        for (job, due, delivered) in [(0, 10, 12), (1, 20, 120)] {
            log.due(job, at(due));
            log.delivered(job, at(delivered));
            log.delivered(job, at(delivered + 500));
        }
        let latencies = log.latencies().unwrap();
        assert_eq!(latencies.len(), 2);
        assert!((1_990..=2_010).contains(&latencies.value_at_quantile(0.5)));
        assert!((99_000..=101_000).contains(&latencies.max()));
        assert_eq!(log.span(), Some((at(12), at(120))));
    }

    #[test]
    fn without_deliveries_there_is_no_span() {
        assert_eq!(DeliveryLog::new(3).span(), None);
    }
}
