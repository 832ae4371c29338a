//! Behaviour that sidecars since Dapr 1.18.4 rely on, over real connections in this process.

use tonic::codegen::{Service, http};
use tonic::{Code, Status};

use crate::client::{
    LIMIT, SUCCESS, Server, Sidecar, initial, names, of_app, once, schedule, temporary,
};

/// A sidecar of Dapr 1.19 then uses the placement service.
#[tokio::test]
async fn placement_is_refused_with_the_text_of_dapr_1_19() {
    let dir = temporary();
    let server = Server::start(dir.path()).await;
    let path = "/dapr.proto.scheduler.v1.Scheduler/ReportActorTypes";
    let request = http::Request::post(format!("http://{}{path}", server.address))
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::empty())
        .unwrap();
    let mut channel = server.channel();
    std::future::poll_fn(|cx| Service::poll_ready(&mut channel, cx)).await.unwrap();
    let answer = channel.call(request).await.unwrap();
    let status = Status::from_header_map(answer.headers()).unwrap();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(status.message(), "placement is not enabled on this scheduler");
    server.stop().await;
}

/// Dapr 1.18.4: a repeated answer neither ends the stream nor counts for the next trigger.
#[tokio::test]
async fn repeated_ids_are_dropped() {
    let dir = temporary();
    let server = Server::start(dir.path()).await;
    let mut sidecar = Sidecar::open(server.channel(), initial("app", &[])).await;
    sidecar.answer(999_999, SUCCESS).await;
    schedule(&server, of_app("app"), "x", once("0s")).await;
    assert_eq!(sidecar.next().await.unwrap().id, 1);
    for _ in 0..3 {
        sidecar.answer(1, SUCCESS).await;
    }
    schedule(&server, of_app("app"), "y", once("0s")).await;
    let next = sidecar.next().await.unwrap();
    assert_eq!((next.name.as_str(), next.id), ("y", 2), "on the same stream");
    sidecar.answer(1, SUCCESS).await;
    assert_eq!(names(&server, of_app("app")).await, ["y"], "it has no answer yet");
    sidecar.answer(2, SUCCESS).await;
    testkit::until("the job is gone", async || names(&server, of_app("app")).await.is_empty())
        .await;
    server.stop().await;
}

/// A file system that refuses the directory at the start, and recovers.
#[tokio::test]
async fn a_store_that_is_down_at_the_start_is_opened_when_it_is_back() {
    let dir = temporary();
    let own = dir.path().join("default-dapr-scheduler-server-0");
    std::fs::write(&own, "in the way").unwrap();
    let path = dir.path().to_owned();
    let mut server = std::pin::pin!(Server::start(&path));
    for _ in 0..100 {
        let early = std::future::poll_fn(|cx| std::task::Poll::Ready(server.as_mut().poll(cx)));
        assert!(early.await.is_pending(), "it neither serves nor ends");
        tokio::task::yield_now().await;
    }
    std::fs::remove_file(&own).unwrap();
    let server = tokio::time::timeout(LIMIT, server).await.unwrap();
    schedule(&server, of_app("app"), "x", once("1h")).await;
    assert_eq!(names(&server, of_app("app")).await, ["x"]);
    server.stop().await;
}
