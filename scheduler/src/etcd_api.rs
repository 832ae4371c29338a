//! The etcd v3 API on the client port, which the command line of Dapr and `etcdctl` use. Writes
//! here act as calls of the scheduler's own API. Rules, codes and texts: etcd 3.5, by experiment.
//! Start at [`EtcdApi::router`]; `request` checks requests, `error` has the texts, each other file
//! one service.

mod answer;
mod auth;
mod cluster;
mod error;
mod kv;
mod lease;
mod maintenance;
pub(crate) mod request;
mod snapshot;
mod watch;

use std::sync::Arc;

use axum::Router;
use proto::etcd::etcdserverpb::ResponseHeader;
use proto::etcd::etcdserverpb::auth_server::AuthServer;
use proto::etcd::etcdserverpb::cluster_server::ClusterServer;
use proto::etcd::etcdserverpb::kv_server::KvServer;
use proto::etcd::etcdserverpb::lease_server::LeaseServer;
use proto::etcd::etcdserverpb::maintenance_server::MaintenanceServer;
use proto::etcd::etcdserverpb::watch_server::WatchServer;
use runtime::Scope;
use tonic::service::Routes;

use crate::store::Revision;
use crate::store::kv::KeyValue;

/// Largest message in either direction. As the scheduler's own API.
pub(crate) const MAX_MESSAGE_BYTES: usize = i32::MAX as usize;

/// Calls that stay open by design. A defragmentation and a snapshot have no time limit.
pub(crate) const STREAMING: [&str; 4] = [
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Maintenance/Snapshot",
    "/etcdserverpb.Maintenance/Defragment",
];

/// The only term: the single member always leads.
const TERM: u64 = 1;

/// The identity of this member, as etcd reports it.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) cluster_id: u64,
    pub(crate) id: u64,
    /// `--id`.
    pub(crate) name: String,
    /// Its entry of `--etcd-initial-cluster`.
    pub(crate) peer_url: String,
    /// The address of this API.
    pub(crate) client_url: String,
}

/// The services. Cheap to clone.
#[derive(Clone)]
pub(crate) struct EtcdApi {
    pub(crate) store: Arc<dyn KeyValue>,
    pub(crate) member: Arc<Member>,
    /// `--etcd-max-txn-ops`.
    pub(crate) max_txn_ops: usize,
    pub(crate) scope: Scope,
}

impl EtcdApi {
    /// The routes of the client port. Other calls answer `UNIMPLEMENTED`.
    pub(crate) fn router(self) -> Router {
        macro_rules! unlimited {
            ($server:ident) => {
                $server::new(self.clone())
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES)
            };
        }
        Routes::new(unlimited!(KvServer))
            .add_service(unlimited!(WatchServer))
            .add_service(unlimited!(LeaseServer))
            .add_service(unlimited!(MaintenanceServer))
            .add_service(unlimited!(ClusterServer))
            .add_service(unlimited!(AuthServer))
            .into_axum_router()
    }

    #[expect(clippy::unnecessary_wraps, reason = "the form of a message field")]
    fn header(&self, revision: Revision) -> Option<ResponseHeader> {
        let Member { cluster_id, id: member_id, .. } = *self.member;
        let revision = answer::number(revision);
        Some(ResponseHeader { cluster_id, member_id, revision, raft_term: TERM })
    }

    /// The header of an answer that read nothing.
    fn current_header(&self) -> Option<ResponseHeader> {
        self.header(*self.store.newest().borrow())
    }
}
