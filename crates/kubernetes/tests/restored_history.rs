//! Watches against an API server in this process that becomes unreachable and returns with the
//! history of a backup. The time is tokio's, paused: waiting costs nothing.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::client::Body;
use kube::core::Status;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use kubernetes::{Store, WatchEvent, WatchOptions, Watcher};
use rstest::rstest;
use serde_json::{Value, json};
use testkit::Choice;
use tokio::sync::Notify;

/// Longer than every pause of a watch.
const SETTLED: Duration = Duration::from_mins(5);
/// Longer than the first pauses of a watch, and shorter than its time limit, after which a silent
/// one is replaced.
const SOON: Duration = Duration::from_mins(1);

/// The body of an answer: a list, or the events of a watch.
type Answer = UnsyncBoxBody<Bytes, io::Error>;
/// Name and version of each object.
type Objects = BTreeMap<String, u64>;

/// How the watches end that are cut.
#[derive(Clone, Copy, Debug, Default)]
enum End {
    #[default]
    Complete,
    /// As when the API server is killed.
    Reset,
    /// As when a TLS connection ends without its closing alert.
    Eof,
    /// As when an HTTP/1.1 connection ends within an answer.
    EofInChunk,
}

impl End {
    fn error(self) -> Option<io::Error> {
        match self {
            Self::Complete => None,
            Self::Reset => Some(io::ErrorKind::ConnectionReset.into()),
            Self::Eof => Some(io::ErrorKind::UnexpectedEof.into()),
            Self::EofInChunk => Some(io::Error::other("unexpected EOF during chunk size line")),
        }
    }
}

#[derive(Clone, Default)]
struct State {
    objects: Objects,
    version: u64,
    /// Event type, name and version of each change.
    history: Vec<(&'static str, String, u64)>,
    /// Counts up when all watches are cut.
    connections: u64,
    last_end: End,
    is_away: bool,
    /// The answers to the next requests.
    rejections: Vec<u16>,
    lists: usize,
}

#[derive(Clone, Default)]
struct Server {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

impl Server {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn apply(&self, name: &str) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let known = state.objects.insert(name.to_owned(), version).is_some();
        state.history.push((if known { "MODIFIED" } else { "ADDED" }, name.to_owned(), version));
        self.changed.notify_waiters();
    }

    fn delete(&self, name: &str) {
        let mut state = self.state();
        if state.objects.remove(name).is_some() {
            state.version += 1;
            let version = state.version;
            state.history.push(("DELETED", name.to_owned(), version));
        }
        self.changed.notify_waiters();
    }

    fn cut(&self, end: End) {
        let mut state = self.state();
        (state.connections, state.last_end) = (state.connections + 1, end);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Answers the next `count` requests with this status.
    fn reject(&self, status: u16, count: usize) {
        self.state().rejections = vec![status; count];
    }

    fn set_away(&self, is_away: bool) {
        self.state().is_away = is_away;
    }

    /// Replaces objects and history by those of a backup, and cuts all watches.
    fn restore(&self, backup: &State, end: End) {
        let mut state = self.state();
        state.objects.clone_from(&backup.objects);
        state.history.clone_from(&backup.history);
        state.version = backup.version;
        drop(state);
        self.cut(end);
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { server.answer(&request) }
        });
        Client::new(service, "n")
    }

    fn answer(&self, request: &Request<Body>) -> io::Result<Response<Answer>> {
        let query = request.uri().query().unwrap_or_default();
        let mut state = self.state();
        if state.is_away {
            return Err(io::Error::other("connection refused"));
        }
        if let Some(status) = state.rejections.pop() {
            let body = Status::failure("not ready yet", "Starting").with_code(status);
            let mut answer = Response::new(whole(&body));
            *answer.status_mut() = StatusCode::from_u16(status).unwrap();
            return Ok(answer);
        }
        if !query.contains("watch=true") {
            state.lists += usize::from(!query.contains("limit=1&") && !query.ends_with("limit=1"));
            let items: Vec<Value> = state.objects.iter().map(|(n, v)| object(n, *v)).collect();
            let list = json!({"kind": "ConfigMapList", "apiVersion": "v1", "items": items,
                "metadata": {"resourceVersion": state.version.to_string()}});
            return Ok(Response::new(whole(&list)));
        }
        let from = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="));
        let (from, connections) = (from.unwrap().parse().unwrap(), state.connections);
        drop(state);
        let frames = self
            .clone()
            .events(from, connections)
            .map(|event| event.map(|event| Frame::data(Bytes::from(event.to_string() + "\n"))));
        Ok(Response::new(StreamBody::new(frames).boxed_unsync()))
    }

