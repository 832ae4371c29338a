//! Keys and values.

use proto::etcd::etcdserverpb::kv_server::Kv;
use proto::etcd::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};
use tonic::{Request, Response, Status};

use super::error::status;
use super::{EtcdApi, answer, request};
use crate::store::Revision;
use crate::store::kv::{Answer, KvError, Operation, Transaction};
use crate::store::query::{Query, Selected};

impl EtcdApi {
    /// Reads on a thread for blocking work: a range may be the whole store.
    async fn select(&self, query: Query) -> Result<(Revision, Selected), Status> {
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || store.range(&query)).await;
        let stopped = |_| Status::unavailable("etcdserver: server stopped");
        read.map_err(stopped)?.map_err(status)
    }

    /// Runs one operation; its answer and the revision.
    async fn run(&self, operation: Operation) -> Result<(Revision, Answer), Status> {
        let transaction = Transaction { then: vec![operation], ..Transaction::default() };
        let mut outcome = self.store.transact(transaction).await.map_err(status)?;
        let answer = outcome.answers.pop().ok_or_else(|| Status::internal("no answer"))?;
        Ok((outcome.revision, answer))
    }
}

#[tonic::async_trait]
impl Kv for EtcdApi {
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        let (revision, found) = self.select(request::range(request.into_inner())?).await?;
        Ok(Response::new(answer::range(self.header(revision), found)))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let put = Operation::Put(request::put(request.into_inner())?);
        let (revision, answer) = self.run(put).await?;
        let Answer::Put { previous } = answer else {
            return Err(Status::internal("no answer of a put"));
        };
        Ok(Response::new(answer::put(self.header(revision), previous)))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let (revision, answer) = self.run(request::delete(request.into_inner())?).await?;
        let Answer::Delete { deleted, previous } = answer else {
            return Err(Status::internal("no answer of a deletion"));
        };
        Ok(Response::new(answer::delete(self.header(revision), deleted, previous)))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let transaction = request::txn(request.into_inner(), self.max_txn_ops)?;
        let done = self.store.transact(transaction).await.map_err(status)?;
        let header = self.header(done.revision);
        Ok(Response::new(answer::txn(header, done.succeeded, done.answers)))
    }

    /// The store keeps no history: nothing is removed, whether `physical` or not.
    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let revision = u64::try_from(request.into_inner().revision);
        let revision = revision.map_err(|_| status(KvError::Compacted))?;
        self.store.compact(revision).await.map_err(status)?;
        Ok(Response::new(CompactionResponse { header: self.current_header() }))
    }
}
