//! What a failed list or watch calls for, when it is retried, and what is logged about it. Pure:
//! the time, the random number and the back-off are arguments.

use std::time::{Duration, Instant};

use kube::runtime::utils::Backoff;
use kube::runtime::watcher;

use crate::client::api_text;

/// Pause before the first new list after the place in the watch was lost: nothing is wrong with
/// the API server then.
const FIRST_LIST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause before a new list, before jitter.
const LONGEST_LIST_PAUSE: Duration = Duration::from_secs(2);
/// Longest pause while the kind is not served, before jitter: an installation waits for it.
const LONGEST_ABSENT_PAUSE: Duration = Duration::from_secs(10);
/// A failure after this long without one counts as the first. As long as `kube::runtime`'s default
/// back-off remembers failures.
const FORGET: Duration = Duration::from_mins(2);
/// Status codes of a load balancer in front of an API server that does not answer.
const UNAVAILABLE: [u16; 3] = [502, 503, 504];

/// The request that a right is missing for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// The list that a watch starts with.
    List,
    /// The watch; with streamed lists also the list.
    Watch,
}

/// What a failure calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The same request again. What was seen so far stays valid.
    Transient,
    /// A new list: the resource version is too old, or the API server broke the connection or did
    /// not answer, and may have been restored from a backup meanwhile.
    Expired,
    /// The API server does not serve the kind: its definition is not installed, or was removed
    /// together with all objects. It is listed again until it is served.
    NotServed,
    /// The service lacks a right. The request is repeated, because rights can be granted later; a
    /// caller with a narrower request drops the stream instead.
    Forbidden(Verb),
}

/// A failed list or watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchFailure {
    /// What it calls for.
    pub kind: FailureKind,
    /// The request and the message of the API server, or why there was no answer; one line.
    pub message: String,
}

impl WatchFailure {
    fn of(error: &watcher::Error) -> Self {
        use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
        let message = match error {
            InitialListFailed(cause) => format!("list: {}", api_text(cause)),
            WatchStartFailed(cause) | WatchFailed(cause) => format!("watch: {}", api_text(cause)),
            WatchError(status) => format!("watch: {}", status.message),
            watcher::Error::NoResourceVersion => error.to_string(),
        };
        Self { kind: FailureKind::of(error), message }
    }
}

impl FailureKind {
    fn of(error: &watcher::Error) -> Self {
        use kube::Error::Api;
        use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
        match error {
            InitialListFailed(Api(status)) => match status.code {
                403 => Self::Forbidden(Verb::List),
                404 => Self::NotServed,
                _ => Self::Transient,
            },
            WatchStartFailed(Api(status)) => match status.code {
                403 => Self::Forbidden(Verb::Watch),
                404 => Self::NotServed,
                // 422: the API server does not stream lists; the next one is in pages.
                410 | 422 => Self::Expired,
                code if UNAVAILABLE.contains(&code) => Self::Expired,
                _ => Self::Transient,
            },
            // A failed list starts from the beginning in any case, and the watch goes on after an
            // object that cannot be decoded.
            InitialListFailed(_)
            | WatchFailed(kube::Error::SerdeError(_))
            | watcher::Error::NoResourceVersion => Self::Transient,
            // No answer, or a broken connection.
            WatchStartFailed(_) | WatchFailed(_) => Self::Expired,
            WatchError(status) => match status.code {
                403 => Self::Forbidden(Verb::Watch),
                410 => Self::Expired,
                _ => Self::Transient,
            },
        }
    }
}

/// What follows a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Retry {
    pub(super) failure: WatchFailure,
    /// Time before the next request.
    pub(super) pause: Duration,
    /// Whether the next request is a list.
    pub(super) list_again: bool,
    /// Whether the failure differs from the previous one.
    is_new: bool,
}

impl Retry {
    pub(super) fn log(&self, kind: &'static str) {
        let WatchFailure { kind: failure, message } = &self.failure;
        if !self.is_new {
            tracing::debug!(kind, "watch failed again: {message}");
        } else if *failure == FailureKind::NotServed {
            tracing::warn!(kind, "kind is not installed, retrying: {message}");
        } else {
            tracing::warn!(kind, "watch failed, retrying: {message}");
        }
    }
}

/// Failures and recoveries of one watch.
pub(super) struct WatchState<B> {
    backoff: B,
    last_failure: Option<Instant>,
    health: WatchHealth,
}

impl<B: Backoff> WatchState<B> {
    pub(super) fn new(backoff: B) -> Self {
        Self { backoff, last_failure: None, health: WatchHealth::default() }
    }

