//! Authentication, which is off.

use proto::etcd::etcdserverpb::auth_server::Auth;
use proto::etcd::etcdserverpb::{AuthenticateRequest, AuthenticateResponse};
use tonic::{Request, Response, Status};

use super::EtcdApi;
use super::error::Invalid;

#[tonic::async_trait]
impl Auth for EtcdApi {
    async fn authenticate(
        &self,
        _request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        Err(Invalid::NoAuthentication.into())
    }
}
