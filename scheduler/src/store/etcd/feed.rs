//! The watch of all jobs and counters. A lost watch is reopened at the revision after its last one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::etcd::etcdserverpb::watch_request::RequestUnion;
use proto::etcd::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use proto::etcd::mvccpb::Event;
use proto::etcd::mvccpb::event::EventType;
use tokio::sync::mpsc;
use tonic::Streaming;

use super::client::Client;
use super::echo::Echo;
use super::recent::Recent;
use super::requests::{self, number};
use crate::store::{Change, Revision, Source, StoreError, StoreEvent, keys};

/// The pause before a watch is reopened.
const RETRY: Duration = Duration::from_millis(200);

/// A watch of one range that survives lost connections.
pub(super) struct Watch {
    client: Arc<Client>,
    key: Bytes,
    range_end: Bytes,
    /// The revision of the next change; 0 before the first connection.
    next: Revision,
    open: Option<Open>,
    /// Pause before it is opened.
    waits: bool,
}

struct Open {
    answers: Streaming<WatchResponse>,
    /// The watch ends with it.
    _requests: mpsc::Sender<WatchRequest>,
}

/// An event of a watch.
pub(super) enum WatchEvent {
    /// It is open, and has every change from now on.
    Open,
    /// It ended, and is opened again after its last change.
    Closed,
    /// Changes in the order of their revisions.
    Events(Vec<Event>),
    /// Changes are missing: etcd has compacted them, or has been restored from a backup.
    Lost,
}

impl Watch {
    /// Everything from `key` up to `range_end`, from now on.
    pub(super) fn new(client: Arc<Client>, key: Bytes, range_end: Bytes) -> Self {
        Self { client, key, range_end, next: 0, open: None, waits: false }
    }

    /// The next change. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> WatchEvent {
        loop {
            let Some(open) = self.open.as_mut() else {
                if self.waits {
                    tokio::time::sleep(RETRY).await;
                }
                self.waits = false;
                if let Err(error) = self.connect().await {
                    tracing::debug!(target: "dapr.scheduler.store", "watch etcd: {error}");
                    self.waits = true;
                }
                continue;
            };
            if let Ok(Some(answer)) = open.answers.message().await {
                if let Some(seen) = self.take(answer) {
                    return seen;
                }
            } else {
                (self.open, self.waits) = (None, true);
                return WatchEvent::Closed;
            }
        }
    }

    /// The revision up to which every change has been shown.
    fn seen(&self) -> Revision {
        self.next.saturating_sub(1)
    }

    async fn connect(&mut self) -> Result<(), StoreError> {
        let create = WatchCreateRequest {
            key: self.key.clone(),
            range_end: self.range_end.clone(),
            start_revision: number(self.next),
            ..WatchCreateRequest::default()
        };
        let (requests, sent) = mpsc::channel(1);
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // The channel is empty and open.
        let _ = requests.try_send(create);
        let answers = self.client.watch(sent).await?;
        self.open = Some(Open { answers, _requests: requests });
        Ok(())
    }

    fn take(&mut self, answer: WatchResponse) -> Option<WatchEvent> {
        let revision = requests::revision_of(answer.header.as_ref());
        if answer.canceled {
            self.open = None;
            if answer.compact_revision > 0 {
                self.next = 0;
                return Some(WatchEvent::Lost);
            }
            return Some(WatchEvent::Closed);
        }
        if answer.created {
            let restored = self.next > revision + 1;
            if self.next == 0 || restored {
                self.next = revision + 1;
            }
            if restored {
                self.open = None; // it waits for a revision that is far ahead
                return Some(WatchEvent::Lost);
            }
            return Some(WatchEvent::Open);
        }
        let last = answer.events.iter().filter_map(|event| event.kv.as_ref());
        let last = last.map(|pair| pair.mod_revision.cast_unsigned()).max()?;
        self.next = self.next.max(last + 1);
        Some(WatchEvent::Events(answer.events))
    }
}

/// Passes on every change of jobs and counters until the engine ends.
pub(super) async fn run(
    client: Arc<Client>,
    echo: Arc<Echo>,
    recent: Arc<Recent>,
    feed: mpsc::Sender<StoreEvent>,
) {
    // Counters and jobs are neighbours.
    let end = crate::store::range::KeyRange::prefix(keys::JOBS.into());
    let (_, end) = requests::bounds(end);
    let mut watch = Watch::new(client, keys::COUNTERS.into(), end);
    let mut opened = false;
    loop {
        let event = watch.next().await;
        match &event {
            WatchEvent::Open => recent.resume(watch.seen()),
            WatchEvent::Closed => recent.pause(),
            WatchEvent::Lost => recent.clear(),
            WatchEvent::Events(events) => {
                for pair in events.iter().filter_map(|event| event.kv.as_ref()) {
                    recent.changed(&pair.key, pair.mod_revision.cast_unsigned());
                }
            }
        }
        let sent = match event {
            // A reader of the store before the watch began may have missed a change.
            WatchEvent::Open if !std::mem::replace(&mut opened, true) => {
                feed.send(StoreEvent::Reopened).await
            }
            WatchEvent::Open | WatchEvent::Closed => Ok(()),
            WatchEvent::Lost => {
                echo.clear();
                tracing::warn!(target: "dapr.scheduler.store",
                    "Changes of etcd were missed; all jobs are read again");
                feed.send(StoreEvent::Lost).await
            }
            WatchEvent::Events(events) => send(&echo, &feed, events).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// One event of the feed for the changes of each revision and source.
async fn send(
    echo: &Echo,
    feed: &mpsc::Sender<StoreEvent>,
    events: Vec<Event>,
) -> Result<(), mpsc::error::SendError<StoreEvent>> {
    for (source, changes) in grouped(echo, events) {
        feed.send(StoreEvent::Changes { source, changes: changes.into() }).await?;
    }
    Ok(())
}

fn grouped(echo: &Echo, events: Vec<Event>) -> Vec<(Source, Vec<Change>)> {
    let mut groups: Vec<(Source, Vec<Change>)> = Vec::new();
    for event in events {
        let kind = event.r#type();
        let Some(pair) = event.kv else { continue };
        let entry = super::entry(pair);
        let revision = entry.record.mod_revision;
        let (source, new) = match kind {
            EventType::Put => (echo.source(&entry.key, &entry.record.value), Some(entry.record)),
            EventType::Delete => (Source::Member, None),
        };
        let change = Change { key: entry.key, revision, new, old: None };
        let same = |(other, changes): &&mut (Source, Vec<Change>)| {
            *other == source && changes.last().is_some_and(|last| last.revision == revision)
        };
        match groups.last_mut().filter(same) {
            Some((_, changes)) => changes.push(change),
            None => groups.push((source, vec![change])),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use proto::etcd::mvccpb::KeyValue;

    use super::*;

    fn event(key: &'static str, mod_revision: i64, kind: EventType) -> Event {
        let kv = KeyValue { key: key.into(), mod_revision, ..KeyValue::default() };
        Event { r#type: kind.into(), kv: Some(kv), prev_kv: None }
    }

    #[test]
    fn changes_of_one_revision_stay_together() {
        let events = vec![
            event("dapr/counters/a", 5, EventType::Delete),
            event("dapr/jobs/a", 5, EventType::Delete),
            event("dapr/jobs/b", 6, EventType::Put),
        ];
        let groups = grouped(&Echo::default(), events);
        let shape: Vec<_> = groups.iter().map(|(_, changes)| changes.len()).collect();
        assert_eq!(shape, [2, 1]);
        assert!(groups[0].1[0].new.is_none() && groups[1].1[0].new.is_some());
    }
}
