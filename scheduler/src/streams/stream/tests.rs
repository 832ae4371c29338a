use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use proto::scheduler::WatchJobsRequestResult;
use rstest::rstest;
use runtime::Scope;

use super::*;
use crate::engine::shard::Shard;
use crate::store::query::{Query, Selected};
use crate::store::{
    Committed, Entry, Record, Revision, Scan, Snapshot, StoreError, StoreEvent, Txn,
};
use crate::streams::dispatcher::Parts;

/// A store that has every job. The read of this number ends the fence.
#[derive(Clone)]
struct Slow {
    fence: Arc<Fence>,
    reads: Arc<AtomicUsize>,
    last: usize,
}

impl Store for Slow {
    fn get(&self, _: Bytes) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        if self.reads.fetch_add(1, Ordering::Relaxed) + 1 == self.last {
            self.fence.end();
        }
        future::ready(Ok(Some(stored::job_due("1h")))).boxed()
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        Ok(Arc::new(self.clone()))
    }

    fn commit(&self, _: Txn) -> BoxFuture<'_, Result<Committed, StoreError>> {
        future::ready(Err(StoreError::NoSpace)).boxed()
    }
}

impl Snapshot for Slow {
    fn scan(&self, _: &Scan) -> Result<Vec<Entry>, StoreError> {
        Ok(Vec::new())
    }

    fn select(&self, _: &Query) -> Result<Selected, StoreError> {
        Err(StoreError::NoSpace)
    }

    fn revision(&self) -> Revision {
        1
    }
}

/// A stream with these deliveries, and the feed of its store, which ends the dispatcher.
async fn open(
    store: Slow,
    mailbox: Arc<Mailbox>,
    scope: &Scope,
) -> (Stream, mpsc::Sender<StoreEvent>) {
    let fence = store.fence.clone();
    let store: Arc<dyn Store> = Arc::new(store);
    let metrics = Metrics::register(scope.metrics()).unwrap();
    let (feed, changes) = mpsc::channel(1);
    let parts = Parts {
        store: store.clone(),
        feed: changes,
        fence: fence.clone(),
        leadership: Arc::default(),
        metrics: metrics.clone(),
    };
    let dispatcher = Dispatcher::start(parts, scope).await.unwrap();
    let ending = CancellationToken::new();
    (Stream { id: StreamId(1), mailbox, store, dispatcher, fence, metrics, ending }, feed)
}

fn slow(last: usize) -> Slow {
    Slow { fence: Arc::new(Fence::open(clock::monotonic())), reads: Arc::default(), last }
}

/// A job that was read first waits for the others of its batch, and may be another member's then.
#[rstest]
#[case::owner(3, 2)]
#[case::lost_with_the_last_read(2, 0)]
#[case::lost_with_the_first_read(1, 0)]
// A batch ends after a time too.
#[tokio::test(start_paused = true)]
async fn a_batch_leaves_only_while_its_jobs_are_this_members(
    #[case] last: usize,
    #[case] want: usize,
) {
    let scope = Scope::for_test();
    let mailbox = Arc::new(Mailbox::default());
    for id in 1..=2 {
        let shard = Shard::of(1);
        mailbox.push(Delivery { id, key: "app||ns||app||x".into(), revision: 2, shard, epoch: 1 });
    }
    let (stream, _feed) = open(slow(last), mailbox, &scope).await;
    let (outbound, mut parts) = mpsc::channel(1);
    // Nothing waits but for a third delivery.
    assert!(stream.write(&outbound).now_or_never().is_none());
    let sent = parts.try_recv().map_or(0, |part| part.unwrap().len());
    assert_eq!(sent, want);
}

#[rstest]
#[case(BATCH_BYTES - 1, DELIVERIES - 1, false)]
#[case(BATCH_BYTES, 1, true)]
#[case(0, DELIVERIES, true)]
fn a_batch_ends_with_so_many_bytes_or_deliveries(
    #[case] bytes: usize,
    #[case] deliveries: u64,
    #[case] want: bool,
) {
    assert_eq!(is_full(bytes, deliveries), want);
}

#[rstest]
#[case(RESULTS, RESULTS, true)]
#[case(RESULTS + 1, RESULTS, false)]
#[tokio::test]
async fn so_many_results_are_passed_on_together(
    #[case] sent: usize,
    #[case] want: usize,
    #[case] is_all: bool,
) {
    let scope = Scope::for_test();
    let (stream, _feed) = open(slow(0), Arc::default(), &scope).await;
    let message = |id| {
        let result = WatchJobsRequestResult { id, status: 0 };
        let result = Some(WatchJobRequestType::Result(result));
        Ok(WatchJobsRequest { watch_job_request_type: result })
    };
    // Open, and silent after these.
    let mut inbound = stream::iter((1..).take(sent).map(message)).chain(stream::pending());
    let first = inbound.next().await;
    let (results, end) = stream.collect(first, &mut inbound);
    assert_eq!((results.len(), end.is_none()), (want, true));
    assert_eq!(inbound.next().now_or_never().is_none(), is_all);
}
