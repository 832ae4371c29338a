//! The log of a sidecar or of a pod of the control plane.

use serde::Serialize;

use super::parts::{alert, filter_form, filter_text, hint};
use crate::cluster::logs::{LogError, Place};
use crate::html::{Html, el, leaf, text};
use crate::model::Snapshot;
use crate::model::log::{Log, LogLevel, LogLine, lines};

/// The filter of the shown lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LogFilter {
    level: LogLevel,
    /// Part of a line, in any case; empty for all.
    q: String,
}

impl LogFilter {
    /// Reads the query of a URL. Unknown parameters are ignored, long values cut off.
    pub(crate) fn parse(query: &str) -> Self {
        let mut filter = Self { level: LogLevel::Debug, q: String::new() };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match name.as_ref() {
                "level" => filter.level = LogLevel::parse(&value).unwrap_or(filter.level),
                "q" => filter_text(&value).clone_into(&mut filter.q),
                _ => {}
            }
        }
        filter
    }

    fn form(&self) -> Html {
        let options = LogLevel::ALL.map(|level| (level.name(), level.name()));
        filter_form(("At least", "level", self.level.name()), options, &self.q, None)
    }
}

/// The view model.
#[derive(Debug, Serialize)]
pub(crate) struct LogView {
    namespace: String,
    pod: String,
    container: String,
    filter: LogFilter,
    /// Oldest first.
    lines: Vec<LogLine>,
    /// Why there is no log.
    error: Option<String>,
}

/// The container whose log belongs to a pod: its sidecar, or the first one of the control plane's.
/// `None` for an unknown pod.
pub(crate) fn place(snapshot: &Snapshot, namespace: &str, pod: &str) -> Option<Place> {
    let pod = snapshot.pods.find(namespace, pod)?;
    let container = match pod.sidecar() {
        Some(sidecar) => sidecar,
        None => pod.containers.first().filter(|_| snapshot.is_control_plane(pod))?,
    };
    let (namespace, container) = (pod.namespace.clone(), container.name.clone());
    Some(Place { namespace, pod: pod.name.clone(), container })
}

/// Builds the view model.
pub(crate) fn view(place: Place, log: Result<&Log, &LogError>, filter: LogFilter) -> LogView {
    let Place { namespace, pod, container } = place;
    let (lines, error) = match log {
        Ok(log) => (lines(&log.text, filter.level, &filter.q), None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    LogView { namespace, pod, container, filter, lines, error }
}

/// The page.
pub(crate) fn render(view: &LogView) -> Html {
    let what = format!(
        "Container {} of pod {}/{}, the newest lines last. New lines follow.",
        view.container, view.namespace, view.pod
    );
    let log = if let Some(error) = &view.error {
        alert(format!("There is no log to show: {error}."))
    } else if view.lines.is_empty() {
        hint("No line matches. Choose another level or text.")
    } else {
        let lines = view.lines.iter().map(|line| {
            let class = match line.level {
                LogLevel::Error => "error",
                LogLevel::Warning => "warning",
                LogLevel::Info | LogLevel::Debug => "plain",
            };
            el("span", &[("class", class)], [text(&line.text), text("\n")])
        });
        let attributes =
            [("class", "log"), ("tabindex", "0"), ("role", "region"), ("aria-label", "Log")];
        el("pre", &attributes, lines)
    };
    let hint = "Lines that look like they hold a secret are hidden. kubectl logs has older lines.";
    [leaf("p", what), view.filter.form(), log, leaf("p", hint)].into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn snapshot() -> Snapshot {
        let pod = |namespace: &str, name: &str, app: &str, annotations, container: &str| {
            json!({"metadata": {"namespace": namespace, "name": name, "labels": {"app": app},
                "annotations": annotations},
                "spec": {"containers": [{"name": "app"}, {"name": container}]}})
        };
        let asks = json!({"dapr.io/enabled": "true"});
        Snapshot::of_pods([
            pod("shop", "cart", "cart", asks.clone(), "daprd"),
            pod("shop", "late", "late", asks, "other"),
            pod("dapr-system", "sentry", "dapr-sentry", json!({}), "proxy"),
            pod("shop", "fake", "dapr-sentry", json!({}), "proxy"),
        ])
    }

    #[test]
    fn logs_are_those_of_sidecars_and_of_the_control_plane() {
        let snapshot = snapshot();
        let container = |namespace: &str, pod: &str| {
            place(&snapshot, namespace, pod).map(|place| place.container)
        };
        assert_eq!(container("shop", "cart").as_deref(), Some("daprd"));
        assert_eq!(container("dapr-system", "sentry").as_deref(), Some("app"));
        assert_eq!(container("shop", "late"), None, "the application's own log is not shown");
        assert_eq!(container("shop", "fake"), None, "it is in another namespace");
        assert_eq!(container("shop", "none"), None);
    }

    #[test]
    fn a_filter_is_read_from_the_query() {
        let filter = LogFilter::parse("level=warning&q=a+b&x=1");
        assert_eq!((filter.level, filter.q.as_str()), (LogLevel::Warning, "a b"));
        assert_eq!(LogFilter::parse("level=loud").level, LogLevel::Debug);
    }
}
