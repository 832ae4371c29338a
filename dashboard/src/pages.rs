//! The pages: pure functions of what is known to view models, which are both the JSON form and what
//! the HTML shows.
//!
//! Start at [`Site::page`], the frame of every page; each module below is one page or two.

pub(crate) mod actors;
pub(crate) mod app;
pub(crate) mod apps;
pub(crate) mod certificates;
pub(crate) mod control_plane;
pub(crate) mod findings;
pub(crate) mod overview;
pub(crate) mod parts;
pub(crate) mod resource;
pub(crate) mod words;

use crate::html::{Html, el, leaf, link, path, text};
use crate::model::Snapshot;
use crate::model::resource::Kind;

/// What all pages have in common.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    /// Path below which the pages are served; empty for the root.
    pub(crate) base: &'a str,
    pub(crate) snapshot: &'a Snapshot,
}

impl Site<'_> {
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
                &[("id", "main"), ("data-changes", &self.path(["changes"]))],
                [self.notices(), leaf("h1", title), content],
            ),
        ];
        let document = [el("head", &[], head), el("body", &[], body)];
        el("html", &[("lang", "en")], document).into_document()
    }

    fn navigation(&self, current: &str) -> Html {
        let own = [("", "Overview"), ("apps", "Applications")];
        let kinds = Kind::ALL.map(|kind| (kind.plural(), kind.title()));
        let rest = [
            ("actors", "Actors"),
            ("control-plane", "Control plane"),
            ("certificates", "Certificates"),
        ];
        let all = own.into_iter().chain(kinds).chain(rest);
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

    /// What could not be read, so that an empty table is not taken for an empty cluster.
    fn notices(&self) -> Html {
        let failures = self.snapshot.failures();
        let mut notices = Vec::new();
        if !self.snapshot.pods.is_synced && failures.is_empty() {
            let waiting = "The first list of Pods is not complete yet; the page follows.";
            notices.push(el("p", &[("class", "notice"), ("role", "status")], [text(waiting)]));
        }
        notices.extend(failures.into_iter().map(|(what, why)| {
            let words = format!("{what} cannot be read: {why}");
            el("p", &[("class", "notice bad"), ("role", "alert")], [text(words)])
        }));
        notices.into_iter().collect()
    }

    /// A link to the page of an application.
    pub(crate) fn app(&self, namespace: &str, app_id: &str) -> Html {
        link(&self.path(["apps", namespace, app_id]), app_id)
    }

    /// A link to the page of an object.
    pub(crate) fn resource(&self, kind: Kind, namespace: &str, name: &str) -> Html {
        link(&self.path([kind.plural(), namespace, name]), name)
    }
}

/// An answer to a path that does not exist.
pub(crate) fn not_found(site: &Site<'_>, what: &str) -> String {
    let words = format!("{what} does not exist, or not any more.");
    let back = link(&site.path([]), "Overview");
    site.page("-", "Not found", [leaf("p", words), el("p", &[], [back])].into_iter().collect())
}
