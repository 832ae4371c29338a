//! Cluster-wide rate limit of pod deletions.
use std::time::{Duration, Instant};

/// A token bucket of size one: deletions are evenly spaced and unused tokens are not saved
/// (Dapr 1.18, `--max-pod-restarts-per-minute`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateLimiter {
    every: Duration,
    next: Option<Instant>,
}

impl RateLimiter {
    /// 0 or less means no limit.
    pub(crate) fn per_minute(count: i64) -> Self {
        let count = u32::try_from(count.max(0)).unwrap_or(u32::MAX);
        let every = Duration::from_mins(1).checked_div(count).unwrap_or_default();
        Self { every, next: None }
    }

    /// Delay before the next deletion.
    pub(crate) fn pause(&self, now: Instant) -> Duration {
        self.next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now))
    }

    /// Takes a token after a deletion.
    pub(crate) fn acquire(&mut self, now: Instant) {
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
        let mut limiter = RateLimiter::per_minute(per_minute);
        let now = clock::monotonic();
        assert_eq!(limiter.pause(now), Duration::ZERO, "the first deletion is not delayed");
        limiter.acquire(now);
        assert_eq!(limiter.pause(now), Duration::from_millis(want_ms));
        let late = now + Duration::from_mins(10);
        assert_eq!(limiter.pause(late), Duration::ZERO);
        limiter.acquire(late);
        assert_eq!(limiter.pause(late), Duration::from_millis(want_ms), "tokens are not saved");
    }
}
