//! The engine's writes and reads: retried until the store answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;

use crate::engine::event::{Event, LoadOutcome, WriteOutcome};
use crate::engine::job::{Counter, JobId};
use crate::metrics::Metrics;
use crate::store::{Batching, Committed, Condition, Op, Source, Store, StoreError, Txn, keys};
use crate::stored;

use super::scan;

/// Shortest and longest pause between attempts; each pause is twice the last.
const RETRY: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];

/// Puts the counter if the job still has this revision and still belongs to this member.
pub(super) fn persist(
    key: &str,
    revision: u64,
    counter: &Counter,
    owner: Option<Condition>,
) -> Txn {
    let put =
        Op::Put { key: keys::counter(key.as_bytes()), value: stored::counter_record(counter) };
    conditional(key, revision, owner, vec![put])
}

/// Deletes job and counter under the same conditions.
pub(super) fn finish(key: &str, revision: u64, owner: Option<Condition>) -> Txn {
    let delete = |key| Op::Delete { key };
    let ops = [keys::job(key.as_bytes()), keys::counter(key.as_bytes())].map(delete);
    conditional(key, revision, owner, ops.into())
}

fn conditional(key: &str, mod_revision: u64, owner: Option<Condition>, then: Vec<Op>) -> Txn {
    let key = keys::job(key.as_bytes());
    let job = Condition::Unchanged { key, mod_revision };
    let conditions = std::iter::once(job).chain(owner).collect();
    Txn { source: Source::Engine, conditions, then, otherwise: Vec::new() }
}

/// Writes of the engine, each repeated until its outcome is known.
#[derive(Default)]
pub(super) struct Writes {
    /// For the next batches.
    waiting: Vec<(JobId, Txn)>,
    /// When the next batch may go.
    next_at: Option<Instant>,
    sent: FuturesUnordered<BoxFuture<'static, Written>>,
    unanswered: usize,
    /// Counts the marks.
    round: u64,
    /// Unanswered ones of rounds before this one.
    before: usize,
}

impl Writes {
    /// Writes without an answer.
    pub(super) fn len(&self) -> usize {
        self.unanswered
    }

    /// Distinguishes the writes up to now from those that follow.
    pub(super) fn mark(&mut self, store: &Arc<dyn Store>) {
        self.send_all(store);
        self.round += 1;
        self.before = self.unanswered;
    }

    /// Writes from before the last mark without an answer.
    pub(super) fn before_mark(&self) -> usize {
        self.before
    }

    /// Adds a write to the next batch.
    pub(super) fn push(&mut self, job: JobId, txn: Txn) {
        self.unanswered += 1;
        self.waiting.push((job, txn));
    }

    /// Sends the added writes that need not wait for those before.
    pub(super) fn send(&mut self, store: &Arc<dyn Store>, now: Instant) {
        let Batching { size, calls, interval } = store.batching();
        while !self.waiting.is_empty() {
            let is_free = self.sent.len() < calls && self.next_at.is_none_or(|at| now >= at);
            if !is_free && self.waiting.len() < size {
                return;
            }
            self.send_batch(store);
            self.next_at = Some(now + interval);
        }
    }

    /// When writes wait for a time; `None` when they do not, or wait for an outcome.
    pub(super) fn wake_at(&self, store: &Arc<dyn Store>) -> Option<Instant> {
        let waits = !self.waiting.is_empty() && self.sent.len() < store.batching().calls;
        self.next_at.filter(|_| waits)
    }

    /// Sends all added writes.
    pub(super) fn send_all(&mut self, store: &Arc<dyn Store>) {
        while !self.waiting.is_empty() {
            self.send_batch(store);
        }
    }

    fn send_batch(&mut self, store: &Arc<dyn Store>) {
        let count = self.waiting.len().min(store.batching().size);
        let (jobs, txns): (_, Vec<_>) = self.waiting.drain(..count).unzip();
        let (store, round) = (store.clone(), self.round);
        let batch = Batch { store, jobs, txns: txns.into(), wait: RETRY[0], round };
        self.sent.push(Box::pin(batch.write()));
    }

    /// The outcome of some sent writes; `None` when none is in flight. Dropping the future loses
    /// nothing.
    pub(super) async fn next(&mut self) -> Option<Vec<Event>> {
        let Written { events, again, round } = self.sent.next().await?;
        self.unanswered -= events.len();
        if round < self.round {
            self.before -= events.len();
        }
        if let Some(again) = again {
            self.sent.push(Box::pin(again.write_again()));
        }
        Some(events)
    }
}

