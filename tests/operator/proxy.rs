//! A proxy to the API server that delays, rejects, alters or drops requests.
use std::{
    collections::HashSet,
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use blackbox::Scratch;
use bytes::Bytes;
use futures::{
    FutureExt as _, StreamExt as _, TryStreamExt as _,
    stream::{self, PollNext},
};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kube::Client;
use kubernetes::Precedence;
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Runtime, task::JoinSet};
use tokio_util::sync::CancellationToken;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The fault that a request meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The request is forwarded.
    Pass,
    /// The request is forwarded after this time.
    Late(Duration),
    /// `Accept` is ignored: whole objects instead of metadata.
    Deaf,
    /// The response is an error of the API server with this status.
    Refused(u16),
    /// An empty list is `null`, and creation times are absent.
    Bare,
    /// A watch ends after its first data.
    Brief,
    /// A watch ends without an event.
    Empty,
    /// A watch reports that its resource version has expired.
    Gone,
    /// The connection ends without a response.
    Lost,
}

/// A request, for rules.
pub(crate) struct RequestInfo {
    pub(crate) path: String,
    pub(crate) watch: bool,
}

type Rule = Box<dyn Fn(&RequestInfo) -> Fault + Send>;

struct State {
    upstream: Mutex<Client>,
    rule: Mutex<Rule>,
    /// Ends responses in progress.
    cut: Mutex<CancellationToken>,
    spoiled: AtomicUsize,
    paths: Mutex<HashSet<String>>,
    /// Requests that the API server rejected as forbidden.
    forbidden: Mutex<Vec<String>>,
}

/// A proxy to the API server.
pub(crate) struct Proxy {
    state: Arc<State>,
    kubeconfig: PathBuf,
    runtime: Runtime,
    _folder: Scratch,
}

impl Proxy {
    /// A proxy to the API server of a kubeconfig, with its rights; forwards everything.
    pub(crate) fn start(kubeconfig: &Path) -> Result<Self> {
        // Fails only if the same provider is installed already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let runtime = Runtime::new()?;
        let (upstream, listener) = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            anyhow::Ok((upstream(kubeconfig).await?, listener))
        })?;
        let folder = Scratch::new("proxy")?;
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy",
                "cluster": {"server": format!("http://{}", listener.local_addr()?)}}],
            "users": [{"name": "proxy", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
        });
        let state = Arc::new(State {
            upstream: Mutex::new(upstream),
            rule: Mutex::new(Box::new(|_| Fault::Pass)),
            cut: Mutex::default(),
            spoiled: AtomicUsize::new(0),
            paths: Mutex::default(),
            forbidden: Mutex::default(),
        });
        runtime.spawn(accept(listener, state.clone()));
        let kubeconfig = folder.write("kubeconfig", config.to_string())?;
        Ok(Self { state, kubeconfig, runtime, _folder: folder })
    }

    /// A kubeconfig for clients of the proxy.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Applies a rule to all further requests and ends responses in progress.
    pub(crate) fn rule(&self, rule: impl Fn(&RequestInfo) -> Fault + Send + 'static) {
        *lock(&self.state.rule) = Box::new(rule);
        self.state.spoiled.store(0, Ordering::SeqCst);
        self.cut();
    }

    /// Ends responses in progress.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *lock(&self.state.cut)).cancel();
    }

    /// Forwards further requests to another API server.
    pub(crate) fn lead_to(&self, kubeconfig: &Path) -> Result<()> {
        *lock(&self.state.upstream) = self.runtime.block_on(upstream(kubeconfig))?;
        Ok(())
    }

    /// Number of requests with a fault since the last rule.
    pub(crate) fn spoiled(&self) -> usize {
        self.state.spoiled.load(Ordering::SeqCst)
    }

    /// Requests that the API server rejected as forbidden, by method and path.
    pub(crate) fn forbidden(&self) -> Vec<String> {
        lock(&self.state.forbidden).clone()
    }

    /// The path of every request.
    pub(crate) fn paths(&self) -> HashSet<String> {
        lock(&self.state.paths).clone()
    }
}

