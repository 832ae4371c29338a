//! `daprctl sidecars`: versions and skew of sidecars, their certificates, and the Components that they
//! did not load. Pure.

use dashboard::Metadata;
use jiff::Timestamp;
use resources::images::{minor, tag};
use serde::Serialize;
use serde_json::{Value, json};

use crate::facts::answers::{Answers, Presented, disconnected};
use crate::output::{table, words};
use crate::pods::{Pod, text};

/// The facts.
#[derive(Debug, Clone)]
pub(crate) struct SidecarFacts {
    /// Version of the control plane.
    pub(crate) version: Option<String>,
    /// Pods with a sidecar that have not finished.
    pub(crate) pods: Vec<Pod>,
    /// Components of the same namespaces.
    pub(crate) components: Vec<Value>,
    pub(crate) answers: Answers,
    /// When they were read.
    pub(crate) now: Timestamp,
}

/// The certificate of a sidecar, and how it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Certificate {
    /// SPIFFE id; `null` if it has none.
    id: Option<String>,
    expires: Timestamp,
    /// Whether so little of its life is left that the sidecar should have renewed it.
    #[serde(skip)]
    is_late: bool,
    /// The time left; zero if it has expired.
    #[serde(skip)]
    seconds_left: i64,
}

/// A sidecar. Members are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    namespace: String,
    app_id: String,
    pod: String,
    /// Tag of its image.
    version: String,
    /// Minor versions behind the control plane, negative if it is newer; `null` if unknown.
    minors_behind: Option<i64>,
    ready: bool,
    /// Why its container waits, such as `CrashLoopBackOff`.
    waiting: Option<String>,
    /// Components that it loaded; `null` if it was not asked or did not answer.
    components_loaded: Option<Vec<String>>,
    /// Components of its namespace with it in scope that it did not load.
    components_missing: Option<Vec<String>>,
    /// Its connection to placement.
    placement: Option<String>,
    /// Schedulers that it is connected to.
    schedulers: Option<Vec<String>>,
    /// Services that it has an address of, and no connection to.
    disconnected: Vec<&'static str>,
    /// Why it did not answer.
    error: Option<String>,
    /// `null` without mTLS, and if it was not asked or presented none.
    certificate: Option<Certificate>,
    /// Why there is no certificate although it uses mTLS.
    certificate_error: Option<String>,
}

/// The sidecars in the order of namespace, app id and pod.
pub(crate) fn rows(facts: &SidecarFacts) -> Vec<Row> {
    let mut rows: Vec<Row> = facts.pods.iter().map(|pod| row(pod, facts)).collect();
    rows.sort_by(|a, b| (&a.namespace, &a.app_id, &a.pod).cmp(&(&b.namespace, &b.app_id, &b.pod)));
    rows
}

fn row(pod: &Pod, facts: &SidecarFacts) -> Row {
    let sidecar = pod.sidecar();
    let version = sidecar.map(|sidecar| tag(&sidecar.image)).unwrap_or_default();
    let said = facts.answers.metadata.get(&pod.id());
    let presented = facts.answers.certificates.get(&pod.id());
    let metadata = said.and_then(|said| said.as_ref().ok());
    let loaded = metadata.map(Metadata::components);
    let missing = loaded.as_ref().map(|loaded| {
        let mut wanted = in_scope(pod, &facts.components);
        wanted.retain(|name| !loaded.contains(name));
        wanted
    });
    Row {
        namespace: pod.namespace.clone(),
        app_id: pod.app_id().to_owned(),
        pod: pod.name.clone(),
        version: version.to_owned(),
        minors_behind: behind(facts.version.as_deref().unwrap_or_default(), version),
        ready: sidecar.is_some_and(|sidecar| sidecar.ready),
        waiting: sidecar.and_then(|s| s.waiting.as_ref()).map(|(reason, _)| reason.clone()),
        components_loaded: loaded,
        components_missing: missing,
        placement: metadata.map(|metadata| metadata.placement().to_owned()),
        schedulers: metadata.map(|metadata| metadata.schedulers().to_vec()),
        disconnected: metadata
            .zip(sidecar)
            .map(|(metadata, sidecar)| disconnected(metadata, sidecar.arguments))
            .unwrap_or_default(),
        error: said.and_then(|said| said.as_ref().err()).map(ToString::to_string),
        certificate: presented
            .and_then(|own| own.as_ref().ok())
            .map(|own| Certificate::of(own, facts.now)),
        certificate_error: presented.and_then(|own| own.as_ref().err()).map(ToString::to_string),
    }
}

