//! Leases.

use std::pin::Pin;

use futures::StreamExt as _;
use proto::etcd::etcdserverpb::lease_server::Lease;
use proto::etcd::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use tonic::{Request, Response, Status, Streaming};

use super::EtcdApi;
use super::error::{Invalid, status};
use crate::store::MAX_TTL;

#[tonic::async_trait]
impl Lease for EtcdApi {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let LeaseGrantRequest { ttl, id } = request.into_inner();
        if ttl > MAX_TTL {
            return Err(Invalid::LeaseTtl.into());
        }
        let lease = self.store.grant(id, ttl, false).await.map_err(status)?;
        let (header, error) = (self.current_header(), String::new());
        Ok(Response::new(LeaseGrantResponse { header, id: lease.id, ttl: lease.ttl, error }))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let revision = self.store.revoke(request.into_inner().id).await.map_err(status)?;
        Ok(Response::new(LeaseRevokeResponse { header: self.header(revision) }))
    }

    type LeaseKeepAliveStream =
        Pin<Box<dyn futures::Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let (api, token) = (self.clone(), self.scope.token().clone());
        let answers = request.into_inner().map(move |asked| {
            let id = asked?.id;
            // A missing lease is not an error: its TTL is 0.
            let ttl = api.store.keep_alive(id).unwrap_or(0);
            Ok(LeaseKeepAliveResponse { header: api.current_header(), id, ttl })
        });
        let answers = answers.take_until(async move { token.cancelled().await });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let header = self.current_header();
        let found = self.store.leases(Some(id)).pop();
        let answer = found.map_or_else(
            || LeaseTimeToLiveResponse { id, ttl: -1, ..LeaseTimeToLiveResponse::default() },
            |lease| LeaseTimeToLiveResponse {
                header: None,
                id,
                ttl: lease.remaining,
                granted_ttl: lease.ttl,
                keys: if keys { lease.keys } else { Vec::new() },
            },
        );
        Ok(Response::new(LeaseTimeToLiveResponse { header, ..answer }))
    }

    async fn lease_leases(
        &self,
        _request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let leases = self.store.leases(None);
        let leases = leases.into_iter().map(|lease| LeaseStatus { id: lease.id }).collect();
        Ok(Response::new(LeaseLeasesResponse { header: self.current_header(), leases }))
    }
}
