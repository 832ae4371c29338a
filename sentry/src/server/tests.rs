//! Limits of requests.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use prometheus::Registry;
use tonic::codegen::Service as _;

use super::*;
use crate::ca::settings::Settings;

fn service() -> CaService {
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let authority = Authority::new(Settings::default());
    CaService::new(
        Authenticator::Insecure,
        authority,
        None,
        metrics,
        "dapr-system".to_owned(),
        Vec::new(),
    )
}

fn request(body: Body) -> Request<Body> {
    Request::post("/dapr.proto.sentry.v1.CA/SignCertificate")
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap()
}

async fn status(body: Body) -> String {
    let response = router(service()).call(request(body)).await.unwrap();
    let status = response.headers().get("grpc-status").unwrap();
    status.to_str().unwrap().to_owned()
}

/// A gRPC frame that announces `len` bytes and contains none.
fn announces(len: usize) -> Body {
    let mut frame = vec![0];
    frame.extend(u32::try_from(len).unwrap().to_be_bytes());
    let never = futures::stream::pending();
    let first = futures::stream::once(async move { Ok::<_, Infallible>(Bytes::from(frame)) });
    Body::from_stream(futures::StreamExt::chain(first, never))
}

#[tokio::test]
async fn a_request_above_the_size_limit_is_rejected_by_its_header() {
    let out_of_range = "11";
    assert_eq!(status(announces(MAX_REQUEST_BYTES + 1)).await, out_of_range);
    let at_the_limit = status(announces(MAX_REQUEST_BYTES));
    tokio::pin!(at_the_limit);
    assert!(futures::poll!(at_the_limit.as_mut()).is_pending(), "its body is read");
}

#[test]
fn the_port_limits_unauthenticated_peers() {
    let limits = limits();
    assert_eq!(limits.body_bytes, MAX_REQUEST_BYTES + GRPC_HEADER_BYTES);
    assert_eq!(limits.streams_unauthenticated, 16);
    assert!(limits.request > RESPONSE_DEADLINE, "a request that is processed in time is answered");
}
