//! Requests that cannot share a batch: leases, compaction, the alarm, defragmentation.

use std::collections::BTreeMap;

use super::group::Group;
use super::lease;
use super::shared::State;
use super::totals::Totals;
use super::writer::{Request, Writer};
use crate::store::backend::{Backend, BackendError};
use crate::store::kv::KvError;
use crate::store::{Revision, StoreError};

/// Cost of a lease, as etcd counts it.
const LEASE_COST: u64 = 64;

impl<B: Backend> Writer<B> {
    /// Runs one such request and answers it. Also returns a failure of the backend.
    pub(super) fn run_alone(&mut self, backend: &B, request: Request) -> Result<(), BackendError> {
        match request {
            Request::Compact(revision, reply) => {
                let done = self.compact(backend, revision);
                answer(done, |done| drop(reply.send(done)))
            }
            Request::Grant { id, ttl, reserved, reply } => {
                let done = self.grant(backend, id, ttl, reserved);
                answer(done, |done| drop(reply.send(done)))
            }
            Request::Revoke(id, reply) => {
                let done = self.revoke(backend, id);
                answer(done, |done| drop(reply.send(done)))
            }
            Request::Expire => {
                let expired = self.shared.leases().expired(runtime::clock::monotonic());
                for id in expired {
                    // A lease that is gone meanwhile counts as revoked.
                    let _ = self.revoke(backend, id)?;
                }
                Ok(())
            }
            Request::SetAlarm(raised, reply) => {
                let done = self.set_alarm(backend, raised);
                answer(done, |done| drop(reply.send(done)))
            }
            Request::Defragment(reply) => {
                // Has no time limit.
                self.heartbeat.pause();
                let done = self.defragment(backend);
                answer(done, |done| drop(reply.send(done)))
            }
            grouped @ (Request::Txn(..) | Request::Each(..) | Request::Transact(..)) => {
                self.commit(backend, vec![grouped])
            }
        }
    }

    fn compact(
        &mut self,
        backend: &B,
        revision: Revision,
    ) -> Result<Result<(), KvError>, BackendError> {
        // The first compaction of an empty store may name revision 0 or below.
        if revision <= self.totals.compacted {
            return Ok(Err(KvError::Compacted));
        }
        if revision > self.totals.revision {
            return Ok(Err(KvError::Future));
        }
        let totals = Totals { compacted: revision, ..self.totals };
        self.store(backend, BTreeMap::new(), Vec::new(), totals)?;
        self.shared.history.compact(revision);
        self.shared.newest.send_modify(|_| {}); // watchers of older revisions end
        Ok(Ok(()))
    }

    fn grant(
        &mut self,
        backend: &B,
        id: i64,
        ttl: i64,
        reserved: bool,
    ) -> Result<Result<(), KvError>, BackendError> {
        let leases = self.shared.clone();
        let mut leases = leases.leases();
        if leases.exists(id) {
            return Ok(Err(KvError::LeaseExists));
        }
        let mut totals = self.totals;
        if !reserved {
            let mut group = Group::new(backend, self.room(), &leases, self.totals);
            let has_room = group.has_room(LEASE_COST);
            totals = group.totals;
            if !has_room {
                self.store(backend, BTreeMap::new(), Vec::new(), totals)?;
                return Ok(Err(StoreError::NoSpace.into()));
            }
        }
        self.store(backend, BTreeMap::new(), vec![lease::granted(id, Some(ttl))], totals)?;
        leases.grant(id, ttl, runtime::clock::monotonic());
        Ok(Ok(()))
    }

    fn revoke(&mut self, backend: &B, id: i64) -> Result<Result<Revision, KvError>, BackendError> {
        let shared = self.shared.clone();
        let mut leases = shared.leases();
        let Some(keys) = leases.keys(id) else { return Ok(Err(KvError::LeaseNotFound)) };
        let mut group = Group::new(backend, self.room(), &leases, self.totals);
        let revision = group.delete_all(&keys)?;
        let batch = group.finish();
        let mut meta: Vec<_> = batch.attachments.iter().map(lease::held).collect();
        meta.push(lease::granted(id, None));
        self.store(backend, batch.writes, meta, batch.totals)?;
        leases.remove(id);
        drop(leases);
        self.publish(batch.changes);
        Ok(Ok(revision))
    }

    fn set_alarm(
        &mut self,
        backend: &B,
        raised: bool,
    ) -> Result<Result<bool, KvError>, BackendError> {
        let changes = self.totals.no_space != raised;
        let totals = Totals { no_space: raised, ..self.totals };
        self.store(backend, BTreeMap::new(), Vec::new(), totals)?;
        Ok(Ok(changes))
    }

    /// Refused without room for a copy of the live data, even if less is enough: operators of etcd
    /// expect an error then.
    fn defragment(&mut self, backend: &B) -> Result<Result<(), KvError>, BackendError> {
        self.shared.pins().clear();
        let free = self.shared.space.free_bytes();
        if *self.shared.state.borrow() == State::DiskFull || free < self.totals.live_bytes {
            return Ok(Err(KvError::Refused(format!(
                "defragmentation needs {} bytes, the file system of the job store has {free}: \
                 make room on it",
                self.totals.live_bytes
            ))));
        }
        backend.compact()?;
        Ok(Ok(()))
    }
}

/// Answers a request with its outcome.
fn answer<T>(
    done: Result<Result<T, KvError>, BackendError>,
    send: impl FnOnce(Result<T, KvError>),
) -> Result<(), BackendError> {
    match done {
        Ok(done) => {
            send(done);
            Ok(())
        }
        Err(error) => {
            send(Err(StoreError::Unavailable(error.to_string()).into()));
            Err(error)
        }
    }
}
