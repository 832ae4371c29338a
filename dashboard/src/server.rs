//! The pages over HTTP: routes, the two forms of an answer, live updates.
//!
//! Every request passes [`guard`]; every answer carries its headers.

pub(crate) mod assets;
pub(crate) mod guard;
mod logs;
mod permitted;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Router, middleware};
use runtime::clock;
use serde::Serialize;

use crate::cluster::Cluster;
use crate::cluster::logs::Logs;
use crate::cluster::reviews::Reviews;
use crate::html::Html;
use crate::model::kind::Kind;
use crate::model::{Mode, Snapshot};
use crate::pages::parts::Filter;
use crate::pages::sidecars::Subject;
use crate::pages::{
    Site, actors, app, apps, certificates, control_plane, graph, jobs, not_found, overview,
    resource, sidecars, topics,
};
use crate::peers::{Answer, Peers, Question};
use permitted::Permitted;

/// Path of the live updates below the base path.
pub(crate) const CHANGES: &str = "/changes";
/// State of the handlers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pages {
    pub(crate) cluster: Cluster,
    pub(crate) peers: Peers,
    /// With `--logs`.
    pub(crate) logs: Option<Logs>,
    /// With `--auth=token`: the reviews of the rights of users.
    pub(crate) reviews: Option<Reviews>,
    /// Path below which the pages are served; empty for the root.
    pub(crate) base: Arc<str>,
}

/// All routes, with their guard.
pub(crate) fn router(pages: Pages, guard: guard::Guard) -> Router {
    let base = pages.base.to_string();
    let routes = match pages.cluster.mode() {
        Mode::Kubernetes => kubernetes_only(),
        Mode::SelfHosted => instead_of_kubernetes(),
    };
    let routes = routes
        .route("/apps", get(list_apps))
        .route("/apps/{namespace}/{app}", get(one_app))
        .route("/graph", get(graph))
        .route("/topics", get(topics))
        .route("/assets/{name}", get(assets::serve))
        .route(CHANGES, get(logs::changes))
        .route("/{kind}", get(list_resources))
        .route("/{kind}/{namespace}/{name}", get(one_resource))
        .fallback(missing)
        .with_state(pages);
    let routes = if base.is_empty() { routes } else { below(&base, routes) };
    routes.layer(middleware::from_fn_with_state(Arc::new(guard), guard::check))
}

/// The pages about a control plane in a cluster.
fn kubernetes_only() -> Router<Pages> {
    Router::new()
        .route("/", get(overview))
        .route("/actors", get(actors))
        .route("/jobs", get(jobs))
        .route("/control-plane", get(control_plane))
        .route("/certificates", get(certificates))
        .route("/logs/{namespace}/{pod}", get(logs::one_log))
}

/// Without a cluster: the applications are the first page.
fn instead_of_kubernetes() -> Router<Pages> {
    let paths = ["/actors", "/jobs", "/control-plane", "/certificates", "/logs/{namespace}/{pod}"];
    let first = Router::new().route("/", get(list_apps));
    paths.into_iter().fold(first, |routes, path| routes.route(path, get(needs_cluster)))
}

/// The routes below a path. The path without a slash redirects to the first page.
fn below(base: &str, routes: Router) -> Router {
    let first = format!("{base}/");
    let to_first = move || async move { axum::response::Redirect::permanent(&first) };
    let nested = Router::new().route(base, get(to_first));
    let prefix = format!("{base}/");
    let stripped = Router::new().fallback_service(routes);
    nested.nest_service(&prefix, stripped)
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Html,
    Json,
}

