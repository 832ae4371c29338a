//! The open requests of one connection, and its next deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::limits::Limits;
use super::slots::Occupant;
use crate::metrics::server::Limit;

/// The requests of one connection.
#[derive(Debug)]
pub(super) struct Activity {
    limits: Limits,
    occupant: Arc<Occupant>,
    state: Mutex<State>,
    /// The next deadline may have become earlier.
    pub(super) changed: Notify,
}

#[derive(Debug)]
struct State {
    accepted: Instant,
    /// When the last request ended; `None` before the first began.
    idle_since: Option<Instant>,
    next: u64,
    /// Requests that must end, by deadline.
    timed: BTreeSet<(Instant, u64)>,
    /// Open requests and their deadlines.
    open: BTreeMap<u64, Option<Instant>>,
}

/// What ends a connection at a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It is closed gracefully.
    Close(Limit),
    /// It is cut: a limit was hit, or it did not close.
    Cut(Option<Limit>),
}

/// An open request; dropping it ends it.
#[derive(Debug)]
pub(super) struct OpenRequest {
    activity: Arc<Activity>,
    number: u64,
}

impl Activity {
    pub(super) fn new(limits: Limits, occupant: Arc<Occupant>, accepted: Instant) -> Arc<Self> {
        let state = State {
            accepted,
            idle_since: None,
            next: 0,
            timed: BTreeSet::new(),
            open: BTreeMap::new(),
        };
        Arc::new(Self { limits, occupant, state: Mutex::new(state), changed: Notify::new() })
    }

    /// Counts a new request; the service stops working on it at `deadline`.
    pub(super) fn begin(self: &Arc<Self>, deadline: Option<Instant>) -> OpenRequest {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        let earlier = state.open.is_empty() || (state.timed.is_empty() && deadline.is_some());
        state.open.insert(number, deadline);
        state.timed.extend(deadline.map(|at| (at, number)));
        self.occupant.open.store(state.open.len(), Ordering::Relaxed);
        drop(state);
        if earlier {
            self.changed.notify_one();
        }
        OpenRequest { activity: self.clone(), number }
    }

    /// Open requests.
    pub(super) fn open(&self) -> usize {
        self.occupant.open.load(Ordering::Relaxed)
    }

    fn end(&self, number: u64, now: Instant) {
        let mut state = self.lock();
        if let Some(Some(deadline)) = state.open.remove(&number) {
            state.timed.remove(&(deadline, number));
        }
        state.idle_since = Some(now);
        self.occupant.open.store(state.open.len(), Ordering::Relaxed);
        let idle = state.open.is_empty();
        drop(state);
        if idle {
            self.changed.notify_one();
        }
    }

    /// The next deadline if nothing changes, and its consequence; `closing` is when a graceful
    /// close was requested.
    pub(super) fn next(&self, closing: Option<Instant>) -> Option<(Instant, Next)> {
        let state = self.lock();
        if !state.open.is_empty() {
            let (deadline, _) = state.timed.first()?;
            return Some((*deadline + Limits::GRACE, Next::Cut(Some(Limit::Request))));
        }
        let quiet_since = state.idle_since.unwrap_or(state.accepted);
        if let Some(requested) = closing {
            return Some((requested.max(quiet_since) + Limits::GRACE, Next::Cut(None)));
        }
        Some(match state.idle_since {
            None => (quiet_since + self.limits.first_request, Next::Close(Limit::FirstRequest)),
            Some(_) => (quiet_since + self.limits.idle, Next::Close(Limit::Idle)),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.activity.end(self.number, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TICK: Duration = Duration::from_millis(1);

    fn activity() -> (Arc<Activity>, Arc<Occupant>, Instant) {
        let (occupant, start) = (Arc::new(Occupant::default()), Instant::now());
        (Activity::new(Limits::default(), occupant.clone(), start), occupant, start)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_request_is_waited_for_since_the_accept() {
        let (activity, _, start) = activity();
        let due = start + Limits::default().first_request;
        assert_eq!(activity.next(None), Some((due, Next::Close(Limit::FirstRequest))));
        let cut = (start + TICK + Limits::GRACE, Next::Cut(None));
        assert_eq!(activity.next(Some(start + TICK)), Some(cut), "it may take a while to close");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_kept_since_its_last_request() {
        let (activity, occupant, start) = activity();
        let (first, second) = (activity.begin(None), activity.begin(None));
        assert_eq!(activity.next(None), None, "streams may stay open");
        assert_eq!(activity.next(Some(start)), None, "also while the connection closes");
        tokio::time::advance(TICK).await;
        drop(second);
        assert_eq!((activity.next(None), occupant.open.load(Ordering::Relaxed)), (None, 1));
        tokio::time::advance(TICK).await;
        drop(first);
        let quiet = start + 2 * TICK;
        let due = quiet + Limits::default().idle;
        assert_eq!(activity.next(None), Some((due, Next::Close(Limit::Idle))));
        assert_eq!(activity.next(Some(start)), Some((quiet + Limits::GRACE, Next::Cut(None))));
        assert_eq!(occupant.open.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_request_with_a_deadline_counts() {
        let (activity, _, start) = activity();
        let _stream = activity.begin(None);
        let first = activity.begin(Some(start + TICK));
        let _second = activity.begin(Some(start + 2 * TICK));
        let (due, cut) = (start + TICK + Limits::GRACE, Next::Cut(Some(Limit::Request)));
        assert_eq!(activity.next(None), Some((due, cut)));
        drop(first);
        assert_eq!(activity.next(Some(start)), Some((due + TICK, cut)));
    }
}
