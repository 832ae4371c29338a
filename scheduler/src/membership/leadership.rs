//! The key of this member below `dapr/leadership/`, held by a lease as long as the process lives.
//! Other tools count members by these keys. Source: Dapr 1.18.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use runtime::Scope;
use tokio::sync::Notify;

use super::quorum;
use crate::store::kv::{KeyValue, KvError, Operation, Put, Transaction};
use crate::store::query::Query;
use crate::store::range::KeyRange;

/// Seconds of the lease.
const TTL: i64 = 20;
/// Interval of renewals: two may fail.
const RENEWAL: Duration = Duration::from_secs(6);
/// The pause before the key is written again, when the store did not answer.
const RETRY: Duration = Duration::from_millis(500);
/// How long a shutdown waits for the store to delete the key.
const LEAVE: Duration = Duration::from_secs(5);

/// This member's key.
pub(crate) struct Leadership {
    store: Arc<dyn KeyValue>,
    key: Bytes,
    value: Bytes,
    /// A key below `dapr/leadership/` was changed by a client of the etcd API.
    changed: Arc<Notify>,
}

impl Leadership {
    /// The key of member `id`, whose sidecars dial `address`. `uid` differs between processes.
    pub(crate) fn new(
        store: Arc<dyn KeyValue>,
        id: &str,
        address: &str,
        uid: u64,
        changed: Arc<Notify>,
    ) -> Self {
        let value = quorum::record(1, uid, address);
        Self { store, key: quorum::key(id), value, changed }
    }

    /// Writes the key, at once, and keeps it until the process stops. A process before this one may
    /// have left it: no other process has the directory.
    pub(crate) async fn start(self, scope: &Scope) {
        let token = scope.token().clone();
        let Some(lease) = token.run_until_cancelled(self.join()).await else { return };
        scope.spawn("scheduler-leadership", async move {
            self.hold(lease, &token).await;
            Ok(())
        });
    }

    async fn hold(&self, mut lease: i64, token: &tokio_util::sync::CancellationToken) {
        loop {
            tokio::select! {
                () = token.cancelled() => break,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(RENEWAL) => {}
            }
            let renewed = self.store.keep_alive(lease).is_some();
            // A store that does not answer keeps the key.
            if renewed && self.is_own(lease).unwrap_or(true) {
                continue;
            }
            tracing::warn!(target: "dapr.scheduler",
                "Another process changed the leadership key of this scheduler, writing it again");
            match token.run_until_cancelled(self.join()).await {
                Some(joined) => lease = joined,
                None => break,
            }
        }
        let left = tokio::time::timeout(LEAVE, self.store.revoke(lease)).await;
        if !matches!(left, Ok(Ok(_) | Err(KvError::LeaseNotFound))) {
            tracing::warn!(target: "dapr.scheduler", "Cannot revoke the lease: the leadership key stays until the next start");
        }
    }

    async fn join(&self) -> i64 {
        loop {
            match self.try_join().await {
                Ok(lease) => return lease,
                Err(error) => {
                    tracing::warn!(target: "dapr.scheduler",
                        "Cannot write the leadership key, retrying: {error}");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn try_join(&self) -> Result<i64, KvError> {
        for lease in self.store.leases(None) {
            if lease.keys.contains(&self.key) {
                match self.store.revoke(lease.id).await {
                    Ok(_) | Err(KvError::LeaseNotFound) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let lease = self.store.grant(0, TTL, true).await?.id;
        let put = Put {
            key: self.key.clone(),
            value: Some(self.value.clone()),
            lease: Some(lease),
            previous: false,
        };
        let then = vec![Operation::Put(put)];
        let written =
            self.store.transact(Transaction { then, reserved: true, ..Transaction::default() });
        if let Err(error) = written.await {
            let _ = self.store.revoke(lease).await;
            return Err(error);
        }
        Ok(lease)
    }

    fn is_own(&self, lease: i64) -> Result<bool, KvError> {
        let (_, found) = self.store.range(&Query::all(KeyRange::One(self.key.clone())))?;
        let found = found.entries.first().map(|entry| &entry.record);
        Ok(found.is_some_and(|record| {
            record.value == self.value && record.lease.cast_signed() == lease
        }))
    }
}
