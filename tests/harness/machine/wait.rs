//! Waiting for a condition with a deadline, never for a time.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Shortest pause between two polls of a condition.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between two polls of a condition.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A point in time that ends a wait.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    /// `limit` from now.
    #[expect(clippy::disallowed_methods, reason = "the one clock of the tests")]
    pub fn after(limit: Duration) -> Self {
        Self { start: Instant::now(), limit }
    }

    /// `seconds` from now.
    pub fn seconds(seconds: u64) -> Self {
        Self::after(Duration::from_secs(seconds))
    }

    /// Time since this deadline was made.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Remaining time; zero once it has passed.
    pub fn left(&self) -> Duration {
        self.limit.saturating_sub(self.elapsed())
    }

    /// Whether it has passed.
    pub fn passed(&self) -> bool {
        self.left().is_zero()
    }
}

/// The deadline of operations that take seconds on an idle machine, with room for a busy one.
pub fn soon() -> Deadline {
    Deadline::seconds(60)
}

/// Polls `probe` until it has an answer and returns it. `what` completes "waiting for ...".
///
/// `probe` returns `Ok(Some(answer))` when it has one, `Ok(None)` to be polled again, and an error
/// when polling again is pointless.
///
/// # Errors
/// The probe's own error at once, or a timeout that names `what`.
pub fn until<T>(
    deadline: Deadline,
    what: &str,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    loop {
        let before = deadline.elapsed();
        if let Some(answer) = probe()? {
            return Ok(answer);
        }
        let took = deadline.elapsed().saturating_sub(before);
        if deadline.passed() {
            bail!("gave up after {:.1} s waiting for {what}", deadline.elapsed().as_secs_f64());
        }
        thread::sleep(pause_after(took));
    }
}

/// The pause after a poll that took this long: as long, so that a poll that starts a program (kubectl)
/// leaves half of a core to what it waits for.
fn pause_after(took: Duration) -> Duration {
    took.clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_the_answer_as_soon_as_there_is_one() {
        let mut looks = 0;
        let answer = until(Deadline::seconds(10), "the third look", || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(answer.unwrap(), 3);
    }

    #[test]
    fn a_poll_is_followed_by_a_pause_as_long_within_limits() {
        let pause = |millis| pause_after(Duration::from_millis(millis)).as_millis();
        assert_eq!([0, 50, 300, 1_000, 5_000].map(pause), [50, 50, 300, 1_000, 1_000]);
    }

    #[test]
    fn names_what_it_waited_for() {
        let got = until::<()>(Deadline::after(Duration::ZERO), "the moon", || Ok(None));
        assert!(got.unwrap_err().to_string().ends_with("waiting for the moon"));
    }
}