    /// The watch delivered an event; returns whether that is a recovery. The start of a list is
    /// none: it precedes the first answer.
    pub(super) fn succeeded(&mut self, list_starts: bool) -> bool {
        !list_starts && self.health.recovered()
    }

    /// The list or the watch failed at `now`; `draw` is a random number in `[0, 1)`.
    pub(super) fn failed(&mut self, error: &watcher::Error, now: Instant, draw: f64) -> Retry {
        let failure = WatchFailure::of(error);
        let since = self.last_failure.replace(now).map(|last| now.saturating_duration_since(last));
        let is_first = since.is_none_or(|since| since > FORGET);
        // The default back-off has no end.
        let pause = self.backoff.next().unwrap_or(LONGEST_ABSENT_PAUSE);
        let at_most = |longest: Duration| pause.min(longest.mul_f64(1.0 + draw));
        let pause = match failure.kind {
            FailureKind::Expired if is_first => FIRST_LIST_PAUSE.mul_f64(1.0 + draw),
            FailureKind::Expired => at_most(LONGEST_LIST_PAUSE),
            FailureKind::NotServed => at_most(LONGEST_ABSENT_PAUSE),
            FailureKind::Transient | FailureKind::Forbidden(_) => pause,
        };
        let list_again = matches!(failure.kind, FailureKind::Expired | FailureKind::NotServed);
        let is_new = self.health.failed(&failure.message, now);
        Retry { failure, pause, list_again, is_new }
    }
}

/// Whether a watch works, so that a failure is logged when it starts and when it ends, and not at
/// each retry.
#[derive(Debug, Default)]
pub(super) struct WatchHealth {
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Failure {
    message: String,
    last: Instant,
    recovered: bool,
}

impl WatchHealth {
    /// Records a failure; returns whether it is a new one. Where lists succeed and watches do not,
    /// the same failure starts and ends with each retry: it is new once in [`FORGET`].
    fn failed(&mut self, message: &str, now: Instant) -> bool {
        let same = self.failure.as_mut().filter(|known| {
            known.message == message && now.saturating_duration_since(known.last) <= FORGET
        });
        if let Some(same) = same {
            same.last = now;
            return false;
        }
        self.failure = Some(Failure { message: message.to_owned(), last: now, recovered: false });
        true
    }