async fn upstream(kubeconfig: &Path) -> Result<Client> {
    Ok(kubernetes::client(Some(kubeconfig), Precedence::Kubeconfig).await?)
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| answer(state.clone(), request));
            // A client that disconnects, or a request that is dropped.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let query = request.uri().query().unwrap_or_default();
    let asked = RequestInfo {
        path: request.uri().path().to_owned(),
        // A streaming list is the first part of a watch.
        watch: query.contains("watch=true") && !query.contains("sendInitialEvents=true"),
    };
    // Before the rule is read: a response of an old rule ends when a new one is set.
    let cut = lock(&state.cut).clone();
    let fault = (lock(&state.rule))(&asked);
    lock(&state.paths).insert(asked.path);
    if fault != Fault::Pass {
        state.spoiled.fetch_add(1, Ordering::SeqCst);
    }
    let gone = json!({"type": "ERROR", "object": status(410)});
    match fault {
        Fault::Pass | Fault::Deaf | Fault::Brief => forward(&state, request, fault, cut).await,
        Fault::Late(time) => {
            tokio::time::sleep(time).await;
            forward(&state, request, fault, cut).await
        }
        Fault::Bare => {
            let answer = forward(&state, request, fault, cut).await?;
            let (head, body) = answer.into_parts();
            let mut list: Value = serde_json::from_slice(&body.collect().await?.to_bytes())?;
            bare(&mut list);
            Ok(whole(head.status.as_u16(), &list.to_string()))
        }
        Fault::Refused(code) => Ok(whole(code, &status(code).to_string())),
        Fault::Empty => Ok(whole(200, "")),
        Fault::Gone => Ok(whole(200, &format!("{gone}\n"))),
        Fault::Lost => Err(io::Error::other("lost")),
    }
}

fn status(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": "Test", "message": format!("spoiled with {code}"), "code": code})
}

/// A list as some servers serialize it.
fn bare(list: &mut Value) {
    let Some(items) = list["items"].as_array_mut() else { return };
    for item in &mut *items {
        item["metadata"]["creationTimestamp"] = Value::Null;
    }
    if items.is_empty() {
        list["items"] = Value::Null;
    }
}

fn whole(code: u16, text: &str) -> Response<Body> {
    let body = Full::from(text.to_owned()).map_err(|never: Infallible| match never {});
    let answer = Response::builder().status(code).header(CONTENT_TYPE, "application/json");
    answer.header(RETRY_AFTER, "1").body(body.boxed_unsync()).unwrap()
}

async fn forward(
    state: &State,
    request: Request<Incoming>,
    fault: Fault,
    cut: CancellationToken,
) -> io::Result<Response<Body>> {
    let (mut head, body) = request.into_parts();
    for name in [HOST, AUTHORIZATION, CONNECTION] {
        head.headers.remove(name);
    }
    if fault == Fault::Deaf {
        head.headers.remove(ACCEPT);
    }
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let client = lock(&state.upstream).clone();
    let said = format!("{} {}", head.method, head.uri.path());
    let request = Request::from_parts(head, kube::client::Body::from(body.to_vec()));
    let answer = client.send(request).await.map_err(io::Error::other)?;
    if answer.status() == StatusCode::FORBIDDEN {
        lock(&state.forbidden).push(said);
    }
    Ok(answer.map(|body| {
        let data = body.into_data_stream().map_err(io::Error::other).map_ok(Frame::data);
        // Truncated, as when the API server is killed.
        let died = cut.cancelled_owned().map(|()| Err(io::Error::other("cut")));
        let data = stream::select_with_strategy(
            data.map(Some).chain(stream::iter([None])),
            died.map(Some).into_stream(),
            |(): &mut ()| PollNext::Left,
        );
        let parts = if fault == Fault::Brief { 1 } else { usize::MAX };
        let data = data.take(parts).take_while(|part| std::future::ready(part.is_some()));
        BodyExt::boxed_unsync(StreamBody::new(data.filter_map(std::future::ready)))
    }))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
