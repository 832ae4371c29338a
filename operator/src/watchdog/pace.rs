//! How fast pods may be deleted in the whole cluster.
use std::time::{Duration, Instant};

/// A bucket of one token: deletions are evenly spaced, quiet minutes are not saved up
/// (Dapr 1.18, `--max-pod-restarts-per-minute`).
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    every: Duration,
    next: Option<Instant>,
}

impl Pace {
    /// So many a minute; 0 and less means any number.
    pub fn per_minute(count: i64) -> Self {
        let count = u32::try_from(count.max(0)).unwrap_or(u32::MAX);
        let every = Duration::from_mins(1).checked_div(count).unwrap_or_default();
        Self { every, next: None }
    }

    /// How long the next deletion has to wait.
    pub fn pause(&self, now: Instant) -> Duration {
        self.next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now))
    }

    /// A pod was deleted.
    pub fn spend(&mut self, now: Instant) {
        self.next = Some(now + self.every);
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use runtime::clock;

    use super::*;

    #[rstest]
    #[case(20, 3_000)]
    #[case(60_000, 1)]
    #[case(1, 60_000)]
    #[case(0, 0)]
    #[case(-5, 0)]
    fn deletions_are_evenly_spaced(#[case] per_minute: i64, #[case] want_ms: u64) {
        let mut pace = Pace::per_minute(per_minute);
        let now = clock::monotonic();
        assert_eq!(pace.pause(now), Duration::ZERO, "the first one is free");
        pace.spend(now);
        assert_eq!(pace.pause(now), Duration::from_millis(want_ms));
        let late = now + Duration::from_mins(10);
        assert_eq!(pace.pause(late), Duration::ZERO);
        pace.spend(late);
        assert_eq!(pace.pause(late), Duration::from_millis(want_ms), "nothing was saved up");
    }
}
