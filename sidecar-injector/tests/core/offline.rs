//! Injection into manifests.

use serde_json::Value;
use sidecar_injector::Change;
use sidecar_injector::offline::{Offline, PodResult, Source};

use crate::setting::{ANCHORS, settings};

/// The manifest's text after injection, and the remarks.
fn inject(text: &str) -> (String, Vec<String>) {
    let settings = settings();
    let offline = Offline {
        settings: &settings,
        trust_anchors: ANCHORS,
        mtls_enabled: true,
        namespace: Some("shop"),
    };
    let source = Source { name: "app.yaml".to_owned(), text: text.to_owned() };
    let outcome = offline.inject(&[source]).unwrap();
    assert!(outcome.rewritten.is_empty(), "{:?}", outcome.rewritten);
    let remarks = outcome.remarks.iter().flat_map(|remark| {
        let result = match &remark.result {
            PodResult::Injected { app_id, .. } => format!("injected {app_id}"),
            PodResult::Unchanged(skip) => format!("{skip:?}"),
            PodResult::Failed(why) => why.clone(),
        };
        let warnings = remark.warnings.iter().map(|text| format!("warning {text}"));
        std::iter::once(result).chain(warnings).map(|text| format!("{}: {text}", remark.subject))
    });
    (outcome.texts.concat(), remarks.collect())
}

/// The output of `helm template` and hand-written YAML, with comments, odd quotes and blank lines.
const CHART: &str = r#"---
# Source: shop/templates/service.yaml
apiVersion: v1
kind: Service
metadata: {name: web}   # as it was
spec:
  ports: [ {port: 80} ]
---
# Source: shop/templates/deployment.yaml
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels:
    app.kubernetes.io/name: 'web'
spec:
  replicas: 2

  selector:
    matchLabels: {app: web}
  template:
    metadata:
      annotations:
        dapr.io/enabled: "true"   # the switch
        dapr.io/app-id: web
        dapr.io/app-prot: "3000"
      labels: {app: web}
    spec:
      containers:
        # the application
        - name: web
          image: "web:1"
          env:
            - name: GREETING
              value: |
                hello
                world

        - {name: helper, image: helper}
      terminationGracePeriodSeconds: 30 # seconds
---
apiVersion: batch/v1
kind: CronJob
metadata:
  name: nightly
  namespace: jobs
spec:
  schedule: "0 3 * * *"
  jobTemplate:
    spec:
      template:
        metadata:
          annotations: {dapr.io/enabled: "yes", dapr.io/app-id: nightly, dapr.io/enable-native-sidecar: "true"}
        spec:
          restartPolicy: Never
          containers:
          - name: job
            image: job:1
---
apiVersion: argoproj.io/v1alpha1
kind: Rollout
metadata:
  name: canary
spec:
  template:
    metadata:
      annotations:
        dapr.io/enabled: "true"
        dapr.io/app-id: canary
    spec:
      volumes: []
      containers:
      - image: c
        name: c
"#;

#[test]
fn a_diff_shows_the_sidecars_and_nothing_else() {
    let (text, remarks) = inject(CHART);
    insta::assert_snapshot!("offline_chart", text);
    insta::assert_snapshot!("offline_chart_remarks", remarks.join("\n"));
    // Every original line remains, in its order; only inline collections grow.
    let grown = ["labels: {app: web}", "annotations: {dapr", "{name: helper", "volumes: []"];
    let mut lines = text.lines();
    for line in CHART.lines().filter(|line| !grown.iter().any(|part| line.contains(part))) {
        assert!(lines.any(|new| new == line), "{line:?} is gone");
    }
}

#[test]
fn a_second_run_changes_nothing() {
    let (once, _) = inject(CHART);
    let (twice, remarks) = inject(&once);
    assert_eq!(once, twice);
    assert!(remarks.iter().all(|text| text.ends_with("AlreadyPresent")), "{remarks:?}");
}

