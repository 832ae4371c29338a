//! Puts of jobs that take effect once, although they are sent again when the answer is lost.
//!
//! A job that is put a second time starts over: a one-shot that has fired and was deleted meanwhile
//! fires again. A condition does not prevent that, because the key may be absent before the first
//! attempt and after the job. So before a put is sent again, the history of its key shows whether an
//! earlier attempt was applied; records of jobs are unique, since each has its own partition id. The
//! next attempt is conditional on the state that was read, in case the earlier one is applied late.
//!
//! All other transactions are sent again as they are:
//! - A counter is put while its job and its owner are the same: twice gives the same bytes, and the
//!   engine sends no later counter of the job before the answer.
//! - A job is finished while it has its revision: the second time changes nothing and reports
//!   `Superseded`. The deletion arrives in the feed.
//! - Deletions by callers have no answer yet: they may take effect at any time of the call.
//! - Keys of members and claims of shards are conditional. What the second time reports as another's
//!   is found to be the own one, by lease and uid, when the keys are read next.
//! - A second lease has no keys and expires.

use std::time::Duration;

use bytes::Bytes;
use proto::etcd::etcdserverpb::watch_request::RequestUnion;
use proto::etcd::etcdserverpb::{
    TxnRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use tokio::sync::mpsc;
use tonic::{Response, Status};

use super::requests::{self, number};
use super::session::Session;
use crate::store::{Committed, Condition, Op, Revision, Txn, keys};

/// Interval in which etcd is asked how far it has sent the history. It does not answer while it has
/// more, and sends in intervals of 100 ms.
const ASK: Duration = Duration::from_millis(100);
/// Time limit of the history. Without it the put is sent again, and may take effect twice.
const HISTORY: Duration = Duration::from_secs(2);

/// The put of one job.
#[derive(Debug, Clone)]
pub(super) struct Put {
    key: Bytes,
    value: Bytes,
    /// Only if there is no such key.
    creates: bool,
}

impl Put {
    /// A transaction that puts one job, unconditionally or if there is none.
    pub(super) fn of(txn: &Txn) -> Option<Self> {
        let creates = match txn.conditions.as_slice() {
            [] => false,
            [Condition::Absent(_)] => true,
            _ => return None,
        };
        let ([Op::Put { key, value }], []) = (txn.then.as_slice(), txn.otherwise.as_slice()) else {
            return None;
        };
        let is_job = keys::job_name(key).is_some();
        is_job.then(|| Self { key: key.clone(), value: value.clone(), creates })
    }

    fn request(&self, condition: Option<&Condition>) -> TxnRequest {
        TxnRequest {
            compare: condition.map(requests::compare).into_iter().collect(),
            success: vec![requests::put(self.key.clone(), self.value.clone(), 0)],
            failure: vec![],
        }
    }
}

/// The first attempt.
pub(super) async fn send(session: &Session, put: &Put) -> Result<Response<Committed>, Status> {
    let absent = Condition::Absent(put.key.clone());
    send_if(session, put, Some(&absent).filter(|_| put.creates)).await
}

async fn send_if(
    session: &Session,
    put: &Put,
    condition: Option<&Condition>,
) -> Result<Response<Committed>, Status> {
    let answer = session.kv().txn(session.request(put.request(condition))).await?;
    Ok(answer.map(|answer| requests::committed(&answer)))
}

/// An attempt after one without an answer, which has a revision from `since` on if it was applied.
pub(super) async fn send_again(
    session: &Session,
    put: &Put,
    since: Revision,
) -> Result<Response<Committed>, Status> {
    let done = |succeeded, revision| Response::new(Committed { succeeded, revision, deleted: 0 });
    loop {
        let read = session.request(requests::one(put.key.clone()));
        let read = session.kv().range(read).await?.into_inner();
        let until = requests::revision_of(read.header.as_ref());
        let found = read.kvs.into_iter().next().map(super::entry);
        if let Some(entry) = found.as_ref().filter(|entry| entry.record.value == put.value) {
            return Ok(done(true, entry.record.mod_revision));
        }
        let history = was_put(session, put, since, until);
        match tokio::time::timeout(HISTORY, history).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(revision))) => return Ok(done(true, revision)),
            Ok(Err(status)) => return Err(status),
            Err(_) => tracing::warn!(target: "dapr.scheduler.store",
                "etcd does not show whether a job was stored; it is stored again, and may fire twice"),
        }
        let unchanged = match found {
            Some(_) if put.creates => return Ok(done(false, until)),
            Some(entry) => {
                Condition::Unchanged { key: entry.key, mod_revision: entry.record.mod_revision }
            }
            None => Condition::Absent(put.key.clone()),
        };
        let sent = send_if(session, put, Some(&unchanged)).await?;
        if sent.get_ref().succeeded {
            return Ok(sent);
        }
    }
}