/// Writes that go to the store together.
struct Batch {
    store: Arc<dyn Store>,
    jobs: Vec<JobId>,
    txns: Arc<[Txn]>,
    /// Before the next attempt.
    wait: Duration,
    round: u64,
}

/// The outcome of a batch.
struct Written {
    events: Vec<Event>,
    /// The writes that the store did not answer.
    again: Option<Batch>,
    round: u64,
}

impl Batch {
    async fn write(self) -> Written {
        let outcomes = self.store.commit_each(self.txns.clone()).await;
        let mut events = Vec::with_capacity(outcomes.len());
        let (mut jobs, mut txns) = (Vec::new(), Vec::new());
        for ((job, txn), done) in self.jobs.into_iter().zip(&*self.txns).zip(outcomes) {
            if let Some(outcome) = outcome_of(&done) {
                events.push(Event::Persisted { job, outcome });
            } else {
                jobs.push(job);
                txns.push(txn.clone());
            }
        }
        if jobs.is_empty() {
            return Written { events, again: None, round: self.round };
        }
        let again = Self { jobs, txns: txns.into(), ..self };
        Written { events, round: again.round, again: Some(again) }
    }

    async fn write_again(mut self) -> Written {
        tokio::time::sleep(self.wait).await;
        self.wait = RETRY[1].min(self.wait * 2);
        self.write().await
    }
}

/// `None` when the store did not answer.
fn outcome_of(done: &Result<Committed, StoreError>) -> Option<WriteOutcome> {
    match done {
        Ok(done) if done.succeeded => Some(WriteOutcome::Stored),
        Ok(_) => Some(WriteOutcome::Superseded),
        Err(StoreError::NoSpace) => Some(WriteOutcome::Full),
        Err(StoreError::Unavailable(_)) => None,
    }
}

/// A job that the engine loads shortly before it is due.
pub(super) struct Wanted {
    pub(super) job: JobId,
    pub(super) key: Arc<str>,
    pub(super) revision: u64,
}

/// Reads a job and its counter.
pub(super) async fn load(store: &dyn Store, wanted: &Wanted, metrics: &Metrics) -> Event {
    let [mut wait, longest] = RETRY;
    loop {
        if let Ok(outcome) = try_load(store, wanted, metrics).await {
            return Event::Loaded { job: wanted.job, outcome };
        }
        tokio::time::sleep(wait).await;
        wait = longest.min(wait * 2);
    }
}

