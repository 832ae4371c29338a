//! Entry points of the fuzz targets: schedules, stored records, and requests of the etcd API.
use jiff::Timestamp;
use prost::Message as _;
use proto::etcd::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest};

use crate::etcd_api::request;
use crate::schedule::{self, Spec};
use crate::stored;

/// Ticks that are computed of one schedule.
const TICKS: u32 = 8;

/// Schedule, due time and ttl as lines; the first byte says which are given.
///
/// # Panics
/// When a property does not hold: a defect that the fuzzer found.
pub fn schedule(data: &[u8], now: Timestamp) {
    let Some((which, text)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(text);
    let mut lines = text.splitn(3, '\n');
    let mut line = |bit: u8| lines.next().filter(|_| which & bit != 0);
    let (schedule, due_time, ttl) = (line(1), line(2), line(4));
    let repeats = (which & 8 != 0).then_some(u32::from(which >> 4));
    let Ok(timetable) = schedule::validate(&Spec { schedule, due_time, ttl, repeats }, now) else {
        return;
    };
    let mut last = None;
    for finished in 0..TICKS {
        let Some(next) = timetable.next(finished, last) else { break };
        // Ticks of `@every 0s` are due at once, as many as `repeats` says.
        let follows = |last: Timestamp| next > last || next == last && repeats.is_some();
        assert!(last.is_none_or(follows), "{next} follows {last:?}");
        last = Some(next);
    }
}

/// The record of a job or of a counter.
pub fn record(data: &[u8]) {
    let _ = stored::engine_counter(data);
    let _ = stored::actor_id(data);
    let _ = stored::named_job("job", data);
    let _ = stored::trigger("job", 1, data);
    let _ = stored::engine_job(bytes::Bytes::copy_from_slice(data));
}

/// Operations of a transaction, as `--etcd-max-txn-ops` allows by default.
const MAX_TXN_OPS: usize = 10_000;

/// A request of the etcd API; the first byte says of which kind.
///
/// # Panics
/// When a property does not hold: a defect that the fuzzer found.
pub fn etcd_request(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 4 {
        0 => {
            let _ = RangeRequest::decode(data).map(request::range);
        }
        1 => {
            let Ok(Ok(put)) = PutRequest::decode(data).map(request::put) else { return };
            assert!(!put.key.is_empty());
        }
        2 => {
            let _ = DeleteRangeRequest::decode(data).map(request::delete);
        }
        _ => {
            let Ok(txn) = TxnRequest::decode(data) else { return };
            let most = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
            let accepted = request::txn(txn, MAX_TXN_OPS).is_ok();
            assert!(!accepted || most <= MAX_TXN_OPS);
        }
    }
}