impl Certificate {
    fn of(said: &Presented, now: Timestamp) -> Self {
        Self {
            id: said.id.clone(),
            expires: said.not_after,
            is_late: said.is_late(now),
            seconds_left: said.seconds_left(now),
        }
    }
}

/// Minor versions between two versions of the same major.
fn behind(control_plane: &str, sidecar: &str) -> Option<i64> {
    let ((major, ours), (other, its)) = (minor(control_plane)?, minor(sidecar)?);
    (major == other).then(|| i64::from(ours) - i64::from(its))
}

/// Names of the Components that an app should load.
fn in_scope(pod: &Pod, components: &[Value]) -> Vec<String> {
    let own = components.iter().filter(|component| {
        let scopes = component.get("scopes").and_then(Value::as_array);
        let scopes: Vec<_> = scopes.into_iter().flatten().filter_map(Value::as_str).collect();
        text(component.pointer("/metadata/namespace")) == pod.namespace
            && (scopes.is_empty() || scopes.contains(&pod.app_id()))
    });
    let mut names: Vec<_> = own.map(|c| text(c.pointer("/metadata/name"))).collect();
    names.sort_unstable();
    names
}

/// Columns as kubectl prints them.
pub(crate) fn to_table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "No pod has a sidecar. Annotate a pod template with dapr.io/enabled: \"true\".\n"
            .to_owned();
    }
    let heading =
        ["NAMESPACE", "APP ID", "POD", "VERSION", "STATE", "COMPONENTS", "CERTIFICATE", "REMARKS"];
    table::columns(heading, rows.iter().map(cells))
}

fn cells(row: &Row) -> [String; 8] {
    let state = match (&row.waiting, row.ready) {
        (Some(reason), _) => reason,
        (None, true) => "ready",
        (None, false) => "not ready",
    };
    let loaded = row.components_loaded.as_ref();
    let components = loaded.map_or("-".to_owned(), |loaded| loaded.len().to_string());
    let certificate = row.certificate.as_ref();
    let certificate = certificate.map_or("-".to_owned(), |own| words::span(own.seconds_left));
    let remarks = remarks(row);
    let row =
        [&row.namespace, &row.app_id, &row.pod, &row.version, state, &components, &certificate];
    let [namespace, app_id, pod, version, state, components, certificate] = row.map(str::to_owned);
    [namespace, app_id, pod, version, state, components, certificate, remarks]
}

fn remarks(row: &Row) -> String {
    let mut remarks = Vec::new();
    match row.minors_behind {
        Some(1) => remarks.push("one minor version behind the control plane".to_owned()),
        Some(n @ 2..) => remarks.push(format!("{n} minor versions behind the control plane")),
        Some(..=-1) => remarks.push("newer than the control plane".to_owned()),
        Some(0) | None => {}
    }
    if let Some(missing) = row.components_missing.as_ref().filter(|missing| !missing.is_empty()) {
        remarks.push(format!("not loaded: {}", missing.join(", ")));
    }
    if !row.disconnected.is_empty() {
        remarks.push(format!("not connected to {}", row.disconnected.join(" and ")));
    }
    match &row.certificate {
        Some(own) if own.seconds_left == 0 => {
            remarks.push("its certificate has expired: look at its log and at sentry".to_owned());
        }
        Some(own) if own.is_late => {
            remarks.push("its certificate was not renewed: look at its log".to_owned());
        }
        _ => {}
    }
    remarks.extend(row.error.clone());
    remarks.extend(row.certificate_error.clone());
    remarks.join("; ")
}

