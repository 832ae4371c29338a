//! Waiting for a condition instead of for a time.

use std::fmt::Debug;
use std::time::Duration;

/// How long a condition may take. Far more than it needs, so that a busy machine does not fail a
/// test.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Interval between two checks of a condition.
const INTERVAL: Duration = Duration::from_millis(10);

/// Waits until the condition holds, at most 30 seconds.
///
/// # Panics
/// The condition did not hold in time; the text names it.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    eventually(what, async || if condition().await { Ok(()) } else { Err("it does not hold") })
        .await;
}

/// Waits until an attempt succeeds, at most 30 seconds, and returns what it made.
///
/// # Panics
/// No attempt succeeded in time; the text names the goal and the last failure.
#[expect(clippy::panic, reason = "how a test fails")]
pub async fn eventually<T, E: Debug>(
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(last) if tokio::time::Instant::now() >= deadline => {
                panic!(
                    "timed out after {} s waiting until {what}; last: {last:?}",
                    TIMEOUT.as_secs()
                )
            }
            Err(_) => tokio::time::sleep(INTERVAL).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn returns_what_the_first_success_made() {
        let mut attempts = 0;
        let made = eventually("the third attempt", async || {
            attempts += 1;
            if attempts < 3 { Err(attempts) } else { Ok(attempts) }
        });
        assert_eq!(made.await, 3);
    }
}
