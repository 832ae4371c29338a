//! The pages: pure functions of a snapshot to view models, which are the JSON form and the input of
//! the HTML.
//!
//! Start at [`Site::page`], the frame of every page; each module below is one page or two.

pub(crate) mod actors;
pub(crate) mod app;
pub(crate) mod apps;
pub(crate) mod certificates;
pub(crate) mod control_plane;
pub(crate) mod findings;
pub(crate) mod graph;
pub(crate) mod jobs;
pub(crate) mod logs;
pub(crate) mod overview;
pub(crate) mod parts;
pub(crate) mod resource;
pub(crate) mod sidecars;
pub(crate) mod topics;
pub(crate) mod words;

use self::parts::{alert, notice};
use crate::html::{Html, el, leaf, link, path, text};
use crate::model::access::MAX_NAMESPACES;
use crate::model::kind::Kind;
use crate::model::{Mode, Snapshot};

/// State shared by all pages.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    /// Path below which the pages are served; empty for the root.
    pub(crate) base: &'a str,
    pub(crate) snapshot: &'a Snapshot,
    /// Whether pages link to logs.
    pub(crate) has_logs: bool,
    /// The log that the page follows; other pages follow the cluster.
    pub(crate) followed: Option<FollowedLog<'a>>,
}

/// The log that a page follows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FollowedLog<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) pod: &'a str,
    /// Time of the last line that the page shows.
    pub(crate) seen: Option<&'a str>,
}

impl<'a> Site<'a> {
    /// Without logs.
    pub(crate) fn new(base: &'a str, snapshot: &'a Snapshot) -> Self {
        Self { base, snapshot, has_logs: false, followed: None }
    }

    /// A path of these segments.
    pub(crate) fn path<'s>(&self, segments: impl IntoIterator<Item = &'s str>) -> String {
        let path = path(self.base, segments);
        // A proxy that serves the base path may redirect without the slash.
        if path == self.base { format!("{path}/") } else { path }
    }

    /// The document. `current` is the first segment of its path.
    pub(crate) fn page(&self, current: &str, title: &str, content: Html) -> String {
        let asset = |name: &str| self.path(["assets", name]);
        let head = [
            el("meta", &[("charset", "utf-8")], []),
            el(
                "meta",
                &[("name", "viewport"), ("content", "width=device-width, initial-scale=1")],
                [],
            ),
            leaf("title", format!("{title} – Dapr dashboard")),
            el("link", &[("rel", "icon"), ("href", &asset("icon.svg"))], []),
            el("link", &[("rel", "stylesheet"), ("href", &asset("style.css"))], []),
            el("script", &[("src", &asset("live.js")), ("defer", "")], []),
        ];
        let body = [
            el("a", &[("class", "skip"), ("href", "#main")], [text("Skip to content")]),
            el("header", &[], [leaf("strong", "Dapr"), self.navigation(current)]),
            el(
                "main",
                &[("id", "main"), ("data-changes", &self.changes())],
                [self.notices(), leaf("h1", title), content],
            ),
        ];
        let document = [el("head", &[], head), el("body", &[], body)];
        el("html", &[("lang", "en")], document).into_document()
    }

    /// The URL of the live updates of a page.
    fn changes(&self) -> String {
        let path = self.path(["changes"]);
        let Some(log) = self.followed else { return path };
        let place = [("namespace", log.namespace), ("pod", log.pod)];
        let query = place.into_iter().chain(log.seen.map(|seen| ("seen", seen)));
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        format!("{path}?{query}")
    }

    fn navigation(&self, current: &str) -> Html {
        let own =
            [("", "Overview"), ("apps", "Applications"), ("graph", "Graph"), ("topics", "Topics")];
        let kinds = Kind::ALL.map(|kind| (kind.plural(), kind.title()));
        let rest = [
            ("actors", "Actors"),
            ("jobs", "Jobs and workflows"),
            ("control-plane", "Control plane"),
            ("certificates", "Certificates"),
        ];
        let all = own.into_iter().chain(kinds).chain(rest);
        let is_here = |segment: &str| match self.snapshot.mode {
            Mode::Kubernetes => true,
            Mode::SelfHosted => !segment.is_empty() && !rest.iter().any(|(own, _)| *own == segment),
        };
        let all = all.filter(|(segment, _)| is_here(segment));
        let items = all.map(|(segment, title)| {
            let href = self.path(Some(segment).filter(|segment| !segment.is_empty()));
            let mut attributes = vec![("href", href.as_str())];
            if segment == current {
                attributes.push(("aria-current", "page"));
            }
            el("li", &[], [el("a", &attributes, [text(title)])])
        });
        el("nav", &[("aria-label", "Pages")], [el("ul", &[], items)])
    }

    /// Names failed reads, so that an empty table does not look like an empty cluster.
    fn notices(&self) -> Html {
        let failures = self.snapshot.failures();
        let mut notices = Vec::new();
        if !self.snapshot.pods.is_synced && failures.is_empty() {
            let waiting = "The first list of Pods is not complete yet; the page follows.";
            notices.push(notice(waiting));
        }
        let failures = failures.into_iter();
        notices.extend(failures.map(|(what, why)| alert(format!("{what} cannot be read: {why}"))));
        if self.snapshot.visible.as_ref().is_some_and(|visible| visible.is_cut) {
            let words = format!(
                "Your rights were asked for in {MAX_NAMESPACES} namespaces, in the order of their names; what is in the others is not shown. A right in all namespaces shows it."
            );
            notices.push(notice(words));
        }
        notices.into_iter().collect()
    }

    /// A link to the page of an application.
    pub(crate) fn app(&self, namespace: &str, app_id: &str) -> Html {
        link(&self.path(["apps", namespace, app_id]), app_id)
    }

    /// The name of a pod, with a link to its log where there is one.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Html {
        if self.has_logs && logs::place(self.snapshot, namespace, name).is_some() {
            link(&self.path(["logs", namespace, name]), name)
        } else {
            text(name)
        }
    }

    /// A link to the page of an object.
    pub(crate) fn resource(&self, kind: Kind, namespace: &str, name: &str) -> Html {
        link(&self.path([kind.plural(), namespace, name]), name)
    }
}

/// An answer to a path without a page.
pub(crate) fn not_found(site: &Site<'_>, why: &str) -> String {
    let back = link(&site.path([]), "First page");
    site.page(
        "-",
        "Not found",
        [leaf("p", format!("{why}.")), el("p", &[], [back])].into_iter().collect(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::access::Visible;

    #[test]
    fn namespaces_that_were_not_asked_about_are_said() {
        for (namespaces, is_cut) in [(MAX_NAMESPACES, false), (MAX_NAMESPACES + 1, true)] {
            let all = Snapshot::of_pods((0..namespaces).map(|number| {
                json!({"metadata": {"namespace": format!("n{number}"), "name": "p",
                    "annotations": {"dapr.io/enabled": "true"}}})
            }));
            let mut visible = Visible::default();
            visible.open_questions(&all);
            let snapshot = visible.restrict(&all);
            let page = Site::new("", &snapshot).page("", "t", Html::default());
            assert_eq!(page.contains("500 namespaces"), is_cut, "{page}");
        }
    }
}
