//! Liveness as progress: the loops of a process that must go on say so, and `/livez` fails while one
//! of them has been silent for longer than it may. A restart must be the remedy for that.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::clock;

/// The loops of a process. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Liveness {
    /// Beats are counted from here.
    start: Instant,
    beats: Arc<Mutex<Vec<Weak<Beat>>>>,
}

impl Default for Liveness {
    fn default() -> Self {
        Self { start: clock::monotonic(), beats: Arc::default() }
    }
}

impl Liveness {
    pub(crate) fn heartbeat(&self, name: &'static str, limit: Duration) -> Heartbeat {
        let beat = Beat { name, limit, start: self.start, last: AtomicU64::new(PAUSED) };
        let beat = Arc::new(beat);
        let mut beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        beats.retain(|beat| beat.strong_count() > 0);
        beats.push(Arc::downgrade(&beat));
        Heartbeat(beat)
    }

    /// The loops that were silent for longer than they may be, at `now`.
    pub(crate) fn stuck(&self, now: Instant) -> Vec<&'static str> {
        let beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        let stuck = beats.iter().filter_map(Weak::upgrade).filter(|beat| beat.is_stuck(now));
        stuck.map(|beat| beat.name).collect()
    }
}

/// Value of `Beat::last` while the loop waits for something outside of it.
const PAUSED: u64 = u64::MAX;

#[derive(Debug)]
struct Beat {
    name: &'static str,
    limit: Duration,
    start: Instant,
    /// Milliseconds from `start`, or [`PAUSED`].
    last: AtomicU64,
}

impl Beat {
    fn is_stuck(&self, now: Instant) -> bool {
        let last = self.last.load(Ordering::Relaxed);
        let silent = || now.saturating_duration_since(self.start + Duration::from_millis(last));
        last != PAUSED && silent() > self.limit
    }
}

/// One loop's say in the liveness of the process. It starts paused; dropping it takes it out.
#[derive(Debug)]
pub struct Heartbeat(Arc<Beat>);

impl Heartbeat {
    /// The loop goes on; its time limit begins again.
    pub fn beat(&self) {
        let since = clock::monotonic().saturating_duration_since(self.0.start).as_millis();
        self.0.last.store(u64::try_from(since).unwrap_or(PAUSED), Ordering::Relaxed);
    }

    /// The loop waits for work, or does something that may take any time. It is not judged until
    /// the next beat.
    pub fn pause(&self) {
        self.0.last.store(PAUSED, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_mins(1);

    #[test]
    fn a_loop_is_stuck_after_its_limit_and_not_before() {
        let liveness = Liveness::default();
        let heartbeat = liveness.heartbeat("engine", LIMIT);
        heartbeat.beat();
        let last = Duration::from_millis(heartbeat.0.last.load(Ordering::Relaxed));
        let at_the_limit = liveness.start + last + LIMIT;
        assert!(liveness.stuck(at_the_limit).is_empty());
        assert_eq!(liveness.stuck(at_the_limit + Duration::from_millis(1)), ["engine"]);
    }

    #[test]
    fn a_loop_that_waits_or_is_gone_is_not_judged() {
        let liveness = Liveness::default();
        let heartbeat = liveness.heartbeat("engine", LIMIT);
        let late = liveness.start + LIMIT * 1_000;
        assert!(liveness.stuck(late).is_empty(), "it has not begun");
        heartbeat.beat();
        assert_eq!(liveness.stuck(late), ["engine"]);
        heartbeat.pause();
        assert!(liveness.stuck(late).is_empty());
        heartbeat.beat();
        drop(heartbeat);
        assert!(liveness.stuck(late).is_empty());
    }
}
