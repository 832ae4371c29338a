//! The pages over HTTP: routes, the two forms of an answer, live updates.
//!
//! Every request passes [`guard`]; every answer carries its headers.

pub(crate) mod assets;
pub(crate) mod guard;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware;
use axum::response::sse::{Event as ServerEvent, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures::{Stream, StreamExt as _};
use runtime::clock;
use serde::Serialize;
use tokio_stream::wrappers::WatchStream;

use crate::cluster::Cluster;
use crate::html::Html;
use crate::model::Snapshot;
use crate::model::resource::Kind;
use crate::pages::parts::Filter;
use crate::pages::{
    Site, actors, app, apps, certificates, control_plane, not_found, overview, resource,
};
use crate::peers::Peers;

/// Path of the live updates below the base path.
pub(crate) const CHANGES: &str = "/changes";
/// Shortest interval of live updates to one browser.
const LIVE_INTERVAL: Duration = Duration::from_secs(2);

/// What handlers use. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pages {
    pub(crate) cluster: Cluster,
    pub(crate) peers: Peers,
    /// Path below which the pages are served; empty for the root.
    pub(crate) base: Arc<str>,
}

/// All routes, with their guard.
pub(crate) fn router(pages: Pages, guard: guard::Guard) -> Router {
    let base = pages.base.to_string();
    let routes = Router::new()
        .route("/", get(overview))
        .route("/apps", get(list_apps))
        .route("/apps/{namespace}/{app}", get(one_app))
        .route("/actors", get(actors))
        .route("/control-plane", get(control_plane))
        .route("/certificates", get(certificates))
        .route("/assets/{name}", get(assets::serve))
        .route(CHANGES, get(changes))
        .route("/{kind}", get(list_resources))
        .route("/{kind}/{namespace}/{name}", get(one_resource))
        .fallback(missing)
        .with_state(pages);
    let routes = if base.is_empty() { routes } else { below(&base, routes) };
    routes.layer(middleware::from_fn_with_state(Arc::new(guard), guard::check))
}

/// The routes below a path; the path itself leads to the first page with and without a slash.
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

/// One request for a page.
struct Request<'a> {
    site: Site<'a>,
    form: Form,
}

impl<'a> Request<'a> {
    fn new(pages: &'a Pages, snapshot: &'a Snapshot, headers: &HeaderMap) -> Self {
        Self { site: Site { base: &pages.base, snapshot }, form: Form::of(headers) }
    }

    /// The view model in the form that was asked for.
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
        match self.form {
            Form::Json => {
                let body = serde_json::json!({"error": format!("{what} does not exist")});
                (StatusCode::NOT_FOUND, axum::Json(body)).into_response()
            }
            Form::Html => html(StatusCode::NOT_FOUND, not_found(&self.site, what)),
        }
    }
}

fn html(status: StatusCode, document: String) -> Response {
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], document).into_response()
}

async fn overview(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    let snapshot = pages.cluster.snapshot();
    let view = overview::view(&snapshot, clock::now());
    Request::new(&pages, &snapshot, &headers).answer("", "Overview", &view, overview::render)
}

async fn list_apps(
    State(pages): State<Pages>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let snapshot = pages.cluster.snapshot();
    let filter = Filter::parse(query.as_deref().unwrap_or_default());
    let view = apps::view(&snapshot, filter, clock::now());
    Request::new(&pages, &snapshot, &headers).answer("apps", "Applications", &view, apps::render)
}

async fn one_app(
    State(pages): State<Pages>,
    Path((namespace, app_id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let snapshot = pages.cluster.snapshot();
    let answer = match app::question(&snapshot, &namespace, &app_id) {
        Some(question) => Some(pages.peers.ask(question).await),
        None => None,
    };
    let request = Request::new(&pages, &snapshot, &headers);
    match app::view(&snapshot, &namespace, &app_id, answer, clock::now()) {
        Some(view) => request.answer("apps", &app_id, &view, app::render),
        None => request.missing(&format!("Application {namespace}/{app_id}")),
    }
}

async fn actors(
    State(pages): State<Pages>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let snapshot = pages.cluster.snapshot();
    let answers = pages.peers.ask_all(actors::questions(&snapshot)).await;
    let filter = Filter::parse(query.as_deref().unwrap_or_default());
    let view = actors::view(&snapshot, &answers, filter);
    Request::new(&pages, &snapshot, &headers).answer("actors", "Actors", &view, actors::render)
}

async fn control_plane(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    let snapshot = pages.cluster.snapshot();
    let view = control_plane::view(&snapshot, clock::now());
    let request = Request::new(&pages, &snapshot, &headers);
    request.answer("control-plane", "Control plane", &view, |_, view| control_plane::render(view))
}

async fn certificates(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    let snapshot = pages.cluster.snapshot();
    let answers = pages.peers.ask_all(certificates::questions(&snapshot)).await;
    let view = certificates::view(&snapshot, &answers, clock::now());
    let request = Request::new(&pages, &snapshot, &headers);
    request.answer("certificates", "Certificates", &view, |_, view| certificates::render(view))
}

async fn list_resources(
    State(pages): State<Pages>,
    Path(plural): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let snapshot = pages.cluster.snapshot();
    let request = Request::new(&pages, &snapshot, &headers);
    let Some(kind) = Kind::parse(&plural) else {
        return request.missing(&format!("Page {plural}"));
    };
    let filter = Filter::parse(query.as_deref().unwrap_or_default());
    let view = resource::list(&snapshot, kind, filter, clock::now());
    request.answer(kind.plural(), kind.title(), &view, resource::render_list)
}

async fn one_resource(
    State(pages): State<Pages>,
    Path((plural, namespace, name)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let snapshot = pages.cluster.snapshot();
    let request = Request::new(&pages, &snapshot, &headers);
    let Some(kind) = Kind::parse(&plural) else {
        return request.missing(&format!("Page {plural}"));
    };
    let questions = resource::questions(&snapshot, kind, &namespace, &name);
    let (apps, questions): (Vec<_>, Vec<_>) = questions.into_iter().unzip();
    let answers: BTreeMap<_, _> =
        apps.into_iter().zip(pages.peers.ask_all(questions).await).collect();
    match resource::one(&snapshot, (kind, &namespace, &name), &answers, clock::now()) {
        Some(view) => request.answer(kind.plural(), &name, &view, resource::render_one),
        None => request.missing(&format!("{} {namespace}/{name}", kind.name())),
    }
}

async fn missing(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    let snapshot = pages.cluster.snapshot();
    Request::new(&pages, &snapshot, &headers).missing("This page")
}

/// Tells browsers that something changed; they load their page again.
async fn changes(
    State(pages): State<Pages>,
) -> Sse<impl Stream<Item = Result<ServerEvent, Infallible>>> {
    let changes = WatchStream::from_changes(pages.cluster.changes()).then(async |version| {
        tokio::time::sleep(LIVE_INTERVAL).await;
        Ok(ServerEvent::default().data(version.to_string()))
    });
    Sse::new(changes).keep_alive(KeepAlive::default())
}

#[cfg(test)]
mod tests;
