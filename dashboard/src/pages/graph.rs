//! The graph of calls between applications, with rate and errors; components are leaves.
//!
//! [`picture`] draws it.

mod picture;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use super::Site;
use super::parts::{Filter, Level, badge, table};
use super::sidecars::{self, App, Coverage, Subject, coverage, coverage_notice};
use crate::html::{Html, text};
use crate::model::Snapshot;
use crate::peers::samples::{Sample, samples};
use crate::peers::{AskError, Question};
use picture::picture;

/// Applications whose sidecars are asked, so that the page covers an installation of 500.
const MAX_ASKED: usize = 512;

// Names of daprd's metrics (Dapr 1.18).
const SENT: &str = "dapr_runtime_service_invocation_req_sent_total";
const ANSWERED: &str = "dapr_runtime_service_invocation_res_recv_total";
const STARTED: &str = "process_start_time_seconds";
/// Counts of calls to components, with the labels `component` and `success`.
const COMPONENTS: [&str; 7] = [
    "dapr_component_state_count",
    "dapr_component_pubsub_egress_count",
    "dapr_component_output_binding_count",
    "dapr_component_secret_count",
    "dapr_component_configuration_count",
    "dapr_component_crypto_count",
    "dapr_component_conversation_count",
];
/// Counts of messages from components.
const INGRESS: [&str; 2] =
    ["dapr_component_pubsub_ingress_count", "dapr_component_input_binding_count"];

/// One end of an edge.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind", content = "name")]
enum Node {
    App(String),
    Component(String),
}

impl Node {
    fn name(&self) -> &str {
        match self {
            Self::App(name) | Self::Component(name) => name,
        }
    }
}

/// Calls from one to the other.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Edge {
    namespace: String,
    from: Node,
    to: Node,
    calls: f64,
    errors: f64,
    /// Since the sidecar of the caller started; absent if unknown.
    calls_per_second: Option<f64>,
}

/// The view model.
#[derive(Debug, Serialize)]
pub(crate) struct Graph {
    filter: Filter,
    edges: Vec<Edge>,
    coverage: Coverage,
    #[serde(skip)]
    namespaces: BTreeSet<String>,
}

/// The questions of the page.
pub(crate) fn questions(snapshot: &Snapshot, filter: &Filter) -> Vec<(App, Question)> {
    sidecars::questions(snapshot, filter, Subject::Metrics, MAX_ASKED)
}

/// Builds the view model from the calls of each application.
pub(crate) fn view(
    snapshot: &Snapshot,
    calls: BTreeMap<App, Result<Vec<Edge>, AskError>>,
    filter: Filter,
) -> Graph {
    let coverage = coverage(snapshot, &filter, &calls);
    let mut edges: Vec<_> = calls.into_values().flatten().flatten().collect();
    edges.retain(|edge| filter.admits(&edge.namespace, &[edge.from.name(), edge.to.name()]));
    edges.sort_by(|a, b| (&a.namespace, &a.from, &a.to).cmp(&(&b.namespace, &b.from, &b.to)));
    let namespaces = snapshot.app_pods().map(|pod| pod.namespace.clone()).collect();
    Graph { filter, edges, coverage, namespaces }
}

