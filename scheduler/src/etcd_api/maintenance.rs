//! Status, alarm, defragmentation, hashes, snapshots.

use proto::etcd::etcdserverpb::alarm_request::AlarmAction;
use proto::etcd::etcdserverpb::maintenance_server::Maintenance;
use proto::etcd::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    HashKvRequest, HashKvResponse, HashRequest, HashResponse, SnapshotRequest, SnapshotResponse,
    StatusRequest, StatusResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::error::status;
use super::{EtcdApi, TERM, answer, snapshot};
use crate::store::Revision;
use crate::store::kv::KvError;

/// The version of etcd whose API this is. Go clients read three numbers.
const VERSION: &str = "3.5.27";
/// Pieces of a snapshot that are read ahead of the client.
const AHEAD: usize = 2;

impl EtcdApi {
    /// A hash of keys, values and revisions, and its revision.
    async fn hash(&self, revision: Revision) -> Result<(u32, Revision), Status> {
        let view = self.store.view().map_err(|error| status(error.into()))?;
        let current = view.revision();
        if revision > current {
            return Err(status(KvError::Future));
        }
        if revision != 0 && revision < current {
            return Err(status(KvError::Compacted));
        }
        let hash = tokio::task::spawn_blocking(move || snapshot::hash(&*view)).await;
        let stopped = |_| Status::unavailable("etcdserver: server stopped");
        let hash = hash.map_err(stopped)?.map_err(|error| status(error.into()))?;
        Ok((hash, current))
    }
}

#[tonic::async_trait]
impl Maintenance for EtcdApi {
    async fn alarm(
        &self,
        request: Request<AlarmRequest>,
    ) -> Result<Response<AlarmResponse>, Status> {
        let request = request.into_inner();
        let own = request.member_id == 0 || request.member_id == self.member.id;
        let kind = request.alarm();
        let of_space = matches!(kind, AlarmType::Nospace | AlarmType::None);
        let raised = match request.action() {
            AlarmAction::Get => self.store.status().map_err(status)?.no_space && of_space,
            AlarmAction::Activate | AlarmAction::Deactivate if !own => false,
            AlarmAction::Activate if kind == AlarmType::Nospace => {
                self.store.set_alarm(true).await.map_err(status)?;
                true
            }
            AlarmAction::Deactivate if kind == AlarmType::Nospace => {
                self.store.set_alarm(false).await.map_err(status)?
            }
            AlarmAction::Activate | AlarmAction::Deactivate => false,
        };
        let member_id = self.member.id;
        let alarm = AlarmMember { member_id, alarm: AlarmType::Nospace.into() };
        let alarms = if raised { vec![alarm] } else { Vec::new() };
        Ok(Response::new(AlarmResponse { header: self.current_header(), alarms }))
    }

    async fn status(
        &self,
        _request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let found = self.store.status().map_err(status)?;
        let error = || format!("memberID:{} alarm:NOSPACE ", found.member_id);
        Ok(Response::new(StatusResponse {
            header: self.header(found.revision),
            version: VERSION.to_owned(),
            db_size: answer::number(found.disk_bytes),
            leader: found.member_id,
            raft_index: found.sequence,
            raft_term: TERM,
            raft_applied_index: found.sequence,
            errors: if found.no_space { vec![error()] } else { Vec::new() },
            db_size_in_use: answer::number(found.live_bytes),
            is_learner: false,
        }))
    }

    async fn defragment(
        &self,
        _request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        self.store.defragment().await.map_err(status)?;
        Ok(Response::new(DefragmentResponse { header: None }))
    }

    async fn hash(&self, _request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let (hash, revision) = Self::hash(self, 0).await?;
        Ok(Response::new(HashResponse { header: self.header(revision), hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<HashKvRequest>,
    ) -> Result<Response<HashKvResponse>, Status> {
        let asked = u64::try_from(request.into_inner().revision).unwrap_or(0);
        let (hash, revision) = Self::hash(self, asked).await?;
        let compact_revision = answer::number(self.store.status().map_err(status)?.compacted);
        let hash_revision = answer::number(revision);
        let header = self.header(revision);
        Ok(Response::new(HashKvResponse { header, hash, compact_revision, hash_revision }))
    }

    type SnapshotStream = ReceiverStream<Result<SnapshotResponse, Status>>;

    async fn snapshot(
        &self,
        _request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let view = self.store.view().map_err(|error| status(error.into()))?;
        let header = self.header(view.revision());
        let (pieces, answers) = mpsc::channel(AHEAD);
        self.scope.spawn_detached("scheduler-snapshot", async move {
            let send = move || {
                let piece = |remaining_bytes, blob| {
                    let version = VERSION.to_owned();
                    Ok(SnapshotResponse { header, remaining_bytes, blob, version })
                };
                let sent = snapshot::write(&*view, |remaining, blob| {
                    pieces.blocking_send(piece(remaining, blob)).is_ok()
                });
                if let Err(error) = sent {
                    let _ = pieces.blocking_send(Err(status(error.into())));
                }
            };
            // A panic ends the stream, which a client notices by the missing hash.
            let _ = tokio::task::spawn_blocking(send).await;
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}