    /// Records an event; returns whether it is the first after a new failure.
    fn recovered(&mut self) -> bool {
        self.failure.as_mut().is_some_and(|known| !std::mem::replace(&mut known.recovered, true))
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use rstest::rstest;
    use runtime::clock;
    use watcher::Error::{
        InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed,
    };

    use super::*;

    fn status(code: u16) -> Box<Status> {
        Status::failure("x", "y").with_code(code).boxed()
    }

    fn api(code: u16) -> kube::Error {
        kube::Error::Api(status(code))
    }

    fn undecodable() -> kube::Error {
        kube::Error::SerdeError(serde_json::from_str::<u8>("x").unwrap_err())
    }

    /// Doubles from 800 ms, as `kube::runtime`'s, without jitter.
    struct Doubling(u32);

    impl Iterator for Doubling {
        type Item = Duration;

        fn next(&mut self) -> Option<Duration> {
            self.0 += 1;
            Some(Duration::from_millis(800).saturating_mul(1 << (self.0 - 1).min(10)))
        }
    }

    impl Backoff for Doubling {
        fn reset(&mut self) {
            self.0 = 0;
        }
    }

    const DENIED_LIST: FailureKind = FailureKind::Forbidden(Verb::List);
    const DENIED_WATCH: FailureKind = FailureKind::Forbidden(Verb::Watch);

    #[rstest]
    #[case::definition_missing(InitialListFailed(api(404)), FailureKind::NotServed)]
    #[case::definition_removed(WatchStartFailed(api(404)), FailureKind::NotServed)]
    #[case::too_old(WatchStartFailed(api(410)), FailureKind::Expired)]
    #[case::too_old_in_the_stream(WatchError(status(410)), FailureKind::Expired)]
    #[case::no_streamed_lists(WatchStartFailed(api(422)), FailureKind::Expired)]
    #[case::may_not_list(InitialListFailed(api(403)), DENIED_LIST)]
    #[case::may_not_watch(WatchStartFailed(api(403)), DENIED_WATCH)]
    #[case::right_withdrawn(WatchError(status(403)), DENIED_WATCH)]
    #[case::token_expired(WatchStartFailed(api(401)), FailureKind::Transient)]
    #[case::overloaded(WatchStartFailed(api(429)), FailureKind::Transient)]
    #[case::broken(WatchStartFailed(api(500)), FailureKind::Transient)]
    #[case::bad_gateway(WatchStartFailed(api(502)), FailureKind::Expired)]
    #[case::unavailable(WatchStartFailed(api(503)), FailureKind::Expired)]
    #[case::gateway_timeout(WatchStartFailed(api(504)), FailureKind::Expired)]
    #[case::no_answer(WatchStartFailed(kube::Error::TlsRequired), FailureKind::Expired)]
    #[case::cut(WatchFailed(kube::Error::TlsRequired), FailureKind::Expired)]
    #[case::undecodable(WatchFailed(undecodable()), FailureKind::Transient)]
    #[case::list_unanswered(InitialListFailed(kube::Error::TlsRequired), FailureKind::Transient)]
    #[case::list_unavailable(InitialListFailed(api(503)), FailureKind::Transient)]
    #[case::no_version(NoResourceVersion, FailureKind::Transient)]
    fn failures_are_classified(#[case] error: watcher::Error, #[case] want: FailureKind) {
        let mut state = WatchState::new(Doubling(0));
        let retry = state.failed(&error, clock::monotonic(), 0.0);
        assert_eq!(retry.failure.kind, want, "{error}");
        let lists = matches!(want, FailureKind::Expired | FailureKind::NotServed);
        assert_eq!(retry.list_again, lists, "{error}");
    }

    #[rstest]
    #[case::transient(|| WatchStartFailed(api(500)), [800, 1600, 3200, 6400, 12_800, 25_600])]
    #[case::expired(|| WatchStartFailed(api(410)), [50, 1600, 2000, 2000, 2000, 2000])]
    #[case::not_served(|| InitialListFailed(api(404)), [800, 1600, 3200, 6400, 10_000, 10_000])]
    fn pauses_follow_the_back_off_up_to_a_limit(
        #[case] error: fn() -> watcher::Error,
        #[case] want: [u128; 6],
    ) {
        let (mut state, start) = (WatchState::new(Doubling(0)), clock::monotonic());
        let pauses = (0..6).map(|second| {
            let now = start + Duration::from_secs(second);
            state.failed(&error(), now, 0.0).pause.as_millis()
        });
        assert_eq!(pauses.collect::<Vec<_>>(), want);
    }

    #[test]
    fn pauses_at_a_limit_have_jitter() {
        let (mut state, now) = (WatchState::new(Doubling(8)), clock::monotonic());
        let mut pause = |draw| state.failed(&WatchStartFailed(api(410)), now, draw).pause;
        assert_eq!(pause(0.5), FIRST_LIST_PAUSE.mul_f64(1.5));
        assert_eq!(pause(0.5), LONGEST_LIST_PAUSE.mul_f64(1.5));
        let absent = state.failed(&InitialListFailed(api(404)), now, 0.5).pause;
        assert_eq!(absent, LONGEST_ABSENT_PAUSE.mul_f64(1.5));
    }

    #[test]
    fn a_lost_place_long_after_the_last_failure_is_listed_at_once() {
        let (mut state, start) = (WatchState::new(Doubling(0)), clock::monotonic());
        let mut pause = |at| state.failed(&WatchStartFailed(api(410)), at, 0.0).pause;
        assert_eq!(pause(start), FIRST_LIST_PAUSE);
        assert_ne!(pause(start + FORGET), FIRST_LIST_PAUSE);
        let later = start + FORGET * 2 + Duration::from_millis(1);
        assert_eq!(pause(later), FIRST_LIST_PAUSE);
    }

    #[test]
    fn a_failure_is_new_when_it_changes_and_not_at_each_retry() {
        let (mut health, start) = (WatchHealth::default(), clock::monotonic());
        let at = |second| start + Duration::from_secs(second);
        assert!(!health.recovered(), "it never failed");
        assert!(health.failed("forbidden", at(0)));
        assert!(!health.failed("forbidden", at(60)));
        assert!(health.failed("gone", at(61)));
        assert!(health.recovered());
        assert!(!health.recovered(), "it still works");
        assert!(!health.failed("gone", at(62)), "lists succeed, watches do not");
        assert!(!health.recovered());
        assert!(health.failed("gone", at(200)), "after two minutes without");
        assert!(health.recovered());
    }

    #[test]
    fn the_start_of_a_list_is_no_recovery() {
        let (mut state, now) = (WatchState::new(Doubling(0)), clock::monotonic());
        assert!(state.failed(&WatchStartFailed(api(410)), now, 0.0).is_new);
        assert!(!state.succeeded(true));
        assert!(state.succeeded(false));
    }
}
