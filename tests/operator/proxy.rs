//! A way to the API server on which requests are slowed down, refused, answered wrongly or lost.
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

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The API server answers it.
    Pass,
    /// It does after this time.
    Late(Duration),
    /// It does, but does not know `Accept`: whole objects where metadata was asked for.
    Deaf,
    /// The answer is an error with this status, as the API server words it.
    Refused(u16),
    /// It does, but an empty list is `null`, and nobody knows when anything was made.
    Bare,
    /// A watch ends with what comes first of it.
    Brief,
    /// A watch begins and ends without an event.
    Empty,
    /// A watch begins and says that its place is lost.
    Gone,
    /// The connection ends without an answer.
    Lost,
}

/// A request as rules see it.
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) watch: bool,
}

type Rule = Box<dyn Fn(&Asked) -> Fate + Send>;

struct State {
    upstream: Mutex<Client>,
    rule: Mutex<Rule>,
    /// Ends the answers under way.
    cut: Mutex<CancellationToken>,
    spoiled: AtomicUsize,
    paths: Mutex<HashSet<String>>,
    /// Requests that the API server itself refused for want of a right.
    forbidden: Mutex<Vec<String>>,
}

/// A way to the API server.
pub(crate) struct Proxy {
    state: Arc<State>,
    kubeconfig: PathBuf,
    runtime: Runtime,
    _folder: Scratch,
}

impl Proxy {
    /// A way to the API server of a kubeconfig, with its rights, on which everything passes.
    pub(crate) fn start(kubeconfig: &Path) -> Result<Self> {
        // Fails only if it is installed already, which is then the same one.
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
            rule: Mutex::new(Box::new(|_| Fate::Pass)),
            cut: Mutex::default(),
            spoiled: AtomicUsize::new(0),
            paths: Mutex::default(),
            forbidden: Mutex::default(),
        });
        runtime.spawn(accept(listener, state.clone()));
        let kubeconfig = folder.write("kubeconfig", config.to_string())?;
        Ok(Self { state, kubeconfig, runtime, _folder: folder })
    }

    /// The kubeconfig of whoever shall take this way.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// From now on requests are treated like this, and what is under way ends.
    pub(crate) fn rule(&self, rule: impl Fn(&Asked) -> Fate + Send + 'static) {
        *lock(&self.state.rule) = Box::new(rule);
        self.state.spoiled.store(0, Ordering::SeqCst);
        self.cut();
    }

    /// Ends what is under way.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *lock(&self.state.cut)).cancel();
    }

    /// From now on another API server answers.
    pub(crate) fn lead_to(&self, kubeconfig: &Path) -> Result<()> {
        *lock(&self.state.upstream) = self.runtime.block_on(upstream(kubeconfig))?;
        Ok(())
    }

    /// How many requests did not just pass since the last rule was made.
    pub(crate) fn spoiled(&self) -> usize {
        self.state.spoiled.load(Ordering::SeqCst)
    }

    /// What the API server itself refused for want of a right, as method and path.
    pub(crate) fn forbidden(&self) -> Vec<String> {
        lock(&self.state.forbidden).clone()
    }

    /// Every path that was asked for.
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
            // A client that goes away, or a request that is meant to be lost.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let query = request.uri().query().unwrap_or_default();
    let asked = Asked {
        path: request.uri().path().to_owned(),
        // A list may come as the first part of a watch.
        watch: query.contains("watch=true") && !query.contains("sendInitialEvents=true"),
    };
    // Before the rule is looked at: what passes by an old rule is cut when the new one comes.
    let cut = lock(&state.cut).clone();
    let fate = (lock(&state.rule))(&asked);
    lock(&state.paths).insert(asked.path);
    if fate != Fate::Pass {
        state.spoiled.fetch_add(1, Ordering::SeqCst);
    }
    let gone = json!({"type": "ERROR", "object": status(410)});
    match fate {
        Fate::Pass | Fate::Deaf | Fate::Brief => forward(&state, request, fate, cut).await,
        Fate::Late(time) => {
            tokio::time::sleep(time).await;
            forward(&state, request, fate, cut).await
        }
        Fate::Bare => {
            let answer = forward(&state, request, fate, cut).await?;
            let (head, body) = answer.into_parts();
            let mut list: Value = serde_json::from_slice(&body.collect().await?.to_bytes())?;
            bare(&mut list);
            Ok(whole(head.status.as_u16(), &list.to_string()))
        }
        Fate::Refused(code) => Ok(whole(code, &status(code).to_string())),
        Fate::Empty => Ok(whole(200, "")),
        Fate::Gone => Ok(whole(200, &format!("{gone}\n"))),
        Fate::Lost => Err(io::Error::other("lost")),
    }
}

fn status(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": "Test", "message": format!("spoiled with {code}"), "code": code})
}

/// A list as some servers print it.
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
    fate: Fate,
    cut: CancellationToken,
) -> io::Result<Response<Body>> {
    let (mut head, body) = request.into_parts();
    for name in [HOST, AUTHORIZATION, CONNECTION] {
        head.headers.remove(name);
    }
    if fate == Fate::Deaf {
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
        // Cut short, as when the API server dies.
        let died = cut.cancelled_owned().map(|()| Err(io::Error::other("cut")));
        let data = stream::select_with_strategy(
            data.map(Some).chain(stream::iter([None])),
            died.map(Some).into_stream(),
            |(): &mut ()| PollNext::Left,
        );
        let parts = if fate == Fate::Brief { 1 } else { usize::MAX };
        let data = data.take(parts).take_while(|part| std::future::ready(part.is_some()));
        BodyExt::boxed_unsync(StreamBody::new(data.filter_map(std::future::ready)))
    }))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