async fn try_load(
    store: &dyn Store,
    wanted: &Wanted,
    metrics: &Metrics,
) -> Result<LoadOutcome, StoreError> {
    let name = wanted.key.as_bytes();
    let (record, counter) =
        tokio::try_join!(store.get(keys::job(name)), store.get(keys::counter(name)))?;
    let Some(record) = record.filter(|record| record.mod_revision == wanted.revision) else {
        return Ok(LoadOutcome::Superseded);
    };
    let counter = counter.and_then(|record| stored::engine_counter(&record.value));
    let name = name.to_vec().into();
    Ok(match scan::decode(&name, &record.value, metrics) {
        Some((_, job)) => LoadOutcome::Found { job: Box::new(job), counter },
        None => LoadOutcome::Corrupt,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use futures::FutureExt as _;

    use super::*;
    use crate::store::{Record, Snapshot};

    /// Writes that go to the store together.
    const TOGETHER: usize = 256;
    /// The time between two batches.
    const INTERVAL: Duration = Duration::from_millis(10);

    /// Answers transactions with these outcomes, then with success.
    struct Scripted(Mutex<Vec<Result<Committed, StoreError>>>, usize);

    fn store(script: Vec<Result<Committed, StoreError>>) -> Arc<dyn Store> {
        Arc::new(Scripted(Mutex::new(script), usize::MAX))
    }

    fn committed(succeeded: bool) -> Committed {
        Committed { succeeded, revision: 1, deleted: 0 }
    }

    impl Store for Scripted {
        fn get(&self, _: Bytes) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
            futures::future::ready(Ok(None)).boxed()
        }

        fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
            Err(StoreError::Unavailable("it has none".to_owned()))
        }

        fn commit(&self, _: Txn) -> BoxFuture<'_, Result<Committed, StoreError>> {
            let mut script = self.0.lock().unwrap();
            let next = if script.is_empty() { Ok(committed(true)) } else { script.remove(0) };
            futures::future::ready(next).boxed()
        }

        fn batching(&self) -> Batching {
            Batching { size: TOGETHER, calls: self.1, interval: INTERVAL }
        }
    }

    fn job(index: u32) -> JobId {
        JobId { index, generation: 1 }
    }

    fn outcomes(events: Vec<Event>) -> Vec<(u32, WriteOutcome)> {
        let outcome = |event| match event {
            Event::Persisted { job, outcome } => (job.index, outcome),
            other => panic!("{other:?}"),
        };
        events.into_iter().map(outcome).collect()
    }

    #[tokio::test]
    async fn only_writes_without_an_answer_are_repeated() {
        let lost = Err(StoreError::Unavailable("it is away".to_owned()));
        let full = Err(StoreError::NoSpace);
        let script = vec![Ok(committed(true)), lost, Ok(committed(false)), full];
        let store = store(script);
        let mut writes = Writes::default();
        (0..4).for_each(|index| writes.push(job(index), Txn::default()));
        writes.send_all(&store);
        let known = outcomes(writes.next().await.unwrap());
        let want =
            [(0, WriteOutcome::Stored), (2, WriteOutcome::Superseded), (3, WriteOutcome::Full)];
        assert_eq!((known.as_slice(), writes.len()), (want.as_slice(), 1));
        assert_eq!(outcomes(writes.next().await.unwrap()), [(1, WriteOutcome::Stored)]);
        assert!(writes.next().await.is_none() && writes.len() == 0);
    }

    #[tokio::test]
    async fn writes_from_before_a_mark_are_counted_apart() {
        let lost = Err(StoreError::Unavailable("it is away".to_owned()));
        let script = vec![Ok(committed(true)), lost];
        let store = store(script);
        let mut writes = Writes::default();
        (0..2).for_each(|index| writes.push(job(index), Txn::default()));
        writes.mark(&store);
        writes.push(job(2), Txn::default());
        writes.send_all(&store);
        assert_eq!(writes.before_mark(), 2);
        let mut left = Vec::new();
        while let Some(events) = writes.next().await {
            let after = outcomes(events).iter().filter(|(index, _)| *index == 2).count();
            left.push((writes.before_mark(), after));
        }
        assert_eq!(left, [(1, 0), (1, 1), (0, 0)]);
    }

    #[tokio::test]
    async fn so_many_writes_go_together() {
        let store = store(Vec::new());
        let mut writes = Writes::default();
        (0..=TOGETHER)
            .for_each(|index| writes.push(job(index.try_into().unwrap()), Txn::default()));
        writes.send_all(&store);
        let mut sizes = Vec::new();
        while let Some(events) = writes.next().await {
            sizes.push(events.len());
        }
        sizes.sort_unstable();
        assert_eq!(sizes, [1, TOGETHER]);
    }

    #[tokio::test]
    async fn writes_wait_for_so_many_batches_and_a_full_one_does_not() {
        let store: Arc<dyn Store> = Arc::new(Scripted(Mutex::default(), 2));
        let (mut writes, mut now) = (Writes::default(), runtime::clock::monotonic());
        let mut push = |writes: &mut Writes, count: usize| {
            (0..count)
                .for_each(|index| writes.push(job(index.try_into().unwrap()), Txn::default()));
            now += INTERVAL;
            writes.send(&store, now);
            writes.sent.len()
        };
        assert_eq!([1, 1, 1].map(|count| push(&mut writes, count)), [1, 2, 2]);
        assert_eq!([TOGETHER - 2, 1].map(|count| push(&mut writes, count)), [2, 3]);
        assert_eq!(push(&mut writes, 5), 3, "they wait");
        assert_eq!(writes.wake_at(&store), None, "for an outcome");
        writes.mark(&store);
        assert_eq!((writes.sent.len(), writes.before_mark()), (4, TOGETHER + 7));
        while writes.next().await.is_some() {}
        assert_eq!((writes.len(), writes.before_mark()), (0, 0));
    }

    #[tokio::test]
    async fn batches_are_so_far_apart_and_a_full_one_does_not_wait() {
        let store = store(Vec::new());
        let (mut writes, begun) = (Writes::default(), runtime::clock::monotonic());
        let push = |writes: &mut Writes, count: usize, now: Instant| {
            (0..count)
                .for_each(|index| writes.push(job(index.try_into().unwrap()), Txn::default()));
            writes.send(&store, now);
            (writes.sent.len(), writes.wake_at(&store))
        };
        let just_before = begun + INTERVAL.saturating_sub(Duration::from_nanos(1));
        assert_eq!(push(&mut writes, 1, begun), (1, None));
        assert_eq!(push(&mut writes, 1, just_before), (1, Some(begun + INTERVAL)));
        assert_eq!(push(&mut writes, 1, begun + INTERVAL), (2, None));
        assert_eq!(push(&mut writes, TOGETHER, begun + INTERVAL), (3, None));
        while writes.next().await.is_some() {}
        assert_eq!(writes.len(), 0);
    }
}