    /// The changes after a version, until the connection is cut.
    fn events(self, from: u64, connections: u64) -> impl Stream<Item = io::Result<Value>> {
        stream::unfold(Some((self, from)), move |open| async move {
            let (server, from) = open?;
            loop {
                let changed = server.changed.clone();
                let mut woken = pin!(changed.notified());
                woken.as_mut().enable();
                {
                    let state = server.state();
                    if state.connections != connections {
                        return state.last_end.error().map(|error| (Err(error), None));
                    }
                    let next = state.history.iter().find(|(_, _, version)| *version > from);
                    if let Some((kind, name, version)) = next.cloned() {
                        let event = json!({"type": kind, "object": object(&name, version)});
                        drop(state);
                        return Some((Ok(event), Some((server, version))));
                    }
                }
                woken.await;
            }
        })
    }
}

/// A body that is sent as a whole.
fn whole(body: &impl serde::Serialize) -> Answer {
    let bytes = Bytes::from(serde_json::to_vec(body).unwrap());
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn object(name: &str, version: u64) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "n", "resourceVersion": version.to_string()}})
}

fn config_maps(client: Client) -> Api<ConfigMap> {
    Api::namespaced(client, "n")
}

/// Applies the events that arrive in this time to `store`.
async fn settle(
    events: &mut (impl Stream<Item = WatchEvent<ConfigMap>> + Unpin),
    store: &mut Store<String, u64>,
    time: Duration,
) {
    let deadline = tokio::time::Instant::now() + time;
    while let Ok(event) = tokio::time::timeout_at(deadline, events.next()).await {
        let event = event.expect("a watch never ends");
        store.apply(event.map(|found| {
            let version = found.resource_version().unwrap().parse().unwrap();
            (found.name_any(), Some(version))
        }));
    }
}

/// A server with the objects `a` and `b`, and the backup from before `b` and ten more changes.
fn server_with_backup() -> (Server, State) {
    let server = Server::default();
    server.apply("a");
    let backup = server.state().clone();
    for _ in 0..10 {
        server.apply("b");
    }
    (server, backup)
}

#[tokio::test(start_paused = true)]
async fn a_plain_watcher_stays_silent_after_a_restored_history() {
    let (server, backup) = server_with_backup();
    let api = config_maps(server.client());
    let mut events = watcher(api, watcher::Config::default()).boxed();
    while !matches!(events.next().await, Some(Ok(watcher::Event::InitDone))) {}
    let deadline = tokio::time::Instant::now() + SETTLED;
    assert!(tokio::time::timeout_at(deadline, events.next()).await.is_err(), "nothing changed");
    server.restore(&backup, End::Complete);
    server.apply("c");
    let deadline = tokio::time::Instant::now() + SETTLED;
    let silent = tokio::time::timeout_at(deadline, events.next()).await;
    assert!(silent.is_err(), "kube does this now: simplify Watcher; {silent:?}");
}

