//! A proxy between a scheduler and its etcd that loses one request, or the answer to it, or does not
//! answer watches.

use std::convert::Infallible;
use std::future::{self, poll_fn};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::client::GrpcService as _;
use tonic::transport::{Channel, Endpoint};

use super::etcd_server::EtcdServer;

const TXN: &str = "/etcdserverpb.KV/Txn";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// What the proxy loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// etcd does not get the request.
    Request,
    /// The client does not get the answer.
    Answer,
}

/// A proxy for all calls.
pub(crate) struct Proxy {
    port: u16,
    state: Arc<State>,
    _runtime: Runtime,
}

#[derive(Default)]
struct State {
    /// Lost once: the transaction that contains this text.
    rule: Mutex<Option<(Lost, String)>>,
    /// Whether the client knows that it has no answer.
    failed: watch::Sender<bool>,
    /// Whether new watches get no answer.
    silent: AtomicBool,
}

impl Proxy {
    pub(crate) fn start(etcd: &EtcdServer) -> Result<Self> {
        let runtime = Runtime::new()?;
        let endpoint = Endpoint::from_shared(format!("http://{}", etcd.endpoint()))?;
        let state = Arc::new(State::default());
        let (listener, etcd) = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            anyhow::Ok((listener, endpoint.connect_lazy()))
        })?;
        let port = listener.local_addr()?.port();
        runtime.spawn(accept(listener, etcd, state.clone()));
        Ok(Self { port, state, _runtime: runtime })
    }

    /// Where schedulers find it.
    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Loses the next transaction that contains this text. The client waits until [`Self::fail`].
    pub(crate) fn lose(&self, lost: Lost, text: &str) {
        self.state.failed.send_replace(false);
        *self.state.rule.lock().unwrap() = Some((lost, text.to_owned()));
    }

    /// The client gets an error instead of the answer.
    pub(crate) fn fail(&self) {
        self.state.failed.send_replace(true);
    }

    /// Watches that begin from now on get no answer.
    pub(crate) fn silence_watches(&self) {
        self.state.silent.store(true, Ordering::Relaxed);
    }

    /// Whether the transaction has arrived.
    pub(crate) fn has_lost(&self) -> bool {
        self.state.rule.lock().unwrap().is_none()
    }
}

async fn accept(listener: TcpListener, etcd: Channel, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, etcd.clone(), state.clone()));
    }
}

async fn serve(stream: TcpStream, etcd: Channel, state: Arc<State>) {
    let service = service_fn(move |request| answer(request, etcd.clone(), state.clone()));
    let server = http2::Builder::new(TokioExecutor::new());
    // Ends with an error when the client disconnects.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    etcd: Channel,
    state: Arc<State>,
) -> Result<Response<Body>, tonic::Status> {
    if request.uri().path() == WATCH && state.silent.load(Ordering::Relaxed) {
        return future::pending().await;
    }
    if request.uri().path() != TXN {
        return forward(request.map(Body::new), etcd).await;
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|error| tonic::Status::from_error(error.into()))?;
    let body = body.to_bytes();
    let lost = state.take(&body);
    let body = Full::new(body).map_err(|never: Infallible| match never {});
    let request = Request::from_parts(head, Body::new(body));
    if lost == Some(Lost::Request) {
        return state.failed().await;
    }
    let answer = forward(request, etcd).await?;
    if lost == Some(Lost::Answer) {
        // All of it: etcd cancels what nobody reads.
        let _ = answer.into_body().collect().await;
        return state.failed().await;
    }
    Ok(answer)
}

async fn forward(
    request: Request<Body>,
    mut etcd: Channel,
) -> Result<Response<Body>, tonic::Status> {
    let failed = |error: tonic::transport::Error| tonic::Status::from_error(error.into());
    poll_fn(|cx| etcd.poll_ready(cx)).await.map_err(failed)?;
    etcd.call(request).await.map_err(failed)
}

impl State {
    /// The fault of a transaction, once.
    fn take(&self, body: &Bytes) -> Option<Lost> {
        let has = |text: &str| body.windows(text.len()).any(|part| part == text.as_bytes());
        let mut rule = self.rule.lock().unwrap();
        rule.take_if(|(_, text)| has(text)).map(|(lost, _)| lost)
    }

    /// The error of an etcd whose leader is lost, when the test says so.
    async fn failed(&self) -> Result<Response<Body>, tonic::Status> {
        let _ = self.failed.subscribe().wait_for(|failed| *failed).await;
        Ok(tonic::Status::unavailable("etcdserver: request timed out").into_http())
    }
}
