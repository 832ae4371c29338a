//! The same cases on both backends, and faults on the one in memory.

mod damage;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rstest::rstest;
use runtime::Scope;
use testkit::Choice;
use tokio::sync::{mpsc, watch};

use super::backend::{Backend, BackendError, PAGE_BYTES};
use super::disk::Disk;
use super::embedded::shared::Space;
use super::kv::KeyValue;
use super::memory::{Fault, Memory};
use super::*;

struct Quiet;

impl Observer for Quiet {
    fn committed(&self, _: usize, _: Duration, _: u64) {}

    fn synced(&self, _: Duration) {}

    fn on_disk(&self, _: u64) {}
}

/// A disk that is full once a write failed for lack of room, until it is emptied.
#[derive(Default)]
struct Room {
    full: AtomicBool,
    /// Looks that have begun.
    looks: AtomicUsize,
    /// Looks take until this is over.
    slow: AtomicBool,
}

impl Space for Room {
    fn give_up(&self) {
        self.full.store(true, Ordering::SeqCst);
    }

    fn look(&self) -> bool {
        let full = self.full.load(Ordering::SeqCst);
        self.looks.fetch_add(1, Ordering::SeqCst);
        while self.slow.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        full
    }

    fn free_bytes(&self) -> u64 {
        if self.full.load(Ordering::SeqCst) { 0 } else { u64::MAX }
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Memory,
    Disk,
}

/// A store that can be reopened with its data.
struct Fixture {
    dir: tempfile::TempDir,
    memory: Memory,
    kind: Kind,
    quota_bytes: Option<u64>,
    room: Arc<Room>,
    scope: Scope,
}

/// An open store with everything that it reports.
struct Opened {
    store: Arc<dyn Store>,
    kv: Arc<dyn KeyValue>,
    feed: mpsc::Receiver<StoreEvent>,
    state: watch::Receiver<State>,
}

impl std::ops::Deref for Opened {
    type Target = dyn Store;

    fn deref(&self) -> &Self::Target {
        &*self.store
    }
}

impl Opened {
    fn new<B: Backend>(store: Embedded<B>, feed: mpsc::Receiver<StoreEvent>) -> Self {
        let (state, store) = (store.state(), Arc::new(store));
        Self { kv: store.clone(), store, feed, state }
    }
}

impl Fixture {
    fn new(kind: Kind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (memory, scope) = (Memory::default(), Scope::for_test());
        Self { dir, memory, kind, quota_bytes: None, room: Arc::default(), scope }
    }