impl Form {
    /// JSON if the client asks for it and not for HTML.
    fn of(headers: &HeaderMap) -> Self {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        let accept = accept.unwrap_or_default();
        if accept.contains("application/json") && !accept.contains("text/html") {
            Self::Json
        } else {
            Self::Html
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Filter {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

impl<S: Sync> FromRequestParts<S> for apps::Order {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

impl<S: Sync> FromRequestParts<S> for actors::Asked {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

/// One request for a page.
struct Request<'a> {
    site: Site<'a>,
    form: Form,
}

impl<'a> Request<'a> {
    fn new(pages: &'a Pages, snapshot: &'a Snapshot, headers: &HeaderMap) -> Self {
        let site = Site { has_logs: pages.logs.is_some(), ..Site::new(&pages.base, snapshot) };
        Self { site, form: Form::of(headers) }
    }

    /// The view model in the requested form.
    fn answer<V: Serialize>(
        &self,
        current: &str,
        title: &str,
        view: &V,
        render: impl FnOnce(&Site<'_>, &V) -> Html,
    ) -> Response {
        match self.form {
            Form::Json => axum::Json(view).into_response(),
            Form::Html => {
                html(StatusCode::OK, self.site.page(current, title, render(&self.site, view)))
            }
        }
    }

    fn missing(&self, what: &str) -> Response {
        self.not_found(&format!("{what} does not exist"))
    }

    fn not_found(&self, why: &str) -> Response {
        match self.form {
            Form::Json => {
                let body = serde_json::json!({"error": why});
                (StatusCode::NOT_FOUND, axum::Json(body)).into_response()
            }
            Form::Html => html(StatusCode::NOT_FOUND, not_found(&self.site, why)),
        }
    }
}

fn html(status: StatusCode, document: String) -> Response {
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], document).into_response()
}

async fn overview(
    State(pages): State<Pages>,
    Permitted(snapshot): Permitted,
    headers: HeaderMap,
) -> Response {
    let view = overview::view(&snapshot, clock::now());
    Request::new(&pages, &snapshot, &headers).answer("", "Overview", &view, overview::render)
}

async fn list_apps(
    State(pages): State<Pages>,
    Permitted(snapshot): Permitted,
    filter: Filter,
    order: apps::Order,
    headers: HeaderMap,
) -> Response {
    let metadata = match snapshot.mode {
        Mode::Kubernetes => BTreeMap::new(),
        Mode::SelfHosted => ask_apps(&pages, &snapshot, &filter, Subject::Metadata).await,
    };
    let view = apps::view(&snapshot, &metadata, (filter, order), clock::now());
    Request::new(&pages, &snapshot, &headers).answer("apps", "Applications", &view, apps::render)
}

async fn one_app(
    State(pages): State<Pages>,
    Permitted(snapshot): Permitted,
    Path((namespace, app_id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let questions = app::questions(&snapshot, &namespace, &app_id);
    let ask = async |question: Option<Question>| match question {
        Some(question) => Some(pages.peers.ask(question).await),
        None => None,
    };
    let (metadata, svid) = tokio::join!(ask(questions.metadata), ask(questions.svid));
    let answers = app::Answers { metadata, svid };
    let request = Request::new(&pages, &snapshot, &headers);
    match app::view(&snapshot, &namespace, &app_id, answers, clock::now()) {
        Some(view) => request.answer("apps", &app_id, &view, app::render),
        None => request.missing(&format!("Application {namespace}/{app_id}")),
    }
}

async fn actors(
    State(pages): State<Pages>,
    Permitted(snapshot): Permitted,
    asked: actors::Asked,
    headers: HeaderMap,
) -> Response {
    let answers = pages.peers.ask_all(actors::questions(&snapshot)).await;
    let shown = snapshot.clone();
    let view = tokio::task::spawn_blocking(move || actors::view(&shown, &answers, asked)).await;
    let Ok(view) = view else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    Request::new(&pages, &snapshot, &headers).answer("actors", "Actors", &view, actors::render)
}

/// The answers of one sidecar of each application that the filter admits.
async fn ask_apps(
    pages: &Pages,
    snapshot: &Snapshot,
    filter: &Filter,
    subject: Subject,
) -> BTreeMap<sidecars::App, Answer> {
    let questions = sidecars::questions(snapshot, filter, subject, sidecars::MAX_ASKED);
    pages.peers.ask_by(questions, |_, body| body).await
}

async fn graph(
    State(pages): State<Pages>,
    Permitted(snapshot): Permitted,
    filter: Filter,
    headers: HeaderMap,
) -> Response {
    let (questions, now) = (graph::questions(&snapshot, &filter), clock::now());
    let calls = pages.peers.ask_by(questions, |app, body| graph::calls(app, &body, now)).await;
    let view = graph::view(&snapshot, calls, filter);
    Request::new(&pages, &snapshot, &headers).answer("graph", "Graph", &view, graph::render)
}

async fn topics(
    State(pages): State<Pages>,
    Permitted(snapshot): Permitted,
    filter: Filter,
    headers: HeaderMap,
) -> Response {
    let (metadata, metrics) = tokio::join!(
        ask_apps(&pages, &snapshot, &filter, Subject::Metadata),
        ask_apps(&pages, &snapshot, &filter, Subject::Metrics),
    );
    let view = topics::view(&snapshot, &metadata, &metrics, filter);
    Request::new(&pages, &snapshot, &headers).answer("topics", "Topics", &view, topics::render)
}

async fn jobs(
    State(pages): State<Pages>,
    Permitted(snapshot): Permitted,
    filter: Filter,
    headers: HeaderMap,
) -> Response {
    let [metrics, groups] = jobs::questions(&snapshot);
    let peers = &pages.peers;
    let (metrics, groups) = tokio::join!(peers.ask_all(metrics), peers.ask_all(groups));
    let view = jobs::view(&snapshot, &jobs::Answers { metrics, groups }, filter, clock::now());
    let request = Request::new(&pages, &snapshot, &headers);
    request.answer("jobs", "Jobs and workflows", &view, jobs::render)
}

async fn control_plane(
    State(pages): State<Pages>,
    Permitted(snapshot): Permitted,
    headers: HeaderMap,
) -> Response {
    let view = control_plane::view(&snapshot, clock::now());
    let request = Request::new(&pages, &snapshot, &headers);
    request.answer("control-plane", "Control plane", &view, control_plane::render)
}

async fn certificates(
    State(pages): State<Pages>,
    Permitted(snapshot): Permitted,
    headers: HeaderMap,
) -> Response {
    let answers = pages.peers.ask_all(certificates::questions(&snapshot)).await;
    let view = certificates::view(&snapshot, &answers, clock::now());
    let request = Request::new(&pages, &snapshot, &headers);
    request.answer("certificates", "Certificates", &view, |_, view| certificates::render(view))
}

async fn list_resources(
    State(pages): State<Pages>,
    Permitted(snapshot): Permitted,
    Path(plural): Path<String>,
    filter: Filter,
    headers: HeaderMap,
) -> Response {
    let request = Request::new(&pages, &snapshot, &headers);
    let Some(kind) = Kind::parse(&plural) else {
        return request.missing(&format!("Page {plural}"));
    };
    let view = resource::list(&snapshot, kind, filter, clock::now());
    request.answer(kind.plural(), kind.title(), &view, resource::render_list)
}

async fn one_resource(
    State(pages): State<Pages>,
    Permitted(snapshot): Permitted,
    Path((plural, namespace, name)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let request = Request::new(&pages, &snapshot, &headers);
    let Some(kind) = Kind::parse(&plural) else {
        return request.missing(&format!("Page {plural}"));
    };
    let questions = resource::questions(&snapshot, kind, &namespace, &name);
    let answers = pages.peers.ask_by(questions, |_, body| body).await;
    match resource::one(&snapshot, (kind, &namespace, &name), &answers, clock::now()) {
        Some(view) => request.answer(kind.plural(), &name, &view, resource::render_one),
        None => request.missing(&format!("{} {namespace}/{name}", kind.name())),
    }
}

async fn needs_cluster(
    State(pages): State<Pages>,
    Permitted(snapshot): Permitted,
    headers: HeaderMap,
) -> Response {
    let why = "This page is about a control plane in Kubernetes; dapr dashboard -k or daprctl dashboard opens that of a cluster";
    Request::new(&pages, &snapshot, &headers).not_found(why)
}

async fn missing(
    State(pages): State<Pages>,
    Permitted(snapshot): Permitted,
    headers: HeaderMap,
) -> Response {
    Request::new(&pages, &snapshot, &headers).missing("This page")
}

#[cfg(test)]
mod tests;
