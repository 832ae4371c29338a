//! The list of members: one.

use proto::etcd::etcdserverpb::cluster_server::Cluster;
use proto::etcd::etcdserverpb::{Member, MemberListRequest, MemberListResponse};
use tonic::{Request, Response, Status};

use super::EtcdApi;

#[tonic::async_trait]
impl Cluster for EtcdApi {
    async fn member_list(
        &self,
        _request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let own = &self.member;
        let member = Member {
            id: own.id,
            name: own.name.clone(),
            peer_urls: vec![own.peer_url.clone()],
            client_urls: vec![own.client_url.clone()],
            is_learner: false,
        };
        let header = self.current_header();
        Ok(Response::new(MemberListResponse { header, members: vec![member] }))
    }
}