/// The revision at which a record was put, from `since` to `until`.
async fn was_put(
    session: &Session,
    put: &Put,
    mut since: Revision,
    until: Revision,
) -> Result<Option<Revision>, Status> {
    while since <= until {
        let (send, requests) = mpsc::channel(2);
        let key = put.key.clone();
        let start_revision = number(since);
        let create = WatchCreateRequest { key, start_revision, ..WatchCreateRequest::default() };
        ask(&send, RequestUnion::CreateRequest(create));
        let mut answers = session.watch(requests).await?;
        since = loop {
            let Ok(answer) = tokio::time::timeout(ASK, answers.message()).await else {
                ask(&send, RequestUnion::ProgressRequest(WatchProgressRequest {}));
                continue;
            };
            let answer = answer?.ok_or_else(|| Status::unavailable("the watch ended"))?;
            match read(&answer, &put.value, until) {
                History::Put(revision) => return Ok(Some(revision)),
                History::Complete => return Ok(None),
                History::Partial => {}
                History::Compacted(first) => break first,
                History::Refused => return Err(Status::unavailable(answer.cancel_reason)),
            }
        };
    }
    Ok(None)
}

/// A request that finds the channel full repeats the one before.
fn ask(requests: &mpsc::Sender<WatchRequest>, request: RequestUnion) {
    let _ = requests.try_send(WatchRequest { request_union: Some(request) });
}

/// What an answer of a watch says about the history of its key.
#[derive(Debug, PartialEq, Eq)]
enum History {
    /// The record was put at this revision.
    Put(Revision),
    /// It was not.
    Complete,
    /// There is more.
    Partial,
    /// It begins at this revision.
    Compacted(Revision),
    /// etcd has ended the watch.
    Refused,
}

fn read(answer: &WatchResponse, value: &Bytes, until: Revision) -> History {
    if answer.canceled {
        let first = answer.compact_revision.cast_unsigned();
        return if first > 0 { History::Compacted(first) } else { History::Refused };
    }
    let pairs = || answer.events.iter().filter_map(|event| event.kv.as_ref());
    let revision = |at: i64| at.cast_unsigned();
    if let Some(pair) = pairs().find(|pair| pair.value == *value) {
        return History::Put(revision(pair.mod_revision));
    }
    // Events come in the order of revisions, and the answer without a watch after all of them.
    let sent = answer.header.as_ref().filter(|_| answer.watch_id == NO_WATCH);
    let sent = sent.map(|header| revision(header.revision));
    let passed = pairs().map(|pair| revision(pair.mod_revision)).max();
    let is_complete = sent.max(passed).is_some_and(|sent| sent >= until);
    if is_complete { History::Complete } else { History::Partial }
}

/// The id in the answer to a progress request.
const NO_WATCH: i64 = -1;

#[cfg(test)]
mod tests {
    use proto::etcd::etcdserverpb::ResponseHeader;
    use proto::etcd::mvccpb::{Event, KeyValue};
    use rstest::rstest;

    use super::*;

    const KEY: &str = "dapr/jobs/app||default||app||once";

    fn put(key: &'static str) -> Op {
        Op::Put { key: key.into(), value: "record".into() }
    }

    fn txn(conditions: Vec<Condition>, then: Vec<Op>) -> Txn {
        Txn { conditions, then, ..Txn::default() }
    }

    #[rstest]
    #[case::unconditional(vec![], vec![put(KEY)], Some(false))]
    #[case::new(vec![Condition::Absent(KEY.into())], vec![put(KEY)], Some(true))]
    #[case::tick(
        vec![Condition::Unchanged { key: KEY.into(), mod_revision: 7 }],
        vec![put("dapr/counters/app||default||app||once")],
        None
    )]
    #[case::deletion(vec![], vec![Op::Delete { key: KEY.into() }], None)]
    #[case::another_key(vec![], vec![put("dapr/counters/app||default||app||once")], None)]
    #[case::several(vec![], vec![put(KEY), put("dapr/jobs/app||default||app||other")], None)]
    fn a_put_of_one_job_takes_effect_once(
        #[case] conditions: Vec<Condition>,
        #[case] then: Vec<Op>,
        #[case] creates: Option<bool>,
    ) {
        let put = Put::of(&txn(conditions, then));
        assert_eq!(put.map(|put| put.creates), creates);
    }

    fn event(mod_revision: i64, value: &'static str) -> Event {
        let kv = KeyValue { mod_revision, value: value.into(), ..KeyValue::default() };
        Event { kv: Some(kv), ..Event::default() }
    }

    fn answer(watch_id: i64, revision: i64, events: Vec<Event>) -> WatchResponse {
        let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
        WatchResponse { header, watch_id, events, ..WatchResponse::default() }
    }

    fn canceled(compact_revision: i64) -> WatchResponse {
        WatchResponse { canceled: true, compact_revision, ..WatchResponse::default() }
    }

    #[rstest]
    #[case::applied_and_deleted(answer(0, 9, vec![event(5, "record"), event(6, "")]), History::Put(5))]
    #[case::applied_late(answer(0, 9, vec![event(9, "record")]), History::Put(9))]
    #[case::another_record(answer(0, 9, vec![event(5, "other")]), History::Partial)]
    #[case::past_the_end(answer(0, 9, vec![event(8, "other")]), History::Complete)]
    #[case::opened(answer(0, 9, vec![]), History::Partial)]
    #[case::progress(answer(NO_WATCH, 8, vec![]), History::Complete)]
    #[case::progress_of_a_member_that_lags(answer(NO_WATCH, 7, vec![]), History::Partial)]
    #[case::compacted(canceled(6), History::Compacted(6))]
    #[case::refused(canceled(0), History::Refused)]
    fn the_history_shows_whether_a_record_was_put(
        #[case] answer: WatchResponse,
        #[case] want: History,
    ) {
        assert_eq!(read(&answer, &"record".into(), 8), want);
    }
}
