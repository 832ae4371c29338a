mod answers;

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use rstest::rstest;

use super::*;
use crate::store::query::{Query, Selected};
use crate::store::{Change, Committed, Entry, Record, Revision, Scan, Snapshot, Source, Txn};
use crate::stored;

/// An empty store whose reads hang while this is set.
#[derive(Clone, Default)]
struct Hanging(Arc<AtomicBool>);

impl Hanging {
    fn set(&self, hangs: bool) {
        self.0.store(hangs, Ordering::Relaxed);
    }

    fn hangs(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Store for Hanging {
    fn get(&self, _: Bytes) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        async {
            while self.hangs() {
                tokio::task::yield_now().await;
            }
            Ok(None)
        }
        .boxed()
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        Ok(Arc::new(self.clone()))
    }

    fn commit(&self, _: Txn) -> BoxFuture<'_, Result<Committed, StoreError>> {
        futures::future::ready(Err(StoreError::NoSpace)).boxed()
    }
}

impl Snapshot for Hanging {
    fn scan(&self, _: &Scan) -> Result<Vec<Entry>, StoreError> {
        while self.hangs() {
            std::thread::yield_now();
        }
        Ok(Vec::new())
    }

    fn select(&self, _: &Query) -> Result<Selected, StoreError> {
        Err(StoreError::NoSpace)
    }

    fn revision(&self) -> Revision {
        1
    }
}

const KEY: &[u8] = b"dapr/jobs/app||ns||app||x";

/// A job that a client of the etcd API wrote: its counter is read from the store.
fn imported() -> StoreEvent {
    let key = Bytes::from_static(KEY);
    let change = Change { key, revision: 2, new: Some(stored::job_due("1h")), old: None };
    StoreEvent::Changes { source: Source::ClientPort, changes: [change].into() }
}

#[tokio::test]
async fn a_dispatcher_that_does_not_go_on_is_stuck_and_a_slow_start_is_not() {
    let (scope, store) = (Scope::for_test(), Hanging::default());
    let (feed, changes) = mpsc::channel(1);
    let metrics = Metrics::register(scope.metrics()).unwrap();
    // Silent for as long as several rounds take.
    let stuck = || {
        !scope
            .stuck((clock::monotonic() + STUCK).checked_sub(LONGEST_SLEEP * 3).unwrap())
            .is_empty()
    };

    store.set(true);
    let ever = || clock::monotonic() + STUCK * 1_000;
    let parts = Parts {
        store: Arc::new(store.clone()),
        feed: changes,
        fence: Arc::new(Fence::open(clock::monotonic())),
        leadership: Arc::default(),
        metrics,
    };
    let start = Dispatcher::start(parts, &scope);
    let release = async {
        assert!(scope.stuck(ever()).is_empty(), "it reads the stored jobs");
        store.set(false);
    };
    let (dispatcher, ()) = tokio::join!(start, release);
    let _handle = dispatcher.unwrap();
    testkit::until("it goes on", async || !scope.stuck(ever()).is_empty() && !stuck()).await;

    store.set(true);
    feed.send(imported()).await.unwrap();
    testkit::until("it is stuck", async || stuck()).await;
    store.set(false);
    testkit::until("it goes on again", async || !stuck()).await;
    scope.shutdown().await.unwrap();
}

#[rstest]
#[case(None, LONGEST_SLEEP)]
#[case(Some(5), LONGEST_SLEEP)]
#[case(Some(-5), Duration::ZERO)]
#[case(Some(0), Duration::ZERO)]
fn sleeps_until_the_engine_wakes_and_never_long(
    #[case] seconds: Option<i64>,
    #[case] want: Duration,
) {
    let at = |second| Timestamp::new(second, 0).unwrap();
    assert_eq!(until(seconds.map(|offset| at(100 + offset)), at(100)), want);
}
