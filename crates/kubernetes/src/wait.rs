//! Waiting for objects that an installation creates after the workloads.

use std::time::Duration;

/// How long an installation may take to create what a service reads first: Helm creates custom
/// resources after the workloads.
const FOUND_WITHIN: Duration = Duration::from_secs(10);
/// Interval between two reads.
const POLL: Duration = Duration::from_millis(250);

/// Repeats `read` until it finds something, for at most ten seconds, and returns the last answer.
/// Dropping the future is safe.
///
/// # Errors
/// The error of the last read.
pub async fn wait_until_found<T, E, F>(mut read: impl FnMut() -> F) -> Result<Option<T>, E>
where
    F: Future<Output = Result<Option<T>, E>>,
{
    let deadline = tokio::time::Instant::now() + FOUND_WITHIN;
    loop {
        let answer = read().await;
        if matches!(answer, Ok(Some(_))) || tokio::time::Instant::now() >= deadline {
            return answer;
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_an_object_and_returns_the_last_answer_after_ten_seconds() {
        let mut reads = 0;
        let late = wait_until_found(|| {
            reads += 1;
            let answer = if reads < 3 {
                Err("connection refused")
            } else {
                Ok((reads > 3).then_some("found"))
            };
            std::future::ready(answer)
        });
        assert_eq!(late.await, Ok(Some("found")));
        let absent = wait_until_found(|| std::future::ready(Ok::<Option<()>, &str>(None)));
        assert_eq!(absent.await, Ok(None));
        let refused = wait_until_found(|| std::future::ready(Err::<Option<()>, _>("forbidden")));
        assert_eq!(refused.await, Err("forbidden"));
    }
}
