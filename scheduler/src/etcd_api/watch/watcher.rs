//! One watch: its filters and its position.

use std::time::{Duration, Instant};

use proto::etcd::mvccpb::event::EventType;
use proto::etcd::mvccpb::{Event, KeyValue};

use super::super::answer::{key_value, number};
use crate::store::history::{Forgotten, History};
use crate::store::range::KeyRange;
use crate::store::{Change, Entry, Revision};

/// Revisions that one answer may have.
const REVISIONS: usize = 256;
/// Interval of progress notifications. etcd 3.5.
const PROGRESS: Duration = Duration::from_mins(10);
/// Interval of the check, by which a notification may be late.
pub(super) const PROGRESS_CHECK: Duration = Duration::from_secs(30);

/// One watch of a stream.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) range: KeyRange,
    /// The next revision to read.
    pub(super) next: Revision,
    /// Whether events contain the previous pair.
    pub(super) previous: bool,
    pub(super) puts: bool,
    pub(super) deletions: bool,
    /// Time of its last answer, if it requests progress notifications.
    pub(super) notified: Option<Instant>,
}

impl Watcher {
    /// Events of the next revisions, those of one revision together. Empty when none of these
    /// revisions has one, `None` when there are no more revisions.
    pub(super) fn next_events(
        &mut self,
        history: &History,
    ) -> Result<Option<Vec<Event>>, Forgotten> {
        let revisions = history.since(self.next, REVISIONS)?;
        if revisions.is_empty() {
            return Ok(None);
        }
        self.next += revisions.len() as u64;
        let changes = revisions.iter().flat_map(|changes| changes.iter());
        let events: Vec<Event> = changes.filter_map(|change| self.event(change)).collect();
        if let Some(notified) = self.notified.as_mut().filter(|_| !events.is_empty()) {
            *notified = runtime::clock::monotonic();
        }
        Ok(Some(events))
    }

    /// Whether a progress notification is due, which then counts as sent.
    pub(super) fn notification_is_due(&mut self, now: Instant) -> bool {
        let due = self.notified.is_some_and(|at| now.saturating_duration_since(at) >= PROGRESS);
        if due {
            self.notified = Some(now);
        }
        due
    }

    fn event(&self, change: &Change) -> Option<Event> {
        if !self.range.contains(&change.key) {
            return None;
        }
        let key = change.key.clone();
        let (kind, kv) = match &change.new {
            Some(record) if self.puts => {
                (EventType::Put, key_value(Entry { key: key.clone(), record: record.clone() }))
            }
            None if self.deletions => {
                let mod_revision = number(change.revision);
                let kv = KeyValue { key: key.clone(), mod_revision, ..KeyValue::default() };
                (EventType::Delete, kv)
            }
            _ => return None,
        };
        let previous = change.old.clone().filter(|_| self.previous);
        let prev_kv = previous.map(|record| key_value(Entry { key, record }));
        Some(Event { r#type: kind.into(), kv: Some(kv), prev_kv })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Record;

    fn watcher() -> Watcher {
        Watcher {
            range: KeyRange::prefix("a".into()),
            next: 2,
            previous: false,
            puts: true,
            deletions: true,
            notified: None,
        }
    }

    fn change(key: &'static str, new: Option<&'static str>, old: Option<&'static str>) -> Change {
        let record = |value: &'static str| Record {
            create_revision: 1,
            mod_revision: 5,
            version: 2,
            lease: 0,
            value: value.into(),
        };
        Change { key: key.into(), revision: 6, new: new.map(record), old: old.map(record) }
    }

    #[test]
    fn events_are_those_of_the_range_that_pass_the_filters() {
        let all = watcher();
        assert!(all.event(&change("b", Some("1"), None)).is_none());
        let put = all.event(&change("a1", Some("1"), Some("0"))).unwrap();
        assert_eq!((put.r#type(), put.prev_kv), (EventType::Put, None));
        assert_eq!(put.kv.unwrap().value, "1");
        let gone = all.event(&change("a1", None, Some("0"))).unwrap();
        let (kind, kv) = (gone.r#type(), gone.kv.unwrap());
        assert_eq!((kind, kv.mod_revision, kv.version), (EventType::Delete, 6, 0));
        let no_puts = Watcher { puts: false, previous: true, ..watcher() };
        assert!(no_puts.event(&change("a1", Some("1"), None)).is_none());
        let gone = no_puts.event(&change("a1", None, Some("0"))).unwrap();
        assert_eq!(gone.prev_kv.unwrap().value, "0");
        let no_deletions = Watcher { deletions: false, previous: true, ..watcher() };
        assert!(no_deletions.event(&change("a1", None, Some("0"))).is_none());
        let created = no_deletions.event(&change("a1", Some("1"), None)).unwrap();
        assert_eq!(created.prev_kv, None);
    }

    #[test]
    fn reads_on_until_nothing_is_new() {
        let history = History::new(1);
        for _ in 0..=REVISIONS {
            history.push([change("b", Some("1"), None)].into());
        }
        history.push([change("a1", Some("1"), None), change("a2", Some("1"), None)].into());
        let mut watcher = watcher();
        assert_eq!(watcher.next_events(&history), Ok(Some(vec![])));
        assert_eq!(watcher.next_events(&history).unwrap().unwrap().len(), 2);
        assert_eq!(watcher.next_events(&history), Ok(None));
        history.restart(9_000);
        assert_eq!(watcher.next_events(&history), Err(Forgotten { oldest: 9_001 }));
    }

    #[test]
    fn a_notification_is_due_ten_minutes_after_the_last_answer() {
        let start = runtime::clock::monotonic();
        let mut watcher = Watcher { notified: Some(start), ..watcher() };
        assert!(!watcher.notification_is_due(start + Duration::from_secs(599)));
        assert!(watcher.notification_is_due(start + PROGRESS));
        assert!(!watcher.notification_is_due(start + PROGRESS));
    }
}