    fn open(&self) -> Opened {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<Opened, BackendError> {
        let (quota_bytes, space) = (self.quota_bytes, self.room.clone());
        let options = Options { quota_bytes, observer: Box::new(Quiet), space };
        match self.kind {
            Kind::Memory => {
                let memory = self.memory.clone();
                let open = move || Ok(memory.clone());
                let (store, feed) = Embedded::start(open, options, &self.scope)?;
                Ok(Opened::new(store, feed))
            }
            Kind::Disk => {
                let path = self.dir.path().join("db");
                let open = move || Disk::open(&path);
                let (store, feed) = Embedded::start(open, options, &self.scope)?;
                Ok(Opened::new(store, feed))
            }
        }
    }

    /// Closes the store, as a shutdown does.
    async fn close(&mut self, opened: Opened) {
        drop(opened);
        self.scope.shutdown().await.unwrap();
        self.scope = Scope::for_test();
    }
}

fn bytes(text: &str) -> Bytes {
    text.to_owned().into()
}

fn put(key: &str, value: &str) -> Txn {
    let then = vec![Op::Put { key: bytes(key), value: bytes(value) }];
    Txn { then, ..Txn::default() }
}

fn delete(keys: &[&str]) -> Txn {
    let then = keys.iter().map(|key| Op::Delete { key: bytes(key) }).collect();
    Txn { then, ..Txn::default() }
}

fn delete_jobs(prefix: &str, filter: Option<Filter>) -> Txn {
    let then = vec![Op::DeleteJobs { prefix: bytes(prefix), filter }];
    Txn { then, ..Txn::default() }
}

fn keys_of(store: &dyn Store) -> Vec<String> {
    let scan = Scan { prefix: bytes("dapr/"), after: None, limit: usize::MAX };
    let found = store.snapshot().unwrap().scan(&scan).unwrap();
    found.iter().map(|entry| String::from_utf8(entry.key.to_vec()).unwrap()).collect()
}

async fn value(store: &dyn Store, key: &str) -> Option<(u64, u64, u64, Bytes)> {
    let record = store.get(bytes(key)).await.unwrap()?;
    Some((record.create_revision, record.mod_revision, record.version, record.value))
}

#[rstest]
#[tokio::test]
async fn revisions_count_changes(#[values(Kind::Memory, Kind::Disk)] kind: Kind) {
    let fixture = Fixture::new(kind);
    let store = fixture.open();
    let revision = async |txn| store.commit(txn).await.unwrap().revision;
    assert_eq!(revision(delete(&["dapr/jobs/a"])).await, 1, "nothing changed");
    assert_eq!(revision(put("dapr/jobs/a", "1")).await, 2);
    assert_eq!(revision(put("dapr/jobs/a", "2")).await, 3);
    assert_eq!(value(&*store, "dapr/jobs/a").await, Some((2, 3, 2, bytes("2"))));
    assert_eq!(revision(delete(&["dapr/jobs/a", "dapr/jobs/b"])).await, 4);
    assert_eq!(value(&*store, "dapr/jobs/a").await, None);
    assert_eq!(revision(put("dapr/jobs/a", "3")).await, 5);
    assert_eq!(value(&*store, "dapr/jobs/a").await, Some((5, 5, 1, bytes("3"))));
}

#[rstest]
#[tokio::test]
async fn conditions_choose_the_branch(#[values(Kind::Memory, Kind::Disk)] kind: Kind) {
    let fixture = Fixture::new(kind);
    let store = fixture.open();
    let absent = || vec![Condition::Absent(bytes("k"))];
    let create = |value| Txn { conditions: absent(), ..put("k", value) };
    assert!(store.commit(create("1")).await.unwrap().succeeded);
    let refused = store.commit(create("2")).await.unwrap();
    assert_eq!(refused, Committed { succeeded: false, revision: 2, deleted: 0 });
    let unchanged = |mod_revision| Txn {
        conditions: vec![Condition::Unchanged { key: bytes("k"), mod_revision }],
        otherwise: put("else", "x").then,
        ..delete(&["k"])
    };
    assert!(!store.commit(unchanged(3)).await.unwrap().succeeded);
    assert!(value(&*store, "else").await.is_some());
    let done = store.commit(unchanged(2)).await.unwrap();
    assert_eq!((done.succeeded, done.deleted), (true, 1));
}

#[rstest]
#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart(
    #[values(Kind::Memory, Kind::Disk)] kind: Kind,
) {
    let mut fixture = Fixture::new(kind);
    let store = fixture.open();
    for number in 0..100 {
        store.commit(put(&format!("dapr/jobs/{number:03}"), "v")).await.unwrap();
    }
    store.commit(delete(&["dapr/jobs/042"])).await.unwrap();
    fixture.close(store).await;
    let store = fixture.open();
    let keys = keys_of(&*store);
    assert_eq!(keys.len(), 99);
    assert!(keys.is_sorted() && !keys.contains(&"dapr/jobs/042".to_owned()));
    assert_eq!(store.commit(put("dapr/jobs/042", "v")).await.unwrap().revision, 103);
}

#[rstest]
#[tokio::test]
async fn concurrent_writes_keep_their_own_revisions_and_arrive_in_order(
    #[values(Kind::Memory, Kind::Disk)] kind: Kind,
) {
    const CALLERS: usize = 64;
    let fixture = Fixture::new(kind);
    let mut store = fixture.open();
    let commits = (0..CALLERS).map(|caller| {
        let store = store.store.clone();
        async move {
            let txn = put(&format!("dapr/jobs/{caller}"), "v");
            store.commit(txn).await.unwrap().revision
        }
    });
    let mut revisions = join_all(commits).await;
    revisions.sort_unstable();
    assert_eq!(revisions, (2..2 + CALLERS as u64).collect::<Vec<_>>());
    for want in revisions {
        let Some(StoreEvent::Changes { changes, .. }) = store.feed.recv().await else {
            panic!("no change")
        };
        assert_eq!(changes.iter().map(|change| change.revision).collect::<Vec<_>>(), [want]);
    }
}

#[rstest]
#[tokio::test]
async fn jobs_are_deleted_with_their_counters_and_by_exact_prefix(
    #[values(Kind::Memory, Kind::Disk)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let store = fixture.open();
    for name in ["app||n||a||1", "app||n||a||2", "app||n||ab||1", "app||n2||a||1"] {
        store.commit(put(&format!("dapr/jobs/{name}"), name)).await.unwrap();
        store.commit(put(&format!("dapr/counters/{name}"), "c")).await.unwrap();
    }
    store.commit(put("dapr/counters/app||n||a||orphan", "c")).await.unwrap();
    let second: Filter = Arc::new(|_, value| value.ends_with(b"2"));
    let done = store.commit(delete_jobs("app||n||a||", Some(second))).await.unwrap();
    assert_eq!(done.deleted, 2);
    let done = store.commit(delete_jobs("app||n||a||", None)).await.unwrap();
    assert_eq!(done.deleted, 3, "the job, its counter and the counter without a job");
    let left = [
        "dapr/counters/app||n2||a||1",
        "dapr/counters/app||n||ab||1",
        "dapr/jobs/app||n2||a||1",
        "dapr/jobs/app||n||ab||1",
    ];
    assert_eq!(keys_of(&*store), left);
}

#[rstest]
#[tokio::test]
async fn a_page_goes_on_after_the_last_key(#[values(Kind::Memory, Kind::Disk)] kind: Kind) {
    let fixture = Fixture::new(kind);
    let store = fixture.open();
    for name in ["a", "b", "c", "d"] {
        store.commit(put(&format!("dapr/jobs/{name}"), name)).await.unwrap();
    }
    let snapshot = store.snapshot().unwrap();
    store.commit(delete_jobs("", None)).await.unwrap();
    let page = |after: Option<&str>, limit| {
        let scan = Scan { prefix: bytes("dapr/jobs/"), after: after.map(bytes), limit };
        let found = snapshot.scan(&scan).unwrap();
        found.into_iter().map(|entry| entry.record.value).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 3), ["a", "b", "c"], "the snapshot does not see the deletion");
    assert_eq!(page(Some("dapr/jobs/c"), 3), ["d"]);
    assert!(page(Some("dapr/jobs/d"), 3).is_empty());
}

