//! Lag of recurring jobs: each is due at its first instant and then every second, and a
//! scheduler delivers its ticks in order, so the number of a tick is its count.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use jiff::Timestamp;

/// Period of every job.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Largest accepted lag of a tick.
pub const TOO_LATE: Duration = Duration::from_secs(1);
/// Share of the ticks due in a window that must arrive in it: a slowly growing queue shows here
/// long before its ticks are too late.
const KEPT_UP: f64 = 0.97;

/// The log of all streams.
#[derive(Debug)]
pub struct TickLog {
    jobs: Box<[Rhythm]>,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Rhythm {
    first: Timestamp,
    ticks: AtomicU32,
}

/// The ticks of a period of time.
#[derive(Clone, Debug)]
pub struct Window {
    /// Lags in microseconds.
    pub lags: Histogram<u64>,
    /// Number of ticks that arrived before they were due.
    pub early: u64,
}

impl Window {
    fn new() -> Result<Self> {
        let lags = Histogram::new_with_bounds(1, 600_000_000, 3).context("histogram")?;
        Ok(Self { lags, early: 0 })
    }

    /// Whether a scheduler of `jobs` jobs kept up for as long as `length`.
    #[expect(clippy::cast_precision_loss, reason = "counts of minutes")]
    pub fn is_held(&self, jobs: usize, length: Duration) -> bool {
        let due = jobs as f64 * length.as_secs_f64() / PERIOD.as_secs_f64();
        let longest = Duration::from_micros(self.lags.max());
        longest <= TOO_LATE && self.lags.len() as f64 >= KEPT_UP * due
    }
}

impl TickLog {
    /// A log of jobs with these first instants.
    ///
    /// # Errors
    /// Never: the bounds of the histogram are right.
    pub fn new(first: impl IntoIterator<Item = Timestamp>) -> Result<Self> {
        let rhythm = |first| Rhythm { first, ticks: AtomicU32::new(0) };
        let jobs = first.into_iter().map(rhythm).collect();
        Ok(Self { jobs, window: Mutex::new(Window::new()?) })
    }

    /// The first instant of a job.
    pub fn first(&self, job: usize) -> Option<Timestamp> {
        self.jobs.get(job).map(|rhythm| rhythm.first)
    }

    /// These jobs were delivered, each for its next tick.
    pub fn delivered(&self, jobs: impl IntoIterator<Item = usize>, at: Timestamp) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        for rhythm in jobs.into_iter().filter_map(|job| self.jobs.get(job)) {
            let tick = rhythm.ticks.fetch_add(1, Ordering::Relaxed);
            let due = rhythm.first + PERIOD * tick;
            let lag = at.duration_since(due).as_micros();
            window.early += u64::from(lag < 0);
            window.lags.saturating_record(u64::try_from(lag).unwrap_or_default());
        }
    }

    /// The ticks since the last call.
    ///
    /// # Errors
    /// Never: the bounds of the histogram are right.
    pub fn take(&self) -> Result<Window> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::replace(&mut window, Window::new()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(milliseconds).unwrap()
    }

    #[test]
    fn the_lag_of_a_tick_is_from_its_own_due_time() {
        let log = TickLog::new([at(0), at(500)]).unwrap();
        log.delivered([0], at(3));
        log.delivered([0, 1], at(1_004));
        log.delivered([7], at(1_004)); // no job
        let window = log.take().unwrap();
        assert_eq!((window.lags.len(), window.early), (3, 0));
        assert!((503_000..=505_000).contains(&window.lags.max()), "{}", window.lags.max());
        assert!((2_990..=3_010).contains(&window.lags.min()));
        log.delivered([1], at(1_499));
        let window = log.take().unwrap();
        assert_eq!((window.lags.len(), window.early), (1, 1), "a window forgets the one before");
    }

    #[test]
    fn a_window_is_held_without_a_late_tick_and_without_a_queue() {
        let window = |ticks: i64, latest: i64| {
            let log = TickLog::new((0..ticks).map(|_| at(0))).unwrap();
            log.delivered(0..usize::try_from(ticks).unwrap() - 1, at(1));
            log.delivered([usize::try_from(ticks).unwrap() - 1], at(latest));
            log.take().unwrap()
        };
        let second = Duration::from_secs(1);
        assert!(window(100, 990).is_held(100, second));
        assert!(window(97, 1).is_held(100, second));
        assert!(!window(96, 1).is_held(100, second), "ticks are missing");
        assert!(!window(100, 1_010).is_held(100, second), "one is too late");
        assert!(!window(100, 1).is_held(100, 2 * second), "half of them are missing");
    }
}
