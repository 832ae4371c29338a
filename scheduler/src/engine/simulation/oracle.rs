//! The expected ticks of one version of a job, computed in the simplest way and without code of the
//! engine.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use testkit::Choice;

use crate::engine::job::{Counter, FailurePolicy};
use crate::schedule::{Begin, Timetable};

/// A job by numbers: milliseconds since the start of the history.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    /// The first tick.
    pub(super) first: i64,
    /// Between ticks; none for a single tick.
    pub(super) period: Option<i64>,
    pub(super) repeats: u32,
    pub(super) ttl: Option<i64>,
    pub(super) due_given: bool,
    /// None: the tick is dropped.
    pub(super) retry_after: Option<i64>,
    pub(super) max_retries: u32,
}

impl Recipe {
    pub(super) fn random(choice: &mut Choice, now: i64) -> Self {
        let period = match choice.below(4) {
            0 => None,
            1 => Some(1 + i64::from(small(choice, 5)) * 400),
            2 => Some(5_000),
            _ => Some(90_000),
        };
        let due_given = period.is_none() || choice.chance(50);
        let offset = [-20_000, -1, 0, 1, 900, 4_000, 29_999, 31_000, 200_000][choice.below(9)];
        let first = if due_given { now + offset } else { now + period.unwrap_or_default() };
        Self {
            first,
            period,
            repeats: if period.is_some() { 1 + small(choice, 4) } else { 1 },
            ttl: (period.is_some() && choice.chance(20))
                .then(|| first + i64::from(small(choice, 9_000))),
            due_given,
            retry_after: choice.chance(80).then(|| [0, 1, 1_000, 40_000][choice.below(4)]),
            max_retries: small(choice, 4),
        }
    }

    /// The scheduled time of the tick that follows so many.
    pub(super) fn tick(&self, finished: u32) -> Option<i64> {
        let tick = self.first + i64::from(finished) * self.period.unwrap_or_default();
        (finished < self.repeats && self.ttl.is_none_or(|ttl| tick <= ttl)).then_some(tick)
    }

    pub(super) fn timetable(&self) -> Timetable {
        let begin = match self.period {
            Some(period) if !self.due_given => Begin::Start(instant(self.first - period)),
            _ => Begin::DueTime(instant(self.first)),
        };
        let schedule = self.period.map(|period| format!("@every {period}ms"));
        let repeats = self.period.map(|_| self.repeats);
        Timetable::restore(begin, self.ttl.map(instant), schedule.as_deref(), repeats).unwrap()
    }

    pub(super) fn policy(&self) -> FailurePolicy {
        self.retry_after.map_or(FailurePolicy::Drop, |millis| FailurePolicy::Constant {
            interval: Duration::from_millis(millis.unsigned_abs()),
            max_retries: Some(self.max_retries),
        })
    }
}

/// The progress of a version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) count: u32,
    pub(super) attempts: u32,
    /// Delay of the tick by retries.
    pub(super) delay: i64,
}

impl Done {
    /// What follows an answer.
    pub(super) fn after(self, recipe: &Recipe, success: bool) -> Self {
        match recipe.retry_after {
            Some(delay) if !success && self.attempts < recipe.max_retries => {
                Self { attempts: self.attempts + 1, delay: self.delay + delay, ..self }
            }
            _ => Self { count: self.count + 1, attempts: 0, delay: 0 },
        }
    }

    /// The expected counter.
    pub(super) fn counter(self, recipe: &Recipe, partition_id: u64) -> Counter {
        let last = self.count.checked_sub(1).and_then(|count| recipe.tick(count));
        Counter {
            job_partition_id: partition_id,
            count: self.count,
            last_trigger: last.map(instant),
            attempts: self.attempts,
        }
    }
}

/// A number below the limit.
pub(super) fn small(choice: &mut Choice, limit: u32) -> u32 {
    u32::try_from(choice.below(limit as usize)).unwrap()
}

const START: i64 = 1_700_000_000_000;

pub(super) fn instant(millis: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_millis(START + millis)
}
