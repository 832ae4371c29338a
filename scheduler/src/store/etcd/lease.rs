//! The store's interface for the membership: a lease, its keys, and a watch of the others' keys.

use bytes::Bytes;
use proto::etcd::etcdserverpb::response_op::Response;
use proto::etcd::etcdserverpb::{RangeResponse, TxnRequest, TxnResponse};

use super::feed::{Watch, WatchEvent};
use super::{Etcd, requests};
use crate::engine::shard::SHARDS;
use crate::store::range::KeyRange;
use crate::store::{Condition, Entry, Revision, StoreError, keys};

/// Leadership keys. Members wait for each other, so that many more than these would not agree.
const MAX_MEMBERS: usize = 1_000;

/// The keys of all members at one revision.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    /// Below [`keys::LEADERSHIP`].
    pub(crate) leadership: Vec<Entry>,
    /// Below [`keys::MEMBERS`], without values.
    pub(crate) members: Vec<Entry>,
    /// Below [`keys::SHARDS`], without values.
    pub(crate) shards: Vec<Entry>,
}

impl Etcd {
    /// A new lease of this many seconds.
    pub(crate) async fn grant(&self, ttl: i64) -> Result<i64, StoreError> {
        Ok(self.client.grant(ttl).await?.id)
    }

    /// Renews a lease; false when it no longer exists. One attempt.
    pub(crate) async fn keep_alive(&self, lease: i64) -> Result<bool, StoreError> {
        Ok(self.client.keep_alive(lease).await?.ttl > 0)
    }

    /// Revokes a lease, which deletes its keys.
    pub(crate) async fn revoke(&self, lease: i64) -> Result<(), StoreError> {
        self.client.revoke(lease).await.map(drop)
    }

    /// The keys of all members.
    pub(crate) async fn table(&self) -> Result<Table, StoreError> {
        let mut leadership = requests::prefix(keys::LEADERSHIP.as_bytes());
        leadership.limit = limit(MAX_MEMBERS);
        let mut members = requests::prefix(keys::MEMBERS.as_bytes());
        (members.limit, members.keys_only) = (limit(MAX_MEMBERS), true);
        let mut shards = requests::prefix(keys::SHARDS.as_bytes());
        (shards.limit, shards.keys_only) = (limit(usize::from(SHARDS)), true);
        let success = [leadership, members, shards].map(requests::read).into();
        let answer = self.client.txn(TxnRequest { success, ..TxnRequest::default() }).await?;
        table(answer)
    }

    /// Puts keys with a lease if all conditions hold; returns the revision of the puts.
    pub(crate) async fn put_leased(
        &self,
        pairs: impl IntoIterator<Item = (Bytes, Bytes)>,
        lease: i64,
        conditions: &[Condition],
    ) -> Result<Option<Revision>, StoreError> {
        let request = TxnRequest {
            compare: conditions.iter().map(requests::compare).collect(),
            success: pairs
                .into_iter()
                .map(|(key, value)| requests::put(key, value, lease))
                .collect(),
            failure: vec![],
        };
        let answer = self.client.txn(request).await?;
        let done = requests::committed(&answer);
        Ok(done.succeeded.then_some(done.revision))
    }

    /// Deletes keys if none has changed.
    pub(crate) async fn delete_unchanged(
        &self,
        keys: impl Iterator<Item = (Bytes, Revision)>,
    ) -> Result<(), StoreError> {
        let (compare, success) = keys
            .map(|(key, mod_revision)| {
                let unchanged = Condition::Unchanged { key: key.clone(), mod_revision };
                (requests::compare(&unchanged), requests::delete(KeyRange::One(key)))
            })
            .unzip();
        self.client.txn(TxnRequest { compare, success, failure: vec![] }).await.map(drop)
    }

    /// Watches the keys of all members.
    pub(crate) fn table_changes(&self) -> Changes {
        // Nothing else is between the first prefix and the last.
        let (_, end) = requests::bounds(KeyRange::prefix(keys::SHARDS.into()));
        Changes(Watch::new(self.client.clone(), keys::LEADERSHIP.into(), end))
    }
}

/// One more shows that there are more.
fn limit(count: usize) -> i64 {
    i64::try_from(count + 1).unwrap_or(i64::MAX)
}

/// The table in an answer, unless there are too many members.
fn table(answer: TxnResponse) -> Result<Table, StoreError> {
    let mut ranges = answer.responses.into_iter().map(|one| match one.response {
        Some(Response::ResponseRange(range)) => range,
        _ => RangeResponse::default(),
    });
    let mut entries = || -> Vec<Entry> {
        ranges.next().unwrap_or_default().kvs.into_iter().map(super::entry).collect()
    };
    let table = Table { leadership: entries(), members: entries(), shards: entries() };
    if table.leadership.len().max(table.members.len()) > MAX_MEMBERS {
        return Err(StoreError::Unavailable(format!(
            "etcd has more than {MAX_MEMBERS} keys below {} or {}: delete those that are not of \
             running schedulers",
            keys::LEADERSHIP,
            keys::MEMBERS
        )));
    }
    Ok(table)
}

/// Changes of the table.
pub(crate) struct Changes(Watch);

impl Changes {
    /// Waits until something has changed, or may have. The first call returns when the watch is
    /// open. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) {
        match self.0.next().await {
            WatchEvent::Open | WatchEvent::Closed | WatchEvent::Events(_) | WatchEvent::Lost => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::etcd::etcdserverpb::ResponseOp;
    use proto::etcd::mvccpb::KeyValue;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(MAX_MEMBERS, MAX_MEMBERS, true)]
    #[case(MAX_MEMBERS + 1, 0, false)]
    #[case(0, MAX_MEMBERS + 1, false)]
    fn there_are_so_many_members_and_no_more(
        #[case] leadership: usize,
        #[case] members: usize,
        #[case] accepted: bool,
    ) {
        let range = |count| {
            let kvs = vec![KeyValue::default(); count];
            let range = RangeResponse { kvs, ..RangeResponse::default() };
            ResponseOp { response: Some(Response::ResponseRange(range)) }
        };
        let responses = [leadership, members, 3].map(range).into();
        match table(TxnResponse { responses, ..TxnResponse::default() }) {
            Ok(table) => {
                assert!(accepted);
                assert_eq!((table.leadership.len(), table.shards.len()), (leadership, 3));
            }
            Err(refused) => {
                assert!(!accepted);
                let refused = refused.to_string();
                assert!(refused.contains("1000 keys below dapr/leadership/"), "{refused}");
            }
        }
    }
}
