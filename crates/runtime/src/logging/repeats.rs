//! Rate limit of log lines per call site.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Lines of one call site per second. A flood of refused requests would otherwise fill the disk and
/// hide all other lines; 50 show the pattern.
const LINES: u32 = 50;
const SECOND: Duration = Duration::from_secs(1);

/// Counts lines by call site; their number is that of the program.
pub(super) struct Repeats<P>(HashMap<P, Window>);

impl<P> Default for Repeats<P> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

struct Window {
    since: Instant,
    lines: u32,
    suppressed: u64,
}

impl<P: Hash + Eq> Repeats<P> {
    /// Whether a call site may log now: the number of its lines that were suppressed since its last
    /// one, or `None`.
    pub(super) fn admit(&mut self, place: P, now: Instant) -> Option<u64> {
        let new = || Window { since: now, lines: 0, suppressed: 0 };
        let window = self.0.entry(place).or_insert_with(new);
        if now.saturating_duration_since(window.since) >= SECOND {
            (window.since, window.lines) = (now, 0);
        }
        if window.lines >= LINES {
            window.suppressed += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_site_logs_up_to_its_limit_and_reports_the_rest() {
        let [here, there] = ["here", "there"];
        let (mut repeats, start) = (Repeats::default(), crate::clock::monotonic());
        for _ in 0..LINES {
            assert_eq!(repeats.admit(here, start), Some(0));
        }
        for _ in 0..3 {
            assert_eq!(repeats.admit(here, start), None);
        }
        assert_eq!(repeats.admit(there, start), Some(0), "another place is not affected");
        let almost = start + SECOND.checked_sub(Duration::from_nanos(1)).unwrap();
        assert_eq!(repeats.admit(here, almost), None);
        assert_eq!(repeats.admit(here, start + SECOND), Some(4));
        assert_eq!(repeats.admit(here, start + SECOND), Some(0));
    }
}