/// A page of large records is short, and the next one continues.
#[rstest]
#[tokio::test]
async fn pages_are_bounded_by_bytes(#[values(Kind::Memory, Kind::Disk)] kind: Kind) {
    let fixture = Fixture::new(kind);
    let store = fixture.open();
    let value = "x".repeat(PAGE_BYTES / 2);
    for name in ["a", "b", "c"] {
        store.commit(put(&format!("dapr/jobs/{name}"), &value)).await.unwrap();
    }
    let snapshot = store.snapshot().unwrap();
    let page = |after: Option<&str>| {
        let scan = Scan { prefix: bytes("dapr/jobs/"), after: after.map(bytes), limit: 1_000 };
        snapshot.scan(&scan).unwrap().len()
    };
    assert_eq!([page(None), page(Some("dapr/jobs/b")), page(Some("dapr/jobs/c"))], [2, 1, 0]);
    let done = store.commit(delete_jobs("", None)).await.unwrap();
    assert_eq!(done.deleted, 3, "a deletion reads every page");
}

/// A put costs 256 bytes besides its own. A refusal raises the alarm, which only a request clears.
#[rstest]
#[tokio::test]
async fn a_quota_refuses_puts_until_the_alarm_is_cleared(
    #[values(Kind::Memory, Kind::Disk)] kind: Kind,
) {
    let mut fixture = Fixture { quota_bytes: Some(2 * (256 + 1 + 9) + 1), ..Fixture::new(kind) };
    let store = fixture.open();
    store.commit(put("a", "123456789")).await.unwrap();
    store.commit(put("b", "123456789")).await.unwrap();
    assert_eq!(*store.state.borrow(), State::Serving);
    assert_eq!(store.commit(put("c", "")).await, Err(StoreError::NoSpace), "at the quota");
    assert_eq!(value(&*store, "c").await, None);
    assert_eq!(*store.state.borrow(), State::NoSpace);
    store.commit(delete(&["a"])).await.unwrap();
    assert_eq!(store.commit(put("c", "")).await, Err(StoreError::NoSpace), "it has room");
    fixture.close(store).await;
    let store = fixture.open();
    assert_eq!(store.commit(put("c", "")).await, Err(StoreError::NoSpace), "a restart");
    assert!(store.kv.set_alarm(false).await.unwrap());
    assert!(!store.kv.set_alarm(false).await.unwrap());
    store.commit(put("c", "")).await.unwrap();
    assert_eq!(*store.state.borrow(), State::Serving);
    let text = StoreError::NoSpace.to_string();
    assert_eq!(text, "etcdserver: mvcc: database space exceeded");
}

#[rstest]
#[case(Fault::Lost, None)]
#[case(Fault::Unanswered, Some("1"))]
#[tokio::test]
async fn after_a_failed_write_the_store_is_opened_again_and_read_again(
    #[case] fault: Fault,
    #[case] left: Option<&str>,
) {
    let fixture = Fixture::new(Kind::Memory);
    let mut store = fixture.open();
    fixture.memory.fail(&[fault]);
    let failed = store.commit(put("k", "1")).await;
    assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{failed:?}");
    assert!(matches!(store.feed.recv().await, Some(StoreEvent::Failed)));
    assert!(matches!(store.feed.recv().await, Some(StoreEvent::Reopened)));
    let found = value(&*store, "k").await.map(|(.., value)| value);
    assert_eq!(found, left.map(bytes));
    let revision = store.commit(put("other", "1")).await.unwrap().revision;
    assert_eq!(revision, if left.is_some() { 3 } else { 2 });
}

