//! Loads: many callers at once, as fast as answers come (closed loop) or at a fixed rate whatever
//! the answers do (open loop, so that a slow server cannot hide its queue).

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use runtime::clock::monotonic;
use tokio::{task::JoinSet, time::sleep_until};

use crate::scenario::{Reading, Unit};

/// Latencies are kept in microseconds with three digits, up to this.
const LONGEST: Duration = Duration::from_mins(2);

/// One client. It keeps its connection, and makes one request after the other.
pub trait Caller: Send + 'static {
    /// Makes one request. The error is a short reason, the same words for the same reason.
    fn call(&mut self) -> impl Future<Output = Result<(), String>> + Send;

    /// Whether it has nothing left to ask for; it is not called again then.
    fn is_exhausted(&self) -> bool {
        false
    }
}

/// What came of a load.
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

    /// How many requests were answered well.
    pub fn answered(&self) -> u64 {
        self.latencies.len()
    }

    /// How many were not.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Each reason with how often it occurred.
    pub fn errors(&self) -> &BTreeMap<String, u64> {
        &self.errors
    }

    /// From the first request to the last answer.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The latency that this share of the answers, 0 to 1, did not exceed.
    #[expect(clippy::cast_precision_loss, reason = "microseconds of minutes")]
    pub fn quantile_ms(&self, share: f64) -> f64 {
        self.latencies.value_at_quantile(share) as f64 / 1e3
    }

    /// Answers in a second.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub fn per_second(&self) -> f64 {
        self.answered() as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }

    /// Rate, median, 99th percentile and errors, with `what` before each.
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

/// Each caller calls again as soon as it is answered, for `warm_up` without and then for `measured`
/// with a record, or until it is exhausted.
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

/// Requests are due at `per_second`, evenly, for `measured`; the callers share them. A request that
/// has to wait for a free caller has its wait counted.
///
/// # Errors
/// When a caller's task dies.
pub async fn open<C: Caller>(
    callers: Vec<C>,
    per_second: f64,
    measured: Duration,
) -> Result<Outcome> {
    let begin = monotonic();
    let end = begin + measured;
    let slots = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for mut caller in callers {
        let slots = Arc::clone(&slots);
        tasks.spawn(async move {
            let mut outcome = Outcome::new()?;
            loop {
                let due = due(begin, slots.fetch_add(1, Ordering::Relaxed), per_second);
                if due >= end {
                    return anyhow::Ok(outcome);
                }
                sleep_until(due.into()).await;
                let result = caller.call().await;
                outcome.record(result, due.elapsed());
            }
        });
    }
    gather(tasks, begin).await
}

/// Each caller makes one request, all at the same moment.
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

/// The runtime that loads run on: as many threads as the machine has cores.
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
        // 100 requests are due in 100 ms, one caller needs 20 ms each: the last waited for ages.
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
