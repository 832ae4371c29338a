//! The sidecars that a page about all applications asks.

use std::collections::BTreeMap;

use serde::Serialize;

use super::parts::{Filter, notice};
use crate::html::Html;
use crate::model::Snapshot;
use crate::model::pod::Pod;
use crate::peers::answers::{METADATA, METRICS};
use crate::peers::{AskError, Question, Wanted};

/// Applications whose sidecars a page asks, unless it has a limit of its own; a filter chooses
/// others.
pub(crate) const MAX_ASKED: usize = 64;
/// Applications without an answer that a page names; its JSON has all.
const MAX_NAMED: usize = 20;

/// Namespace and app id.
pub(crate) type App = (String, String);

/// The applications that a page covers.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Coverage {
    /// Applications that were asked.
    asked: usize,
    /// Applications with a sidecar that the filter admits.
    apps: usize,
    /// Applications that did not answer, and why.
    silent: BTreeMap<String, String>,
}

/// What a sidecar is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Metadata,
    Metrics,
}

/// The question to a pod's sidecar; `None` if it has no address or no such port.
pub(crate) fn question(pod: &Pod, subject: Subject) -> Option<Question> {
    let (port, path) = match subject {
        Subject::Metadata => (pod.ports.public, METADATA),
        Subject::Metrics => (pod.ports.metrics?, METRICS),
    };
    Some(Question { address: pod.address?, port, wanted: Wanted::Get(path) })
}

/// One sidecar of each application that the filter admits, in the order of namespace and app id;
/// and how many applications there are.
fn chosen(snapshot: &Snapshot, filter: &Filter, subject: Subject) -> BTreeMap<App, Question> {
    let mut chosen = BTreeMap::new();
    for pod in snapshot.app_pods() {
        let wanted = pod.is_alive() && pod.sidecar().is_some_and(|sidecar| sidecar.is_ready);
        if let (true, Some(question)) = (wanted, question(pod, subject))
            && (filter.namespace.is_empty() || filter.namespace == pod.namespace)
        {
            let app = (pod.namespace.clone(), pod.app_id().to_owned());
            chosen.entry(app).or_insert(question);
        }
    }
    chosen
}

/// The questions of the page, to `most` applications.
pub(crate) fn questions(
    snapshot: &Snapshot,
    filter: &Filter,
    subject: Subject,
    most: usize,
) -> Vec<(App, Question)> {
    chosen(snapshot, filter, subject).into_iter().take(most).collect()
}

/// The coverage of the answers, whatever was read from them.
pub(crate) fn coverage<T>(
    snapshot: &Snapshot,
    filter: &Filter,
    answers: &BTreeMap<App, Result<T, AskError>>,
) -> Coverage {
    let silent = answers.iter().filter_map(|((namespace, app), answer)| {
        let error = answer.as_ref().err()?;
        Some((format!("{namespace}/{app}"), error.to_string()))
    });
    Coverage {
        asked: answers.len(),
        apps: chosen(snapshot, filter, Subject::Metadata).len(),
        silent: silent.collect(),
    }
}

/// A notice about applications that the page does not show.
pub(crate) fn coverage_notice(coverage: &Coverage) -> Html {
    let mut words = Vec::new();
    if coverage.apps > coverage.asked {
        words.push(format!(
            "{} of {} applications were asked: choose a namespace to see the others.",
            coverage.asked, coverage.apps
        ));
    }
    if !coverage.silent.is_empty() {
        let names = coverage.silent.keys().take(MAX_NAMED).map(String::as_str);
        let names = names.collect::<Vec<_>>().join(", ");
        words.push(match coverage.silent.len().saturating_sub(MAX_NAMED) {
            0 => format!("Without an answer: {names}."),
            more => format!("Without an answer: {names}, and {more} more."),
        });
    }
    words.into_iter().map(notice).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// This many applications, each with a sidecar.
    pub(in crate::pages) fn apps(count: usize) -> Snapshot {
        let pod = |number: usize| {
            json!({"metadata": {"namespace": "shop", "name": format!("p{number:03}"),
                "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": format!("a{number:03}")}},
            "spec": {"containers": [{"name": "daprd", "image": "d:1"}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1",
                "containerStatuses": [{"name": "daprd", "ready": true}]}})
        };
        Snapshot::of_pods((0..count).map(pod))
    }

    /// What a page of this many applications says if no sidecar answers.
    fn notice_of(count: usize) -> String {
        let (snapshot, filter) = (apps(count), Filter::default());
        let asked = questions(&snapshot, &filter, Subject::Metrics, MAX_ASKED);
        assert_eq!(asked.len(), count.min(MAX_ASKED));
        let silent = |_| Err::<(), _>(AskError::Address([127, 0, 0, 1].into()));
        let answers = asked.into_iter().map(|(app, question)| (app, silent(question))).collect();
        coverage_notice(&coverage(&snapshot, &filter, &answers)).into_document()
    }

    #[test]
    fn the_number_of_applications_that_are_asked_is_limited_and_said() {
        assert!(!notice_of(MAX_ASKED).contains("applications were asked"));
        assert!(notice_of(MAX_ASKED + 1).contains("64 of 65 applications were asked"));
    }

    #[test]
    fn the_first_applications_without_an_answer_are_named_and_the_others_counted() {
        let all = notice_of(MAX_NAMED);
        assert!(all.contains("shop/a000, ") && all.contains("shop/a019."), "{all}");
        let more = notice_of(MAX_NAMED + 1);
        assert!(more.contains("shop/a019, and 1 more.") && !more.contains("a020"), "{more}");
    }
}
