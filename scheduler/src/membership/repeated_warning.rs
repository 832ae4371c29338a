//! A failure that lasts is logged when it begins or changes, and then in long intervals.

use std::time::{Duration, Instant};

use runtime::clock;

/// Interval in which a failure that lasts is logged again. Attempts follow each other in fractions
/// of a second, and a full etcd stays full until somebody ends it.
const AGAIN: Duration = Duration::from_mins(1);

/// What failed last.
#[derive(Debug, Default)]
pub(super) struct RepeatedWarning(Option<(String, Instant)>);

impl RepeatedWarning {
    /// Logs a failure as a warning, unless it was logged lately.
    pub(super) fn warn(&mut self, failure: &str) {
        if self.is_due(failure, clock::monotonic()) {
            tracing::warn!(target: super::LOG, "{failure}");
        }
    }

    /// It no longer fails.
    pub(super) fn reset(&mut self) {
        self.0 = None;
    }

    fn is_due(&mut self, failure: &str, now: Instant) -> bool {
        let lately = |(last, at): &(String, Instant)| {
            last == failure && now.saturating_duration_since(*at) < AGAIN
        };
        if self.0.as_ref().is_some_and(lately) {
            return false;
        }
        self.0 = Some((failure.to_owned(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_logged_at_its_begin_at_a_change_and_rarely_while_it_lasts() {
        let start = clock::monotonic();
        let after = |passed: Duration| start + passed;
        let mut warning = RepeatedWarning::default();
        let almost = AGAIN.checked_sub(Duration::from_millis(1)).unwrap();
        assert!(warning.is_due("full", start));
        assert!(!warning.is_due("full", after(almost)));
        assert!(warning.is_due("full", after(AGAIN)));
        assert!(!warning.is_due("full", after(AGAIN + almost)));
        assert!(warning.is_due("away", after(AGAIN + almost)), "another one");
        assert!(warning.is_due("full", after(AGAIN + almost)));
        warning.reset();
        assert!(warning.is_due("full", after(AGAIN + almost)), "it begins again");
    }
}
