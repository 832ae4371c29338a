//! Which Events are due. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;

/// An equal Event is recorded once in this time: an owner of a hundred pods has one problem.
const INTERVAL: Duration = Duration::from_mins(10);
/// Maximum number of remembered subjects. Events about others are dropped until old ones expire.
const MAX_REMEMBERED: usize = 4096;

/// The subject of an Event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Subject {
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    reason: &'static str,
    /// A digest of the note, where it distinguishes Events.
    note: Option<u64>,
}

impl Subject {
    pub(super) fn new(object: &ObjectReference, reason: &'static str, note: Option<u64>) -> Self {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        Self {
            kind: text(&object.kind),
            namespace: text(&object.namespace),
            name: text(&object.name),
            uid: text(&object.uid),
            reason,
            note,
        }
    }
}

/// Admits one Event per subject and [`INTERVAL`].
#[derive(Debug, Default)]
pub(super) struct RateLimiter {
    admitted: HashMap<Subject, Instant>,
}

impl RateLimiter {
    /// Whether an Event may be recorded at `now`; it then counts as recorded.
    pub(super) fn admits(&mut self, subject: Subject, now: Instant) -> bool {
        let recent = |at: &Instant| now.saturating_duration_since(*at) < INTERVAL;
        if self.admitted.get(&subject).is_some_and(recent) {
            return false;
        }
        if self.admitted.len() >= MAX_REMEMBERED {
            self.admitted.retain(|_, at| recent(at));
        }
        if self.admitted.len() >= MAX_REMEMBERED {
            return false;
        }
        self.admitted.insert(subject, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use runtime::clock;

    use super::*;

    fn subject(uid: &str, reason: &'static str) -> Subject {
        let uid = Some(uid.to_owned());
        Subject::new(&ObjectReference { uid, ..ObjectReference::default() }, reason, None)
    }

    #[test]
    fn one_event_per_object_and_reason_in_ten_minutes() {
        let (mut limiter, start) = (RateLimiter::default(), clock::monotonic());
        assert!(limiter.admits(subject("u1", "Denied"), start));
        let almost = start + INTERVAL.saturating_sub(Duration::from_millis(1));
        assert!(!limiter.admits(subject("u1", "Denied"), almost));
        assert!(limiter.admits(subject("u1", "Injected"), almost));
        assert!(limiter.admits(subject("u2", "Denied"), almost));
        assert!(limiter.admits(subject("u1", "Denied"), start + INTERVAL));
    }

    #[test]
    fn a_bounded_number_of_subjects_is_remembered() {
        let (mut limiter, start) = (RateLimiter::default(), clock::monotonic());
        let admitted = (0..=MAX_REMEMBERED)
            .filter(|number| limiter.admits(subject(&number.to_string(), "Denied"), start))
            .count();
        assert_eq!(admitted, MAX_REMEMBERED);
        assert_eq!(limiter.admitted.len(), MAX_REMEMBERED);
        assert!(limiter.admits(subject("new", "Denied"), start + INTERVAL));
    }
}
