//! Pauses between the passes of work that is repeated for ever.
use std::time::Duration;

/// Pause after the first failure; doubled with each further one, up to the interval.
const FIRST_RETRY: Duration = Duration::from_secs(2);

/// The interval after a success, shorter pauses after failures: what failed because the API server was
/// busy, or did not serve a change of a definition yet, soon succeeds.
pub(crate) struct Pauses {
    interval: Duration,
    retry: Duration,
}

impl Pauses {
    pub(crate) fn new(interval: Duration) -> Self {
        Self { interval, retry: FIRST_RETRY.min(interval) }
    }

    /// The pause after a pass.
    pub(crate) fn after(&mut self, succeeded: bool) -> Duration {
        if succeeded {
            *self = Self::new(self.interval);
            return self.interval;
        }
        let pause = self.retry;
        self.retry = (pause * 2).min(self.interval);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_two_seconds_to_the_interval_until_a_success() {
        let mut pauses = Pauses::new(Duration::from_secs(30));
        let outcomes = [true, false, false, false, false, false, false, true, false];
        let got = outcomes.map(|succeeded| pauses.after(succeeded).as_secs());
        assert_eq!(got, [30, 2, 4, 8, 16, 30, 30, 30, 2]);
        assert_eq!(Pauses::new(Duration::from_secs(1)).after(false).as_secs(), 1);
    }
}
