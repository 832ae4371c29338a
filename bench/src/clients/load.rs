//! Loads: concurrent callers, as fast as answers come (closed loop) or at a fixed rate whatever
//! the answers do (open loop, so that a slow server cannot hide its queue).

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use runtime::clock::monotonic;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::scenario::{Reading, Unit};

/// Largest recorded latency. Latencies are microseconds with three significant digits.
const LONGEST: Duration = Duration::from_mins(2);

/// One client. It keeps its connection and makes one request after the other.
pub trait Caller: Send + 'static {
    /// Makes one request. The error is a short text that is equal for the same reason.
    fn call(&mut self) -> impl Future<Output = Result<(), String>> + Send;

    /// Called in an open loop with the time when the next [`Caller::call`] was due.
    fn due(&mut self, _at: Instant) {}

    /// Whether it has no request left; it is not called again then.
    fn is_exhausted(&self) -> bool {
        false
    }
}

/// The result of a load.
#[derive(Debug)]
pub struct Outcome {
    latencies: Histogram<u64>,
    errors: BTreeMap<String, u64>,
    elapsed: Duration,
}

impl Outcome {
    fn new() -> Result<Self> {
        let longest = u64::try_from(LONGEST.as_micros())?;
        let latencies = Histogram::new_with_bounds(1, longest, 3).context("histogram")?;
        Ok(Self { latencies, errors: BTreeMap::new(), elapsed: Duration::ZERO })
    }

    fn record(&mut self, result: Result<(), String>, took: Duration) {
        match result {
            Ok(()) => {
                self.latencies
                    .saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            }
            Err(reason) => *self.errors.entry(reason).or_default() += 1,
        }
    }

    fn merge(&mut self, other: Self) -> Result<()> {
        self.latencies.add(other.latencies).context("histograms of one kind")?;
        for (reason, times) in other.errors {
            *self.errors.entry(reason).or_default() += times;
        }
        Ok(())
    }

    /// Number of successful requests.
    pub fn answered(&self) -> u64 {
        self.latencies.len()
    }

    /// Number of failed requests.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Number of failures by reason.
    pub fn errors(&self) -> &BTreeMap<String, u64> {
        &self.errors
    }

    /// From the first request to the last answer.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The latency in milliseconds at this quantile, 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "microseconds of minutes")]
    pub fn quantile_ms(&self, share: f64) -> f64 {
        self.latencies.value_at_quantile(share) as f64 / 1e3
    }

    /// Answers per second.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub fn per_second(&self) -> f64 {
        self.answered() as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }

    /// Rate, median, 99th percentile and errors; names begin with `what`.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub fn readings(&self, what: &str) -> Vec<Reading> {
        vec![
            Reading::new(format!("{what}: rate"), Unit::PerSecond, self.per_second()),
            Reading::new(format!("{what}: p50"), Unit::Milliseconds, self.quantile_ms(0.5)),
            Reading::new(format!("{what}: p99"), Unit::Milliseconds, self.quantile_ms(0.99)),
            Reading::new(format!("{what}: errors"), Unit::Count, self.failed() as f64),
        ]
    }
}

/// Each caller calls again as soon as it is answered, for `warm_up` unrecorded and then for
/// `measured` recorded, or until it is exhausted.
///
/// # Errors
/// When a caller's task dies.
pub async fn closed<C: Caller>(
    callers: Vec<C>,
    warm_up: Duration,
    measured: Duration,
) -> Result<Outcome> {
    let begin = monotonic() + warm_up;
    let end = begin + measured;
    let mut tasks = JoinSet::new();
    for mut caller in callers {
        tasks.spawn(async move {
            let mut outcome = Outcome::new()?;
            loop {
                let sent = monotonic();
                if sent >= end || caller.is_exhausted() {
                    return anyhow::Ok(outcome);
                }
                let result = caller.call().await;
                if sent >= begin {
                    outcome.record(result, sent.elapsed());
                }
            }
        });
    }
    gather(tasks, begin).await
}