#[tokio::test]
async fn a_write_that_hangs_is_a_stuck_store_and_one_that_fails_is_not() {
    let fixture = Fixture::new(Kind::Memory);
    let mut store = fixture.open();
    let stuck = || fixture.scope.stuck(runtime::clock::monotonic() + STUCK * 2);
    store.commit(put("k", "1")).await.unwrap();
    testkit::until("it waits for requests", async || stuck().is_empty()).await;

    fixture.memory.hang(true);
    let observed = async {
        testkit::until("it is stuck", async || stuck() == ["scheduler-store"]).await;
        fixture.memory.hang(false);
    };
    let (written, ()) = tokio::join!(store.commit(put("k", "2")), observed);
    written.unwrap();
    testkit::until("it waits again", async || stuck().is_empty()).await;

    fixture.memory.fail(&[Fault::Lost]);
    assert!(store.commit(put("k", "3")).await.is_err());
    while !matches!(store.feed.recv().await, Some(StoreEvent::Failed)) {}
    assert!(stuck().is_empty(), "it is opened again");
}

#[tokio::test]
async fn without_room_puts_are_refused_and_deletes_go_on() {
    let fixture = Fixture::new(Kind::Memory);
    let mut store = fixture.open();
    store.commit(put("k", "1")).await.unwrap();
    fixture.memory.fail(&[Fault::NoRoom]);
    assert!(store.commit(put("l", "1")).await.is_err());
    while !matches!(store.feed.recv().await, Some(StoreEvent::Reopened)) {}
    assert_eq!(store.commit(put("l", "1")).await, Err(StoreError::NoSpace));
    assert_eq!(store.commit(delete(&["k"])).await.unwrap().deleted, 1);
    fixture.room.full.store(false, Ordering::SeqCst);
    testkit::until("puts are taken again", async || store.commit(put("l", "1")).await.is_ok())
        .await;
}

#[tokio::test]
async fn room_that_was_seen_before_a_write_failed_for_lack_of_it_takes_no_put() {
    let fixture = Fixture::new(Kind::Memory);
    let mut store = fixture.open();
    let looks = || fixture.room.looks.load(Ordering::SeqCst);
    fixture.room.slow.store(true, Ordering::SeqCst);
    let before = looks();
    testkit::until("a look begins", async || looks() > before).await;
    fixture.memory.fail(&[Fault::NoRoom]);
    assert!(store.commit(put("k", "1")).await.is_err());
    while !matches!(store.feed.recv().await, Some(StoreEvent::Reopened)) {}

    let before = looks();
    fixture.room.slow.store(false, Ordering::SeqCst);
    testkit::until("the next look begins", async || {
        assert_eq!(store.commit(put("k", "1")).await, Err(StoreError::NoSpace));
        looks() > before
    })
    .await;
}

/// Random transactions against a map, over several lives of the store.
#[tokio::test]
async fn random_transactions_agree_with_a_map() {
    let mut fixture = Fixture::new(Kind::Disk);
    let mut model: BTreeMap<String, String> = BTreeMap::new();
    let mut choice = Choice::new(7);
    let mut draw = |below| choice.below(below);
    for life in 0..4 {
        let store = fixture.open();
        for step in 0..200 {
            let key = format!("dapr/jobs/{}", draw(20));
            let value = format!("{life}.{step}");
            match draw(4) {
                0 => {
                    store.commit(delete(&[&key])).await.unwrap();
                    model.remove(&key);
                }
                1 => {
                    let create = Txn {
                        conditions: vec![Condition::Absent(bytes(&key))],
                        ..put(&key, &value)
                    };
                    let done = store.commit(create).await.unwrap();
                    assert_eq!(done.succeeded, !model.contains_key(&key));
                    model.entry(key).or_insert(value);
                }
                2 if step % 50 == 0 => {
                    store.commit(delete_jobs("1", None)).await.unwrap();
                    model.retain(|key, _| !key.starts_with("dapr/jobs/1"));
                }
                _ => {
                    store.commit(put(&key, &value)).await.unwrap();
                    model.insert(key, value);
                }
            }
        }
        let keys = keys_of(&*store);
        assert_eq!(keys, model.keys().cloned().collect::<Vec<_>>(), "life {life}");
        fixture.close(store).await;
    }
}
