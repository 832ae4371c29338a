//! Answers that are under way when a member gives up jobs.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::*;
use crate::engine::event::{AckResult, Share};
use crate::membership::member::{Stop, Triggers as _};
use crate::membership::ownership::Part;
use crate::membership::shards;
use crate::store::keys;
use crate::streams::dispatcher::control::ANSWERS;

const EPOCH: u64 = 7;

/// A store with a job that is due. Notes what is written.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<Vec<Txn>>>);

impl Shelf {
    fn written(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Store for Shelf {
    fn get(&self, _: Bytes) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        futures::future::ready(Ok(None)).boxed()
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        Ok(Arc::new(self.clone()))
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed, StoreError>> {
        self.0.lock().unwrap().push(txn);
        futures::future::ready(Ok(Committed { succeeded: true, revision: 3, deleted: 1 })).boxed()
    }
}

impl Snapshot for Shelf {
    fn scan(&self, scan: &Scan) -> Result<Vec<Entry>, StoreError> {
        let first = scan.prefix == keys::JOBS.as_bytes() && scan.after.is_none();
        let job = || Entry { key: Bytes::from_static(KEY), record: stored::job_due("0s") };
        Ok(first.then(job).into_iter().collect())
    }

    fn select(&self, _: &Query) -> Result<Selected, StoreError> {
        Err(StoreError::NoSpace)
    }

    fn revision(&self) -> Revision {
        2
    }
}

/// A member with one stream.
struct Fixture {
    scope: Scope,
    store: Shelf,
    fence: Arc<Fence>,
    dispatcher: Dispatcher,
    mailbox: Arc<Mailbox>,
    _feed: mpsc::Sender<StoreEvent>,
}

impl Fixture {
    /// The only member, or one of several, which has nothing.
    async fn new(alone: bool) -> Self {
        let (scope, store) = (Scope::for_test(), Shelf::default());
        let now = clock::monotonic();
        let fence = Arc::new(if alone { Fence::open(now) } else { Fence::closed(now) });
        fence.renew(now, Duration::from_hours(1));
        let (feed, changes) = mpsc::channel(1);
        let parts = Parts {
            store: Arc::new(store.clone()),
            feed: changes,
            fence: fence.clone(),
            leadership: Arc::default(),
            metrics: Metrics::register(scope.metrics()).unwrap(),
        };
        let dispatcher = if alone {
            Dispatcher::start(parts, &scope).await.unwrap()
        } else {
            Dispatcher::start_idle(parts, &scope)
        };
        let mailbox = Arc::new(Mailbox::default());
        let registration = Registration {
            stream: StreamId(1),
            namespace: "ns".into(),
            app_id: Some("app".into()),
            actor_types: Vec::new(),
            limits: Vec::new(),
        };
        dispatcher.open(registration, mailbox.clone()).await;
        Self { scope, store, fence, dispatcher, mailbox, _feed: feed }
    }

    async fn answer(&self, delivery: &Delivery) {
        let (stream, result) = (StreamId(1), AckResult::Success);
        self.dispatcher.send(Event::Ack { stream, id: delivery.id, result }).await;
    }
}

/// Lets other tasks go on.
async fn others() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// The shard of [`job`].
fn shard() -> BTreeSet<Shard> {
    [Shard::of(1)].into()
}

fn share() -> Share {
    Share { index: 0, total: 1 }
}

#[tokio::test]
async fn an_answer_that_is_under_way_when_the_process_stops_is_written_before_streams_end() {
    let fixture = Fixture::new(true).await;
    let delivery = fixture.mailbox.next().await;
    fixture.scope.token().cancel();
    others().await;
    assert!(!fixture.dispatcher.closing().is_cancelled());
    fixture.answer(&delivery).await;
    fixture.dispatcher.closing().cancelled().await;
    fixture.scope.shutdown().await.unwrap();
    assert_eq!(fixture.store.written(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_awaited_for_so_long_when_the_process_stops() {
    let fixture = Fixture::new(true).await;
    fixture.mailbox.next().await;
    fixture.scope.token().cancel();
    tokio::time::sleep(ANSWERS.checked_sub(Duration::from_millis(1)).unwrap()).await;
    assert!(!fixture.dispatcher.closing().is_cancelled());
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert!(fixture.dispatcher.closing().is_cancelled());
    fixture.scope.shutdown().await.unwrap();
    assert_eq!(fixture.store.written(), 0);
}

#[tokio::test]
async fn a_shard_is_released_when_its_answer_is_written() {
    let fixture = Fixture::new(false).await;
    fixture.dispatcher.gain([(Shard::of(1), EPOCH)].into(), share()).await;
    let delivery = fixture.mailbox.next().await;
    fixture.fence.release(&shard());
    let mut release = fixture.dispatcher.release(shard());
    assert!((&mut release).now_or_never().is_none());
    others().await;
    assert!((&mut release).now_or_never().is_none());
    fixture.answer(&delivery).await;
    release.await;
    let [txn] = &fixture.store.0.lock().unwrap()[..] else { panic!("one result") };
    let claimed = |condition: &Condition| {
        matches!(condition, Condition::Unchanged { key, mod_revision }
            if *key == shards::key(Shard::of(1)) && *mod_revision == EPOCH)
    };
    assert!(txn.conditions.iter().any(claimed), "{:?}", txn.conditions);
}

#[tokio::test]
async fn a_shard_is_released_without_an_answer_that_does_not_come() {
    let fixture = Fixture::new(false).await;
    fixture.dispatcher.gain([(Shard::of(1), EPOCH)].into(), share()).await;
    let delivery = fixture.mailbox.next().await;
    fixture.fence.release(&shard());
    fixture.dispatcher.release(shard()).await;
    fixture.answer(&delivery).await;
    fixture.scope.shutdown().await.unwrap();
    assert_eq!(fixture.store.written(), 0);
}

#[rstest]
#[case::counted_again(Stop::Recount, 1)]
#[case::in_another_mode(Stop::Leave, 1)]
#[case::without_the_lease(Stop::Lost, 0)]
#[tokio::test]
async fn an_answer_that_is_under_way_counts_unless_the_jobs_are_lost(
    #[case] stop: Stop,
    #[case] want: usize,
) {
    let fixture = Fixture::new(false).await;
    let part = Part { key: "k".into(), epoch: EPOCH, index: 0, total: 1 };
    fixture.dispatcher.start(part, share()).await;
    let delivery = fixture.mailbox.next().await;
    fixture.fence.end();
    let mut stopped = fixture.dispatcher.stop(stop);
    assert!((&mut stopped).now_or_never().is_none());
    others().await;
    fixture.answer(&delivery).await;
    stopped.await;
    fixture.scope.shutdown().await.unwrap();
    assert_eq!(fixture.store.written(), want);
}
