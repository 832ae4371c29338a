//! A watch that never gives up: back-off, kinds that appear later, watches that close at once.
//!
//! Thin layer over `kube::runtime::watcher`, which lists, watches, follows bookmarks and relists
//! after `410 Gone`. What it lacks is here; decoding per object and event types are in `cache`.
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use kube::runtime::watcher;
use kubernetes::api_text;
use runtime::{clock, random};

use crate::metrics::Metrics;

/// First pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(800);
/// First pause before a new list, when only the place in the watch was lost.
const RELIST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause before jitter.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Longest pause before a new list after which watches break again.
const LONGEST_RELIST_PAUSE: Duration = Duration::from_secs(2);
/// Longest pause while the kind is not installed.
const ABSENT_PAUSE: Duration = Duration::from_secs(10);
/// After this long without a failure the pause starts over.
const FORGIVE: Duration = Duration::from_mins(2);
/// What stands before an API server says this while there is none behind it.
const AWAY: [u16; 3] = [502, 503, 504];
/// A watch that ends sooner did not do its work; a new list does it, after a pause.
const SHORT_WATCH: Duration = Duration::from_secs(1);
/// Time from the begin of a short watch to that list.
const SHORT_WATCH_PAUSE: Duration = Duration::from_secs(2);

/// What the consumer of a watch is told.
pub(crate) enum Seen<T> {
    /// Objects.
    Event(watcher::Event<T>),
    /// The API server does not know the kind.
    NoSuchKind,
}

/// Feeds `sink` from the watches of a kind that `open` makes, for ever. Dropping the future is safe.
pub(crate) async fn follow<T, S>(
    kind: &'static str,
    metrics: &Metrics,
    open: impl Fn() -> S,
    mut sink: impl FnMut(Seen<T>),
) where
    S: Stream<Item = watcher::Result<watcher::Event<T>>>,
{
    let (mut backoff, mut trouble) = (Backoff::default(), None::<Trouble>);
    loop {
        let mut events = std::pin::pin!(open());
        while let Some(event) = events.next().await {
            let error = match event {
                Ok(event) => {
                    if matches!(event, watcher::Event::Init) {
                        metrics.listing(kind);
                    } else if trouble.as_mut().is_some_and(Trouble::ends) {
                        tracing::info!(target: "dapr.operator", kind, "watch works again");
                    }
                    sink(Seen::Event(event));
                    continue;
                }
                Err(error) => error,
            };
            let (failure, now) = (Failure::of(&error), clock::monotonic());
            let pause = backoff.next(failure, now, random::fraction());
            metrics.watch_failed(kind);
            let text = text(&error);
            if Trouble::begins(&mut trouble, &text, now) {
                let what = match failure {
                    Failure::NoSuchKind => "kind is not installed, looking again",
                    Failure::Passing | Failure::Outdated => "watch failed, trying again",
                };
                tracing::warn!(target: "dapr.operator", kind, "{what}: {text}");
            } else {
                tracing::debug!(target: "dapr.operator", kind, "watch failed once more: {text}");
            }
            if failure == Failure::NoSuchKind {
                sink(Seen::NoSuchKind);
            }
            tokio::time::sleep(pause).await;
            if failure != Failure::Passing {
                break; // only a new list helps
            }
        }
    }
}

/// What goes wrong with a watch, so that it is told when it begins and when it ends and not at each
/// try between.
struct Trouble {
    text: String,
    /// When it was met last.
    last: Instant,
    ended: bool,
}

impl Trouble {
    /// The watch failed. Whether that is news: where lists pass and watches do not, the same trouble
    /// ends and begins with each try.
    fn begins(known: &mut Option<Self>, text: &str, now: Instant) -> bool {
        let same = known.as_mut().filter(|known| {
            known.text == text && now.saturating_duration_since(known.last) <= FORGIVE
        });
        if let Some(same) = same {
            same.last = now;
            return false;
        }
        *known = Some(Self { text: text.to_owned(), last: now, ended: false });
        true
    }

    /// The watch works. Whether that is news.
    fn ends(&mut self) -> bool {
        !std::mem::replace(&mut self.ended, true)
    }
}

/// The error in one short line.
fn text(error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(cause) => format!("list: {}", api_text(cause)),
        WatchStartFailed(cause) | WatchFailed(cause) => format!("watch: {}", api_text(cause)),
        WatchError(status) => format!("watch: {}", status.message),
        watcher::Error::NoResourceVersion => error.to_string(),
    }
}

/// What a failed list or watch calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// Trying again from where it was.
    Passing,
    /// A new list: the place in the watch is lost, or the API server was away and may be back with
    /// another history, as after a restored backup. A watch from a version that its history does
    /// not have yet would stay silent for as long.
    Outdated,
    /// Waiting for the CRD.
    NoSuchKind,
}

impl Failure {
    fn of(error: &watcher::Error) -> Self {
        use kube::Error::Api;
        match error {
            watcher::Error::InitialListFailed(Api(status))
            | watcher::Error::WatchStartFailed(Api(status))
                if status.code == 404 =>
            {
                Self::NoSuchKind
            }
            // 422: the API server does not know streamed lists; a new one is in pages.
            watcher::Error::WatchStartFailed(Api(status))
                if matches!(status.code, 410 | 422) || AWAY.contains(&status.code) =>
            {
                Self::Outdated
            }
            watcher::Error::WatchError(status) if status.code == 410 => Self::Outdated,
            watcher::Error::WatchStartFailed(Api(_)) => Self::Passing,
            // Nobody answered.
            watcher::Error::WatchStartFailed(_) => Self::Outdated,
            _ => Self::Passing,
        }
    }
}