/// Requests are due evenly at `per_second` for `measured`; the callers share them. The wait of a
/// request for a free caller counts as latency.
///
/// # Errors
/// When a caller's task dies.
pub async fn open<C: Caller>(
    callers: Vec<C>,
    per_second: f64,
    measured: Duration,
) -> Result<Outcome> {
    let begin = monotonic();
    let total = slots(per_second, measured);
    let permits = Arc::new(Semaphore::new(0));
    pace(begin, per_second, total, callers.len(), permits.clone());
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for mut caller in callers {
        let (permits, next) = (permits.clone(), next.clone());
        tasks.spawn(async move {
            let mut outcome = Outcome::new()?;
            loop {
                permits.acquire().await.context("permits of a load")?.forget();
                let slot = next.fetch_add(1, Ordering::Relaxed);
                if slot >= total {
                    return anyhow::Ok(outcome);
                }
                let due = due(begin, slot, per_second);
                caller.due(due);
                let result = caller.call().await;
                outcome.record(result, due.elapsed());
            }
        });
    }
    gather(tasks, begin).await
}

/// Adds a permit at each slot, on a thread of its own: a timer of the runtime is late by up to two
/// milliseconds, which would count as latency. At the end each caller gets one more.
fn pace(begin: Instant, per_second: f64, total: u64, callers: usize, permits: Arc<Semaphore>) {
    thread::spawn(move || {
        for slot in 0..total {
            thread::sleep(due(begin, slot, per_second).saturating_duration_since(monotonic()));
            permits.add_permits(1);
        }
        permits.add_permits(callers);
    });
}

/// Requests that are due before `measured` has passed.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "slots of minutes fit")]
fn slots(per_second: f64, measured: Duration) -> u64 {
    (per_second * measured.as_secs_f64()).ceil() as u64
}

/// Each caller makes one request, all at the same time.
///
/// # Errors
/// When a caller's task dies.
pub async fn once<C: Caller>(callers: Vec<C>) -> Result<Outcome> {
    let begin = monotonic();
    let mut tasks = JoinSet::new();
    for mut caller in callers {
        tasks.spawn(async move {
            let mut outcome = Outcome::new()?;
            let result = caller.call().await;
            outcome.record(result, begin.elapsed());
            anyhow::Ok(outcome)
        });
    }
    gather(tasks, begin).await
}

#[expect(clippy::cast_precision_loss, reason = "slots of minutes fit")]
fn due(begin: Instant, slot: u64, per_second: f64) -> Instant {
    begin + Duration::from_secs_f64(slot as f64 / per_second)
}

async fn gather(mut tasks: JoinSet<Result<Outcome>>, begin: Instant) -> Result<Outcome> {
    let mut all = Outcome::new()?;
    while let Some(finished) = tasks.join_next().await {
        all.merge(finished.context("a caller's task died")??)?;
    }
    all.elapsed = begin.elapsed();
    Ok(all)
}

/// The runtime of the loads, with a thread for each core.
///
/// # Errors
/// When the threads cannot be started.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Slow(Duration, u32);

    impl Caller for Slow {
        async fn call(&mut self) -> Result<(), String> {
            self.1 += 1;
            tokio::time::sleep(self.0).await;
            if self.1.is_multiple_of(2) { Err("every second".to_owned()) } else { Ok(()) }
        }
    }

    #[test]
    fn an_open_loop_counts_the_wait_for_a_free_caller() {
        let callers = vec![Slow(Duration::from_millis(20), 0)];
        let load = open(callers, 1000.0, Duration::from_millis(100));
        let outcome = runtime().unwrap().block_on(load).unwrap();
        // 100 requests are due in 100 ms, one caller needs 20 ms each: the last waits for 2 s.
        assert_eq!(slots(1000.0, Duration::from_millis(100)), 100);
        assert_eq!(outcome.answered() + outcome.failed(), 100);
        assert!(outcome.quantile_ms(1.0) > 1000.0, "{}", outcome.quantile_ms(1.0));
    }

    #[test]
    fn errors_are_counted_by_reason_and_are_no_answers() {
        let callers = vec![Slow(Duration::ZERO, 0), Slow(Duration::ZERO, 1)];
        let outcome = runtime().unwrap().block_on(once(callers)).unwrap();
        assert_eq!((outcome.answered(), outcome.failed()), (1, 1));
        assert_eq!(outcome.errors().get("every second"), Some(&1));
    }
}
