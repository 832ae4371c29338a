//! Pauses of recurring jobs of several schedulers, and which of these had each job.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::tick_log::PERIOD;

/// The log of all streams.
#[derive(Debug)]
pub struct GapLog {
    jobs: Box<[Mutex<Rhythm>]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rhythm {
    last: Option<Delivery>,
    /// The longest time between two deliveries since the last [`GapLog::begin`].
    longest: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Delivery {
    at: Instant,
    scheduler: usize,
}

/// The jobs that were delivered last by one scheduler, and those of all others.
#[derive(Clone, Debug)]
pub struct Parts {
    /// By job: whether it was this scheduler's.
    own: Vec<bool>,
}

/// How much longer than their period the jobs of a part paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// The longest pause of all jobs.
    pub longest: Duration,
    /// Jobs of the part.
    pub jobs: usize,
}

impl GapLog {
    /// A log of so many jobs, each due every second.
    pub fn new(count: usize) -> Self {
        Self { jobs: (0..count).map(|_| Mutex::default()).collect() }
    }

    /// These jobs were delivered by a scheduler. Unknown numbers are ignored.
    pub fn delivered(&self, jobs: impl IntoIterator<Item = usize>, scheduler: usize, at: Instant) {
        for rhythm in jobs.into_iter().filter_map(|job| self.jobs.get(job)) {
            let mut rhythm = lock(rhythm);
            if let Some(last) = rhythm.last {
                let gap = at.saturating_duration_since(last.at);
                rhythm.longest = rhythm.longest.max(gap);
            }
            rhythm.last = Some(Delivery { at, scheduler });
        }
    }

    /// Forgets earlier pauses; the parts of the jobs, one of them of this scheduler.
    pub fn begin(&self, scheduler: usize) -> Parts {
        let own = |rhythm| {
            let mut rhythm = lock(rhythm);
            rhythm.longest = Duration::ZERO;
            rhythm.last.is_some_and(|last| last.scheduler == scheduler)
        };
        Parts { own: self.jobs.iter().map(own).collect() }
    }

    /// Whether every job was delivered at that time or later.
    pub fn all_since(&self, at: Instant) -> bool {
        self.jobs.iter().all(|rhythm| lock(rhythm).last.is_some_and(|last| last.at >= at))
    }

    /// Number of jobs that this scheduler delivered last.
    pub fn jobs_of(&self, scheduler: usize) -> usize {
        let is = |rhythm: &&Mutex<Rhythm>| {
            lock(rhythm).last.is_some_and(|last| last.scheduler == scheduler)
        };
        self.jobs.iter().filter(is).count()
    }

    /// The pauses since [`Self::begin`] of the scheduler's own jobs, and of all others.
    pub fn pauses(&self, parts: &Parts) -> [Pause; 2] {
        [true, false].map(|own| {
            let of_part = self.jobs.iter().zip(&parts.own).filter(|(_, is_own)| **is_own == own);
            let pauses = of_part.map(|(rhythm, _)| lock(rhythm).longest.saturating_sub(PERIOD));
            let pauses: Vec<_> = pauses.collect();
            Pause { longest: pauses.iter().copied().max().unwrap_or_default(), jobs: pauses.len() }
        })
    }
}

fn lock(rhythm: &Mutex<Rhythm>) -> std::sync::MutexGuard<'_, Rhythm> {
    rhythm.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use runtime::clock::monotonic;

    use super::*;

    #[test]
    fn pauses_are_those_beyond_the_period_of_each_part() {
        let (log, start) = (GapLog::new(3), monotonic());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        log.delivered([0, 1], 0, at(0));
        log.delivered([2], 1, at(0));
        log.delivered([0], 0, at(9_000)); // before the measurement
        log.delivered([0, 1], 0, at(10_000));
        log.delivered([2, 7], 1, at(10_000));
        let parts = log.begin(0);
        log.delivered([2], 1, at(11_200));
        log.delivered([0], 1, at(11_000));
        log.delivered([0, 1], 1, at(15_500));
        assert!(log.all_since(at(11_200)) && !log.all_since(at(11_201)));
        let ms = Duration::from_millis;
        let want = [Pause { longest: ms(4_500), jobs: 2 }, Pause { longest: ms(200), jobs: 1 }];
        assert_eq!(log.pauses(&parts), want);
        assert_eq!((log.jobs_of(0), log.jobs_of(1)), (0, 3));
    }

    #[test]
    fn jobs_in_their_rhythm_do_not_pause() {
        let (log, start) = (GapLog::new(1), monotonic());
        let parts = log.begin(0);
        for second in 0..3 {
            log.delivered([0], 0, start + PERIOD * second);
        }
        let none = Pause { longest: Duration::ZERO, jobs: 0 };
        assert_eq!(log.pauses(&parts), [none, Pause { jobs: 1, ..none }]);
    }
}
