//! Waiting for objects that an installation creates after the workloads, and for rights.

use std::time::Duration;

use runtime::random;

/// How long an installation may take to create what a service reads first: Helm creates custom
/// resources after the workloads.
const FOUND_WITHIN: Duration = Duration::from_secs(10);
/// Interval between two reads.
const POLL: Duration = Duration::from_millis(250);
/// Pause before the first request for a denied right; doubled up to the longest.
const FIRST_RIGHT_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause: a cluster may deny the right permanently, and each request is in the audit log.
const LONGEST_RIGHT_PAUSE: Duration = Duration::from_mins(1);
/// Random part of these pauses.
const SPREAD: f64 = 0.1;

/// Repeats `read` until it finds something, for at most ten seconds, and returns the last answer.
/// Cancel safe.
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

/// Repeats a denied request until it succeeds, with pauses from one second to one minute. An API
/// server that has just started denies what it allows a second later, and rights can be granted
/// at any time. Dropping the future is safe.
pub async fn wait_until_allowed<T, E, F>(mut request: impl FnMut() -> F)
where
    F: Future<Output = Result<T, E>>,
{
    let mut pause = FIRST_RIGHT_PAUSE;
    loop {
        tokio::time::sleep(random::jittered(pause, SPREAD)).await;
        if request().await.is_ok() {
            return;
        }
        pause = (pause * 2).min(LONGEST_RIGHT_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn repeats_a_denied_request_with_growing_pauses() {
        let start = tokio::time::Instant::now();
        let mut requests = Vec::new();
        wait_until_allowed(|| {
            requests.push(start.elapsed().as_secs_f64());
            let is_allowed = requests.len() == 10;
            std::future::ready(if is_allowed { Ok(()) } else { Err("forbidden") })
        })
        .await;
        assert_eq!(requests.len(), 10);
        let pauses: Vec<f64> = requests.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(requests[0] < 1.2 && pauses.iter().all(|pause| *pause < 66.1), "{requests:?}");
        assert!(pauses[8] > 53.0 && pauses[0] > 1.7, "{requests:?}");
    }

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