/// One JSON object.
pub(crate) fn to_value(facts: &SidecarFacts, rows: &[Row]) -> Value {
    json!({"controlPlaneVersion": facts.version, "sidecars": rows})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rstest::rstest;

    use super::*;
    use crate::facts::ReadError;

    fn pod(app: &str, version: &str, ready: bool) -> Pod {
        Pod::read(&json!({
            "metadata": {"namespace": "shop", "name": format!("{app}-1"),
                "annotations": {"dapr.io/app-id": app}},
            "spec": {"containers": [{"name": "daprd", "image": format!("r/daprd:{version}")}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "daprd", "ready": ready}]},
        }))
    }

    fn component(name: &str, scopes: &[&str]) -> Value {
        json!({"metadata": {"namespace": "shop", "name": name}, "scopes": scopes})
    }

    /// One sidecar that lacks a Component, an old one that does not answer, one that was not asked.
    fn facts() -> SidecarFacts {
        let answer = json!({"id": "cart", "runtimeVersion": "1.18.3",
            "components": [{"name": "state", "type": "state.redis", "version": "v1"}],
            "actorRuntime": {"runtimeStatus": "RUNNING", "placement": "placement: connected"}});
        let silent = ReadError::Forbidden("get metadata through pods/proxy".to_owned());
        SidecarFacts {
            version: Some("1.18.3".to_owned()),
            pods: vec![
                pod("web", "1.16.0", true),
                pod("cart", "1.18.5", true),
                pod("jobs", "1.19.0", false),
            ],
            components: vec![
                component("state", &[]),
                component("bus", &["cart"]),
                component("other", &["web"]),
            ],
            answers: Answers {
                metadata: BTreeMap::from([
                    ("shop/cart-1".to_owned(), Ok(serde_json::from_value(answer).unwrap())),
                    ("shop/web-1".to_owned(), Err(silent)),
                ]),
                certificates: BTreeMap::from([
                    ("shop/cart-1".to_owned(), Ok(presented(0, 86_400))),
                    ("shop/web-1".to_owned(), Err(ReadError::Forbidden(FORWARD.to_owned()))),
                ]),
            },
            now: Timestamp::constant(3_600, 0),
        }
    }

    const FORWARD: &str = "forward a port of a pod";

    fn presented(not_before: i64, not_after: i64) -> Presented {
        let at = |second| Timestamp::from_second(second).unwrap();
        let id = Some("spiffe://cluster.local/ns/shop/cart".to_owned());
        let (not_before, not_after) = (at(not_before), at(not_after));
        Presented { id, not_before, not_after, chain: Vec::new() }
    }

    /// Column and remarks about a certificate of 10,000 seconds after this many.
    #[rstest]
    #[case(6_000, "1h", "")]
    #[case(9_000, "16m", "its certificate was not renewed: look at its log")]
    #[case(10_000, "0s", "its certificate has expired: look at its log and at sentry")]
    fn a_certificate_that_was_not_renewed_is_said(
        #[case] now: i64,
        #[case] left: &str,
        #[case] remark: &str,
    ) {
        let certificates = BTreeMap::from([("shop/cart-1".to_owned(), Ok(presented(0, 10_000)))]);
        let answers = Answers { certificates, ..Answers::default() };
        let now = Timestamp::from_second(now).unwrap();
        let pods = vec![pod("cart", "1.18.3", true)];
        let facts = SidecarFacts { answers, now, pods, components: vec![], ..facts() };
        let [row] = &rows(&facts)[..] else { unreachable!("one pod") };
        let cells = cells(row);
        assert_eq!((cells[6].as_str(), cells[7].as_str()), (left, remark));
    }

    #[test]
    fn table() {
        insta::assert_snapshot!(to_table(&rows(&facts())));
    }

    #[test]
    fn json() {
        let facts = facts();
        insta::assert_snapshot!(format!("{:#}\n", to_value(&facts, &rows(&facts))));
    }

    #[test]
    fn an_empty_list_says_what_to_do() {
        assert!(to_table(&[]).contains("dapr.io/enabled"));
    }

    #[test]
    fn control_characters_are_not_printed() {
        let mut facts = facts();
        facts.pods = vec![pod("a\u{1b}[31m", "1.18.0", true)];
        assert!(!to_table(&rows(&facts)).contains('\u{1b}'));
    }
}