/// Pauses that double, with up to as much again of jitter.
#[derive(Default)]
struct Backoff {
    failures: u32,
    last: Option<Instant>,
}

impl Backoff {
    /// The pause before the next try; `draw` is a random number in `[0, 1)`.
    fn next(&mut self, failure: Failure, now: Instant, draw: f64) -> Duration {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) > FORGIVE) {
            self.failures = 0;
        }
        self.last = Some(now);
        let longest = match failure {
            Failure::NoSuchKind => ABSENT_PAUSE,
            Failure::Outdated => LONGEST_RELIST_PAUSE,
            Failure::Passing => LONGEST_PAUSE,
        };
        let first = match failure {
            Failure::Outdated if self.failures == 0 => RELIST_PAUSE,
            _ => FIRST_PAUSE,
        };
        let pause = first.saturating_mul(1 << self.failures.min(10)).min(longest);
        self.failures += 1;
        pause.mul_f64(1.0 + draw)
    }
}

/// The pause before what takes the place of a watch that began at `last` and has ended; zero when it
/// did its work. The watcher opens the next watch without one, and an API server in trouble would
/// see a storm of them.
pub(crate) fn pause_before_watch(last: Option<Instant>, now: Instant) -> Duration {
    match last.map(|last| now.saturating_duration_since(last)) {
        Some(age) if age < SHORT_WATCH => SHORT_WATCH_PAUSE.saturating_sub(age),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use rstest::rstest;

    use super::*;

    fn api(code: u16) -> kube::Error {
        kube::Error::Api(Status::failure("x", "y").with_code(code).boxed())
    }

    #[rstest]
    #[case::crd_missing(watcher::Error::InitialListFailed(api(404)), Failure::NoSuchKind)]
    #[case::crd_removed(watcher::Error::WatchStartFailed(api(404)), Failure::NoSuchKind)]
    #[case::too_old(watcher::Error::WatchStartFailed(api(410)), Failure::Outdated)]
    #[case::no_streamed_lists(watcher::Error::WatchStartFailed(api(422)), Failure::Outdated)]
    #[case::forbidden(watcher::Error::InitialListFailed(api(403)), Failure::Passing)]
    #[case::unwilling(watcher::Error::WatchStartFailed(api(429)), Failure::Passing)]
    #[case::away(watcher::Error::WatchStartFailed(api(503)), Failure::Outdated)]
    #[case::nobody(watcher::Error::WatchStartFailed(kube::Error::TlsRequired), Failure::Outdated)]
    #[case::no_version(watcher::Error::NoResourceVersion, Failure::Passing)]
    fn failures_are_told_apart(#[case] error: watcher::Error, #[case] want: Failure) {
        assert_eq!(Failure::of(&error), want);
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_start_over() {
        let mut backoff = Backoff::default();
        let start = clock::monotonic();
        let mut next = |seconds: u64, failure| {
            backoff.next(failure, start + Duration::from_secs(seconds), 0.0).as_millis()
        };
        let first: Vec<_> = (0..8).map(|second| next(second, Failure::Passing)).collect();
        assert_eq!(first, [800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        assert_eq!(next(9, Failure::NoSuchKind), 10_000);
        assert_eq!(next(200, Failure::Passing), 800);
    }

    #[test]
    fn jitter_at_most_doubles_the_pause() {
        let now = clock::monotonic();
        let pause = Backoff::default().next(Failure::Passing, now, 0.999);
        assert!((FIRST_PAUSE..FIRST_PAUSE * 2).contains(&pause), "{pause:?}");
    }

    #[test]
    fn trouble_is_told_when_it_changes_and_not_at_each_try() {
        let (mut known, start) = (None, clock::monotonic());
        let at = |second| start + Duration::from_secs(second);
        assert!(Trouble::begins(&mut known, "forbidden", at(0)));
        assert!(!Trouble::begins(&mut known, "forbidden", at(60)));
        assert!(Trouble::begins(&mut known, "gone", at(61)));
        let ends = |known: &mut Option<Trouble>| known.as_mut().unwrap().ends();
        assert!(ends(&mut known));
        assert!(!ends(&mut known), "it works on");
        assert!(!Trouble::begins(&mut known, "gone", at(62)), "lists pass, watches do not");
        assert!(!ends(&mut known));
        assert!(Trouble::begins(&mut known, "gone", at(200)), "after a time without");
        assert!(ends(&mut known));
    }

    #[rstest]
    #[case::first(None, 0)]
    #[case::after_a_long_watch(Some(60_000), 0)]
    #[case::after_a_short_watch(Some(200), 1800)]
    fn short_watches_make_the_next_one_wait(#[case] age: Option<u64>, #[case] want: u64) {
        let start = clock::monotonic();
        let now = start + Duration::from_millis(age.unwrap_or_default());
        let pause = pause_before_watch(age.map(|_| start), now);
        assert_eq!(pause, Duration::from_millis(want));
    }
}
