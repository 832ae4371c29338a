//! Watches of keys. Each stream reads the store's last changes at its own pace; one that falls too
//! far behind is cancelled.

mod watcher;

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::etcd::etcdserverpb::watch_create_request::FilterType;
use proto::etcd::etcdserverpb::watch_request::RequestUnion;
use proto::etcd::etcdserverpb::watch_server::Watch;
use proto::etcd::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use runtime::clock;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use self::watcher::{PROGRESS_CHECK, Watcher};
use super::EtcdApi;
use crate::store::Revision;
use crate::store::range::KeyRange;

/// Watches of one stream. Each new event is compared with all of them.
const MAX_WATCHES: usize = 4_096;
/// The id of an answer that belongs to no watch.
const NO_WATCH: i64 = -1;

type Answer = Result<WatchResponse, Status>;

#[tonic::async_trait]
impl Watch for EtcdApi {
    type WatchStream = ReceiverStream<Answer>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        // One place: changes are read when the transport has taken the answer before.
        let (outbound, answers) = mpsc::channel(1);
        let stream = Stream {
            newest: self.store.newest(),
            api: self.clone(),
            watches: BTreeMap::new(),
            next_id: 0,
            outbound,
        };
        let token = self.scope.token().clone();
        self.scope.spawn_detached("scheduler-watch", async move {
            token.run_until_cancelled(stream.run(request.into_inner())).await;
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

/// One stream with its watches.
struct Stream {
    api: EtcdApi,
    newest: watch::Receiver<Revision>,
    watches: BTreeMap<i64, Watcher>,
    next_id: i64,
    outbound: mpsc::Sender<Answer>,
}

/// The client has disconnected.
struct Gone;

impl Stream {
    async fn run(mut self, mut inbound: Streaming<WatchRequest>) {
        // Either end of the stream ends it.
        while let Ok(()) = self.turn(&mut inbound).await {}
    }

    async fn turn(&mut self, inbound: &mut Streaming<WatchRequest>) -> Result<(), Gone> {
        tokio::select! {
            asked = inbound.message() => {
                let asked = asked.ok().flatten().ok_or(Gone)?;
                match asked.request_union {
                    Some(RequestUnion::CreateRequest(request)) => self.create(request).await,
                    Some(RequestUnion::CancelRequest(request)) => {
                        self.cancel(request.watch_id).await
                    }
                    Some(RequestUnion::ProgressRequest(_)) => self.progress().await,
                    None => Ok(()),
                }
            }
            changed = self.newest.changed() => {
                changed.map_err(|_| Gone)?;
                self.send_events().await
            }
            () = tokio::time::sleep(PROGRESS_CHECK) => self.notify().await,
            () = self.outbound.closed() => Err(Gone),
        }
    }

    async fn create(&mut self, request: WatchCreateRequest) -> Result<(), Gone> {
        let refusal = self.refusal(&request);
        if let Some(reason) = refusal {
            let cancel_reason = reason.to_owned();
            let answer = WatchResponse {
                created: true,
                canceled: true,
                cancel_reason,
                ..self.answer(NO_WATCH)
            };
            return self.send(answer).await;
        }
        let id = if request.watch_id == 0 { self.free_id() } else { request.watch_id };
        let current = *self.newest.borrow_and_update();
        let next = match u64::try_from(request.start_revision) {
            Ok(0) | Err(_) => current + 1,
            Ok(start) => start,
        };
        let filters = |filter: FilterType| request.filters.contains(&i32::from(filter));
        let watcher = Watcher {
            range: keys(request.key, request.range_end),
            next,
            previous: request.prev_kv,
            puts: !filters(FilterType::Noput),
            deletions: !filters(FilterType::Nodelete),
            notified: request.progress_notify.then(clock::monotonic),
        };
        self.watches.insert(id, watcher);
        self.send(WatchResponse { created: true, ..self.answer(id) }).await?;
        self.send_events().await
    }

    /// Why a watch is not created. Texts: etcd 3.5.
    fn refusal(&self, request: &WatchCreateRequest) -> Option<&'static str> {
        let range = keys(request.key.clone(), request.range_end.clone());
        if let KeyRange::Between(start, end) = range
            && start >= end
        {
            return Some("mvcc: watcher range is empty");
        }
        if request.start_revision < 0 {
            return Some("mvcc: start revision is negative");
        }
        if self.watches.contains_key(&request.watch_id) && request.watch_id != 0 {
            return Some("mvcc: duplicate watch ID provided on the WatchStream");
        }
        (self.watches.len() >= MAX_WATCHES).then_some("too many watches on one stream")
    }

    fn free_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    async fn cancel(&mut self, id: i64) -> Result<(), Gone> {
        if self.watches.remove(&id).is_none() {
            return Ok(());
        }
        self.send(WatchResponse { canceled: true, ..self.answer(id) }).await
    }

    /// Sends all events first: the answer means that every watch is up to date.
    async fn progress(&mut self) -> Result<(), Gone> {
        self.newest.mark_unchanged();
        self.send_events().await?;
        self.send(self.answer(NO_WATCH)).await
    }

    async fn send_events(&mut self) -> Result<(), Gone> {
        let history = self.api.store.history();
        for id in self.watches.keys().copied().collect::<Vec<_>>() {
            while let Some(watcher) = self.watches.get_mut(&id) {
                match watcher.next_events(&history) {
                    Ok(None) => break,
                    Ok(Some(events)) if events.is_empty() => {}
                    Ok(Some(events)) => {
                        let answer = WatchResponse { events, ..self.answer(id) };
                        self.send(answer).await?;
                    }
                    Err(forgotten) => {
                        self.watches.remove(&id);
                        let compact_revision = super::answer::number(forgotten.oldest);
                        let answer =
                            WatchResponse { canceled: true, compact_revision, ..self.answer(id) };
                        self.send(answer).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends progress notifications to watches without events.
    async fn notify(&mut self) -> Result<(), Gone> {
        let now = clock::monotonic();
        let due = self
            .watches
            .iter_mut()
            .filter_map(|(id, watcher)| watcher.notification_is_due(now).then_some(*id));
        for id in due.collect::<Vec<_>>() {
            self.send(self.answer(id)).await?;
        }
        Ok(())
    }

    fn answer(&self, watch_id: i64) -> WatchResponse {
        WatchResponse { header: self.api.current_header(), watch_id, ..WatchResponse::default() }
    }

    async fn send(&self, answer: WatchResponse) -> Result<(), Gone> {
        self.outbound.send(Ok(answer)).await.map_err(|_| Gone)
    }
}

/// An empty key is the smallest one.
fn keys(key: Bytes, end: Bytes) -> KeyRange {
    let key = if key.is_empty() { Bytes::from_static(b"\0") } else { key };
    KeyRange::new(key, end)
}
