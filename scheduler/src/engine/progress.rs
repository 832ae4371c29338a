//! The progress of one job, and the consequence of a delivery's result.

use jiff::{SignedDuration, Timestamp};

use super::event::AckResult;
use super::job::{Counter, FailurePolicy};
use crate::schedule::Timetable;

/// The state of a job that survives a restart, and its current tick.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    timetable: Timetable,
    policy: FailurePolicy,
    /// The counter of the store once the writes in flight are stored.
    counter: Counter,
    /// Scheduled time of the current tick.
    tick: Timestamp,
    /// When the tick is delivered: its scheduled time, or the planned time of a retry.
    planned: Timestamp,
}

/// The outcome of a result for the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The counter changes and the job is delivered again.
    Continue,
    /// No tick is left.
    Finished,
}

impl Progress {
    /// Resumes from the counter of this version of the job; `None` when no tick is left.
    pub(super) fn resume(
        timetable: Timetable,
        policy: FailurePolicy,
        partition_id: u64,
        stored: Option<Counter>,
    ) -> Option<Self> {
        let counter = stored
            .filter(|counter| counter.job_partition_id == partition_id)
            .unwrap_or(Counter { job_partition_id: partition_id, ..Counter::default() });
        let tick = timetable.next(counter.count, counter.last_trigger)?;
        Some(Self { timetable, policy, counter, tick, planned: tick })
    }

    pub(super) fn counter(&self) -> Counter {
        self.counter
    }

    pub(super) fn planned(&self) -> Timestamp {
        self.planned
    }

    /// Whether a retry is planned. Its time is in memory only.
    pub(super) fn is_retry(&self) -> bool {
        self.planned != self.tick
    }

    /// Applies the result of a delivery.
    pub(super) fn settle(&mut self, result: AckResult) -> Outcome {
        if result == AckResult::Failed
            && let Some(interval) = self.retry()
        {
            self.counter.attempts = self.counter.attempts.saturating_add(1);
            // Retries follow the planned time, however long the delivery took.
            self.planned = self.planned.saturating_add(interval).unwrap_or(Timestamp::MAX);
            return Outcome::Continue;
        }
        self.counter.count = self.counter.count.saturating_add(1);
        self.counter.attempts = 0;
        self.counter.last_trigger = Some(self.tick);
        match self.timetable.next(self.counter.count, self.counter.last_trigger) {
            Some(tick) => {
                (self.tick, self.planned) = (tick, tick);
                Outcome::Continue
            }
            None => Outcome::Finished,
        }
    }

    /// The time until the retry that the failure policy grants.
    fn retry(&self) -> Option<SignedDuration> {
        let FailurePolicy::Constant { interval, max_retries } = self.policy else { return None };
        max_retries
            .is_none_or(|max| self.counter.attempts < max)
            .then(|| SignedDuration::try_from(interval).unwrap_or(SignedDuration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rstest::rstest;

    use super::*;
    use crate::schedule::{Spec, validate};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn every_ten_seconds(policy: FailurePolicy, repeats: u32, stored: Option<Counter>) -> Progress {
        let spec = Spec { schedule: Some("@every 10s"), repeats: Some(repeats), ..Spec::default() };
        Progress::resume(validate(&spec, at(0)).unwrap(), policy, 7, stored).unwrap()
    }

    fn constant(seconds: u64, max_retries: Option<u32>) -> FailurePolicy {
        FailurePolicy::Constant { interval: Duration::from_secs(seconds), max_retries }
    }

    /// The planned times of a job whose deliveries all fail.
    fn failures(policy: FailurePolicy, repeats: u32) -> Vec<i64> {
        let mut progress = every_ten_seconds(policy, repeats, None);
        let mut planned = vec![progress.planned().as_second()];
        while progress.settle(AckResult::Failed) == Outcome::Continue && planned.len() < 8 {
            planned.push(progress.planned().as_second());
        }
        planned
    }

    #[rstest]
    #[case::default_policy(FailurePolicy::default(), 2, &[10, 11, 12, 13, 20, 21, 22, 23])]
    #[case::drop(FailurePolicy::Drop, 3, &[10, 20, 30])]
    #[case::no_retries(constant(1, Some(0)), 2, &[10, 20])]
    #[case::at_once(constant(0, Some(4)), 1, &[10, 10, 10, 10, 10])]
    #[case::rhythm_is_kept(constant(15, Some(1)), 3, &[10, 25, 20, 35, 30, 45])]
    #[case::without_limit(constant(3, None), 1, &[10, 13, 16, 19, 22, 25, 28, 31])]
    fn failed_ticks_follow_the_policy(
        #[case] policy: FailurePolicy,
        #[case] repeats: u32,
        #[case] want: &[i64],
    ) {
        assert_eq!(failures(policy, repeats), want);
    }

    #[rstest]
    #[case::first(1)]
    #[case::second(2)]
    #[case::third(3)]
    fn success_after_failures_ends_the_tick(#[case] fails: u32) {
        let mut progress = every_ten_seconds(FailurePolicy::default(), 2, None);
        for attempt in 1..=fails {
            assert_eq!(progress.settle(AckResult::Failed), Outcome::Continue);
            assert_eq!(progress.counter().attempts, attempt);
        }
        assert_eq!(progress.settle(AckResult::Success), Outcome::Continue);
        let want =
            Counter { job_partition_id: 7, count: 1, last_trigger: Some(at(10)), attempts: 0 };
        assert_eq!((progress.counter(), progress.planned()), (want, at(20)));
        assert_eq!(progress.settle(AckResult::Success), Outcome::Finished);
    }

    #[test]
    fn resumes_from_the_counter_of_its_version_only() {
        let stored =
            Counter { job_partition_id: 7, count: 1, last_trigger: Some(at(10)), attempts: 2 };
        let resumed = every_ten_seconds(FailurePolicy::Drop, 3, Some(stored));
        assert_eq!((resumed.counter(), resumed.planned()), (stored, at(20)));
        let other = Counter { job_partition_id: 8, ..stored };
        let fresh = every_ten_seconds(FailurePolicy::Drop, 3, Some(other));
        assert_eq!(fresh.planned(), at(10));
        assert_eq!(fresh.counter(), Counter { job_partition_id: 7, ..Counter::default() });
    }
}