/// The calls that the metrics of an application's sidecar count.
pub(crate) fn calls((namespace, app_id): &App, metrics: &[u8], now: Timestamp) -> Vec<Edge> {
    let mut calls = BTreeMap::<(Node, Node), (f64, f64)>::new();
    let mut started = None;
    let own = Node::App(app_id.clone());
    let known = |name: &str| {
        [SENT, ANSWERED, STARTED].contains(&name)
            || COMPONENTS.contains(&name)
            || INGRESS.contains(&name)
    };
    for sample in samples(metrics, known) {
        let component = || Node::Component(sample.label("component").to_owned());
        let mut count = |from: Node, to: Node, calls_more: f64, errors_more: f64| {
            let (total, errors) = calls.entry((from, to)).or_default();
            *total += calls_more;
            *errors += errors_more;
        };
        let failed = if is_failure(&sample) { sample.value } else { 0.0 };
        match sample.name {
            STARTED => started = Some(sample.value),
            SENT => {
                count(
                    own.clone(),
                    Node::App(sample.label("dst_app_id").to_owned()),
                    sample.value,
                    0.0,
                );
            }
            // Calls are counted when they are sent, errors when they are answered.
            ANSWERED => {
                count(own.clone(), Node::App(sample.label("src_app_id").to_owned()), 0.0, failed);
            }
            name if INGRESS.contains(&name) => {
                count(component(), own.clone(), sample.value, failed);
            }
            _ => count(own.clone(), component(), sample.value, failed),
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact")]
    let uptime = started.map(|at: f64| now.as_second() as f64 - at).filter(|up| *up >= 1.0);
    let edges = calls.into_iter().map(|((from, to), (calls, errors))| Edge {
        namespace: namespace.clone(),
        from,
        to,
        calls,
        errors,
        calls_per_second: uptime.map(|uptime| calls / uptime),
    });
    edges.filter(|edge| edge.calls > 0.0 || edge.errors > 0.0).collect()
}

/// HTTP status codes from 400 on, gRPC codes other than 0, and everything that is not a success.
fn is_failure(sample: &Sample<'_>) -> bool {
    if sample.name == ANSWERED {
        return match sample.label("status").parse::<u16>() {
            Ok(0) => false,
            Ok(status) => !(100..400).contains(&status),
            Err(_) => true,
        };
    }
    match (sample.label("success"), sample.label("process_status")) {
        ("", status) => !matches!(status, "" | "success"),
        (success, _) => success != "true",
    }
}

/// A rate as text.
fn rate(per_second: Option<f64>) -> String {
    match per_second {
        None => "unknown".to_owned(),
        Some(rate) if rate >= 1.0 => format!("{rate:.1} per second"),
        Some(rate) if rate * 60.0 >= 1.0 => format!("{:.1} per minute", rate * 60.0),
        Some(rate) => format!("{:.1} per hour", rate * 3_600.0),
    }
}

/// The page.
pub(crate) fn render(site: &Site<'_>, view: &Graph) -> Html {
    let node = |namespace: &str, node: &Node| match node {
        Node::App(name) => site.app(namespace, name),
        Node::Component(name) => text(format!("Component {name}")),
    };
    let rows = view.edges.iter().map(|edge| {
        let errors = if edge.errors > 0.0 {
            badge(Level::Error, &format!("{:.0}", edge.errors))
        } else {
            text("0")
        };
        vec![
            node(&edge.namespace, &edge.from),
            node(&edge.namespace, &edge.to),
            text(&edge.namespace),
            text(format!("{:.0}", edge.calls)),
            text(rate(edge.calls_per_second)),
            errors,
        ]
    });
    let headings = ["From", "To", "Namespace", "Calls", "Rate", "Errors"];
    let empty = "No calls since the sidecars started. Calls appear when an application invokes another or uses a component, if metrics of sidecars are on.";
    let table = table("Calls since the sidecars started", &headings, rows, empty);
    let form = view.filter.form(view.namespaces.iter().map(String::as_str));
    [form, coverage_notice(&view.coverage), picture(&view.edges), table].into_iter().collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// As daprd 1.18.3 has them.
    const METRICS: &str = "process_start_time_seconds 1000\n\
        dapr_runtime_service_invocation_req_sent_total{app_id=\"one\",dst_app_id=\"two\",type=\"unary\"} 12\n\
        dapr_runtime_service_invocation_res_recv_total{app_id=\"one\",src_app_id=\"two\",status=\"200\",type=\"unary\"} 6\n\
        dapr_runtime_service_invocation_res_recv_total{app_id=\"one\",src_app_id=\"two\",status=\"500\",type=\"unary\"} 6\n\
        dapr_component_state_count{app_id=\"one\",component=\"st\",namespace=\"\",operation=\"set\",success=\"true\"} 1\n\
        dapr_component_state_count{app_id=\"one\",component=\"st\",namespace=\"\",operation=\"get\",success=\"false\"} 2\n\
        dapr_component_pubsub_ingress_count{app_id=\"one\",component=\"bus\",namespace=\"\",process_status=\"drop\",status=\"drop\",topic=\"t\"} 4\n";

    fn graph() -> Graph {
        let app = ("shop".to_owned(), "one".to_owned());
        let now = Timestamp::from_second(1_010).unwrap();
        let calls = calls(&app, METRICS.as_bytes(), now);
        view(&Snapshot::default(), BTreeMap::from([(app, Ok(calls))]), Filter::default())
    }

    #[test]
    fn edges_have_calls_errors_and_a_rate() {
        let edges = graph().edges;
        let found: Vec<_> = edges
            .iter()
            .map(|e| (e.from.name(), e.to.name(), e.calls, e.errors, e.calls_per_second))
            .collect();
        assert_eq!(
            found,
            [
                ("one", "two", 12.0, 6.0, Some(1.2)),
                ("one", "st", 3.0, 2.0, Some(0.3)),
                ("bus", "one", 4.0, 4.0, Some(0.4)),
            ]
        );
    }

    #[test]
    fn the_sidecars_of_a_large_installation_are_asked_and_more_are_counted() {
        for (apps, more) in [(MAX_ASKED, false), (MAX_ASKED + 1, true)] {
            let snapshot = sidecars::tests::apps(apps);
            let asked = questions(&snapshot, &Filter::default());
            assert_eq!(asked.len(), MAX_ASKED);
            let calls = asked.into_iter().map(|(app, _)| (app, Ok(Vec::new()))).collect();
            let view = view(&snapshot, calls, Filter::default());
            let said = coverage_notice(&view.coverage).into_document();
            assert_eq!(said.contains("512 of 513 applications were asked"), more, "{said}");
        }
    }

    #[rstest]
    #[case(None, "unknown")]
    #[case(Some(2.0), "2.0 per second")]
    #[case(Some(0.5), "30.0 per minute")]
    #[case(Some(0.001), "3.6 per hour")]
    fn rates_have_a_readable_unit(#[case] per_second: Option<f64>, #[case] want: &str) {
        assert_eq!(rate(per_second), want);
    }
}