/// The output of `kubectl get -o json`: a List, four blanks per level.
#[test]
fn lists_in_json_stay_json() {
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "x", "annotations": {"dapr.io/enabled": "true"}}, "spec": {"containers": [{"name": "p", "image": "p"}]}},
    ]});
    let pretty = serde_json::to_string_pretty(&list).unwrap();
    let (text, remarks) = inject(&pretty);
    assert_eq!(remarks, ["app.yaml: Pod x/p: injected p"]);
    let read: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(read["items"][1]["spec"]["containers"][1]["name"], "daprd");
    assert_eq!(read["items"][0], list["items"][0]);
    insta::assert_snapshot!(
        "offline_json_head",
        text.lines().take(40).collect::<Vec<_>>().join("\n")
    );
}

#[test]
fn namespaces_and_components_of_the_same_manifests_count() {
    let text = r#"
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels: {dapr.io/injection: enabled}
  annotations: {dapr.io/log-level: debug}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: store
  annotations: {dapr.io/component-container: '{"image": "store:1"}'}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  template:
    metadata:
      annotations:
        dapr.io/app-id: web
        dapr.io/inject-pluggable-components: "true"
    spec:
      containers:
      - name: web
"#;
    let (text, remarks) = inject(text);
    assert_eq!(remarks, ["app.yaml: StatefulSet shop/web: injected web"]);
    assert!(text.contains("- debug\n") && text.contains("image: store:1"), "{text}");
}

#[test]
fn what_the_webhook_would_refuse_is_named_with_its_object() {
    let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  template:\n    metadata: {annotations: {dapr.io/enabled: 'true'}}\n    spec: {containers: [{name: a}]}\n";
    let (same, remarks) = inject(text);
    assert_eq!(same, text);
    assert!(
        remarks[0].starts_with(
            "app.yaml: Deployment shop/web: value for the dapr.io/app-id annotation is empty"
        ),
        "{remarks:?}"
    );
}

#[test]
fn what_is_no_yaml_is_named_by_its_place() {
    let settings = settings();
    let offline = Offline {
        settings: &settings,
        trust_anchors: ANCHORS,
        mtls_enabled: true,
        namespace: None,
    };
    let source = Source { name: "x.yaml".to_owned(), text: "a: 1\n---\nb: [\n".to_owned() };
    assert_eq!(offline.inject(&[source]).unwrap_err().to_string(), "x.yaml, document 2");
}

/// The recipes for service meshes: they are injected without a warning, whether the mesh's own
/// container comes before ours or after it, and their exceptions name ports that sidecars use.
#[rstest::rstest]
#[case("istio-sidecar", include_str!("../../../deploy/samples/mesh/istio-sidecar.yaml"))]
#[case("istio-ambient", include_str!("../../../deploy/samples/mesh/istio-ambient.yaml"))]
#[case("linkerd", include_str!("../../../deploy/samples/mesh/linkerd.yaml"))]
#[case("consul", include_str!("../../../deploy/samples/mesh/consul.yaml"))]
fn recipes_for_meshes_are_injected(#[case] mesh: &str, #[case] text: &str) {
    let (injected, remarks) = inject(text);
    assert_eq!(remarks, [format!("app.yaml: Deployment mesh-{mesh}/orders: injected orders")]);
    let documents: Vec<Value> = serde_saphyr::from_multiple(&injected).unwrap();
    let template = &documents[1]["spec"]["template"];
    assert_eq!(template["spec"]["containers"][1]["name"], "daprd");
    let mut meshed = template.clone();
    let proxy = serde_json::json!({"name": "proxy", "image": "proxy"});
    meshed["spec"]["containers"].as_array_mut().unwrap().insert(0, proxy);
    let settings = settings();
    let again = crate::setting::decide(&meshed, &crate::setting::context(&settings)).unwrap();
    let Change::Complete { patch, .. } = again.change else { panic!("{again:?}") };
    let paths: Vec<String> = patch.0.iter().map(|operation| operation.path().to_string()).collect();
    assert_eq!(paths, ["/spec/containers/0/env"], "only the late container gets its variables");
    let known = ["443", "3501", "50002", "50005"];
    let annotations = template["metadata"]["annotations"].as_object().unwrap();
    for (key, value) in
        annotations.iter().filter(|(key, _)| key.ends_with("ports") || key.ends_with("Ports"))
    {
        let ports = value.as_str().unwrap().split(',');
        assert!(ports.clone().all(|port| known.contains(&port)), "{key}: {value}");
    }
}
