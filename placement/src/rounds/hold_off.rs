//! The pause after a round, in which changes are gathered for the next. Pure.

use std::time::{Duration, Instant};

/// A hold-off that changes extend ends after this time at the latest, or after its window if that
/// is longer: many joins take few rounds, and none waits for long.
const MAX_HOLD_OFF: Duration = Duration::from_millis(500);

/// Longest window that is shortened when a host leaves, the default; a longer one was asked for.
const LONGEST_SHORTENED: Duration = Duration::from_millis(100);
/// Longest round after which it is: until the next table the actors of that host have none, and in a
/// small namespace a round costs little.
const SHORT_ROUND: Duration = Duration::from_millis(10);
/// What is left of the window at least: time for the host that takes the place. Otherwise it is two
/// rounds, so that a namespace which shrinks is locked for a third of the time.
const MIN_PAUSE: Duration = Duration::from_millis(10);

/// A pause in which changes are gathered for one round.
#[derive(Debug)]
pub(crate) struct HoldOff {
    window: Duration,
    /// One window after the last change.
    due: Instant,
    /// When it ends even if changes continue.
    latest: Instant,
}

impl HoldOff {
    pub(crate) fn new(window: Duration, now: Instant) -> Self {
        Self { window, due: now + window, latest: now + window.max(MAX_HOLD_OFF) }
    }

    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// A change came.
    pub(crate) fn extend(&mut self, now: Instant) {
        self.due = self.due.max(now + self.window).min(self.latest);
    }

    /// A host has left that the table still has, after a round that took so long.
    pub(crate) fn shorten(&mut self, took: Duration, now: Instant) {
        if self.window > LONGEST_SHORTENED || took > SHORT_ROUND {
            return;
        }
        let end = now + MIN_PAUSE.max(2 * took);
        self.due = self.due.min(end);
        self.latest = self.latest.min(end);
    }
}