#[tokio::test(start_paused = true)]
async fn a_restored_history_without_a_failed_request_is_listed() {
    let (server, backup) = server_with_backup();
    let mut events =
        Watcher::paged(server.client()).watch(WatchOptions::new("ConfigMap"), config_maps).boxed();
    let mut store = Store::default();
    settle(&mut events, &mut store, SETTLED).await;
    assert_eq!(*store.objects(), server.state().objects);
    server.restore(&backup, End::Complete);
    server.apply("c");
    settle(&mut events, &mut store, SETTLED).await;
    assert_eq!(store.objects().keys().collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(server.state().lists, 2);
}

#[tokio::test(start_paused = true)]
async fn a_history_that_overtook_the_old_one_during_an_outage_is_listed() {
    let (server, backup) = server_with_backup();
    let mut events =
        Watcher::paged(server.client()).watch(WatchOptions::new("ConfigMap"), config_maps).boxed();
    let mut store = Store::default();
    settle(&mut events, &mut store, SETTLED).await;
    server.set_away(true);
    server.restore(&backup, End::Complete);
    settle(&mut events, &mut store, SETTLED).await;
    assert_eq!(store.objects().keys().collect::<Vec<_>>(), ["a", "b"], "served meanwhile");
    for _ in 0..20 {
        server.apply("c");
    }
    server.set_away(false);
    settle(&mut events, &mut store, SETTLED).await;
    assert_eq!(*store.objects(), server.state().objects);
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn a_restored_api_server_that_rejects_its_first_requests_is_listed(
    #[values(401, 403, 429, 500, 503)] status: u16,
    #[values(1, 2, 3)] requests: usize,
) {
    let (server, backup) = server_with_backup();
    let mut events =
        Watcher::paged(server.client()).watch(WatchOptions::new("ConfigMap"), config_maps).boxed();
    let mut store = Store::default();
    settle(&mut events, &mut store, SETTLED).await;
    server.restore(&backup, End::Complete);
    server.reject(status, requests);
    server.apply("c");
    settle(&mut events, &mut store, SOON).await;
    assert_eq!(*store.objects(), server.state().objects);
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn a_history_that_overtook_the_old_one_behind_a_broken_connection_is_listed(
    #[values(End::Reset, End::Eof, End::EofInChunk)] end: End,
) {
    let (server, backup) = server_with_backup();
    let mut events =
        Watcher::paged(server.client()).watch(WatchOptions::new("ConfigMap"), config_maps).boxed();
    let mut store = Store::default();
    settle(&mut events, &mut store, SETTLED).await;
    server.restore(&backup, end);
    for _ in 0..20 {
        server.apply("c");
    }
    settle(&mut events, &mut store, SETTLED).await;
    assert_eq!(*store.objects(), server.state().objects);
}

#[tokio::test(start_paused = true)]
async fn a_cut_watch_with_the_same_history_is_resumed_without_a_list() {
    let (server, _) = server_with_backup();
    let mut events =
        Watcher::paged(server.client()).watch(WatchOptions::new("ConfigMap"), config_maps).boxed();
    let mut store = Store::default();
    settle(&mut events, &mut store, SETTLED).await;
    server.cut(End::Complete);
    server.apply("c");
    settle(&mut events, &mut store, SETTLED).await;
    assert_eq!(*store.objects(), server.state().objects);
    assert_eq!(server.state().lists, 1);
}

#[tokio::test(start_paused = true)]
async fn objects_are_known_after_any_fault_of_the_api_server() {
    for seed in 0..100 {
        let mut choice = Choice::new(seed);
        let server = Server::default();
        let mut events = Watcher::paged(server.client())
            .watch(WatchOptions::new("ConfigMap"), config_maps)
            .boxed();
        let (mut store, mut backup) = (Store::default(), server.state().clone());
        for _ in 0..30 {
            let name = format!("o{}", choice.below(5));
            let end = choice.pick(&[End::Complete, End::Reset, End::Eof, End::EofInChunk]).unwrap();
            match choice.below(9) {
                0 => server.delete(&name),
                1 => server.cut(end),
                2 => server.set_away(true),
                3 => server.set_away(false),
                4 => backup = server.state().clone(),
                5 => {
                    let status = choice.pick(&[401, 403, 404, 410, 429, 500, 503]).unwrap();
                    server.reject(status, choice.below(4));
                }
                6 => {
                    // Longer than the pause after a watch that ended at once.
                    server.set_away(true);
                    server.restore(&backup, end);
                    settle(&mut events, &mut store, Duration::from_secs(3)).await;
                    server.set_away(false);
                }
                _ => server.apply(&name),
            }
            let pause = [0, 200, 1500, 40_000].map(Duration::from_millis);
            let pause = choice.pick(&pause).unwrap();
            settle(&mut events, &mut store, pause).await;
        }
        server.set_away(false);
        settle(&mut events, &mut store, SETTLED).await;
        assert_eq!(*store.objects(), server.state().objects, "seed {seed}");
    }
}
