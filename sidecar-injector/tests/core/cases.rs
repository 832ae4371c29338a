//! Manifests from public reports (`tests/fixtures/cases`), and others of each kind.

use rstest::rstest;
use serde_json::{Value, json};
use sidecar_injector::offline::{Offline, PodResult, Remark, Source};

use crate::setting::{ANCHORS, container, context, decide, inject, patched, pod, settings};

macro_rules! case {
    ($path:literal) => {
        include_str!(concat!("../../../tests/fixtures/cases/", $path))
    };
}

/// The documents after offline injection, and the remarks.
fn offline(text: &str) -> (Vec<Value>, Vec<Remark>) {
    let settings = settings();
    let offline = Offline {
        settings: &settings,
        trust_anchors: ANCHORS,
        mtls_enabled: true,
        namespace: Some("fallback"),
    };
    let source = Source { name: "f.yaml".to_owned(), text: text.to_owned() };
    let outcome = offline.inject(&[source]).unwrap();
    let documents = serde_saphyr::from_multiple(&outcome.texts.concat()).unwrap();
    (documents, outcome.remarks)
}

fn sidecar_of(template: &Value) -> Value {
    container(template, "daprd")
}

fn warnings(remarks: &[Remark], subject: &str) -> String {
    let remark = remarks.iter().find(|remark| remark.subject.contains(subject)).unwrap();
    let failed = match &remark.result {
        PodResult::Failed(why) => why.clone(),
        _ => String::new(),
    };
    [vec![failed], remark.warnings.clone()].concat().join("\n")
}

/// Case 04. The API server rejects these members on a pod whose `spec.os` is Windows.
#[rstest]
#[case::plain(json!({}), json!({"runAsNonRoot": true}))]
#[case::seccomp(
    json!({"dapr.io/sidecar-seccomp-profile-type": "RuntimeDefault"}),
    json!({"runAsNonRoot": true})
)]
#[case::certificates(
    json!({"dapr.io/env": "SSL_CERT_DIR=c:/certs"}),
    json!({"runAsNonRoot": false, "windowsOptions": {"runAsUserName": "ContainerAdministrator"}})
)]
fn a_windows_sidecar_has_no_linux_fields(#[case] annotations: Value, #[case] want: Value) {
    let mut settings = settings();
    settings.security.drop_all = true;
    settings.security.run_as_user = Some(1000);
    settings.security.run_as_group = Some(1000);
    let mut pod = pod(&annotations);
    pod["spec"]["os"] = json!({"name": "windows"});
    let sidecar = sidecar_of(&patched(&pod, &context(&settings)));
    assert_eq!(sidecar["securityContext"], want);
}

#[test]
fn case_04_windows_pod_os() {
    let (documents, remarks) = offline(case!("04-windows-pod-os/pod.yaml"));
    let sidecar = sidecar_of(&documents[0]["spec"]["template"]);
    assert_eq!(sidecar["securityContext"], json!({"runAsNonRoot": true}));
    assert_eq!(warnings(&remarks, "cashier"), "");
}

#[test]
fn case_05_octal_modes_are_kept_when_a_document_is_written_from_scratch() {
    let text = case!("05-octal-modes-rewritten/rewritten.yaml");
    let (documents, _) = offline(text);
    let volumes = &documents[0]["spec"]["template"]["spec"]["volumes"];
    assert_eq!(volumes[0]["secret"]["defaultMode"], 256);
}

/// Case 13. NAMESPACE is that of the innermost object.
#[test]
fn case_13_manifest_work() {
    let (documents, remarks) = offline(case!("13-objects-inside-objects/manifestwork.yaml"));
    let object = &documents[0]["spec"]["workload"]["manifests"][0];
    let sidecar = sidecar_of(&object["spec"]["template"]);
    assert_eq!(sidecar["env"][0], json!({"name": "NAMESPACE", "value": "orchard"}));
    assert_eq!(remarks[0].subject, "f.yaml: Deployment orchard/depot");
    let PodResult::Injected { patch, target, .. } = &remarks[0].result else { panic!() };
    assert_eq!(target["kind"], "ManifestWork", "kustomize selects the outermost object");
    assert!(patch.0[0].path().to_string().starts_with("/spec/workload/manifests/0/spec/template"));
}

#[test]
fn case_13_components_and_namespaces_inside_objects_apply() {
    let text = r#"
apiVersion: work.open-cluster-management.io/v1
kind: ManifestWork
metadata: {name: depot, namespace: cluster-north}
spec:
  workload:
    manifests:
    - apiVersion: v1
      kind: Namespace
      metadata: {name: orchard, annotations: {dapr.io/log-level: debug}}
    - apiVersion: dapr.io/v1alpha1
      kind: Component
      metadata:
        name: store
        namespace: orchard
        annotations: {dapr.io/component-container: '{"image": "store:1"}'}
    - apiVersion: v1
      kind: Pod
      metadata:
        name: depot
        namespace: orchard
        annotations: {dapr.io/enabled: "true", dapr.io/inject-pluggable-components: "true"}
      spec: {containers: [{name: depot}]}
"#;
    let (documents, remarks) = offline(text);
    let pod = &documents[0]["spec"]["workload"]["manifests"][2];
    assert_eq!(container(pod, "store")["image"], "store:1", "{remarks:?}");
    let args = sidecar_of(pod)["args"].to_string();
    assert!(args.contains(r#""--log-level","debug""#), "{args}");
}

#[test]
fn case_13_a_parameter_of_a_template_is_rejected() {
    let (_, remarks) = offline(case!("13-objects-inside-objects/openshift-template.yaml"));
    assert_eq!(
        warnings(&remarks, "orchard/depot"),
        "dapr.io/app-port: \"${PORT}\" refers to a parameter of the Template; run `oc process` first and inject its output"
    );
}

#[test]
fn case_15_policies_are_not_injected() {
    let (documents, remarks) = offline(case!("15-policies-that-look-like-pods/kyverno.yaml"));
    assert_eq!(remarks.len(), 1, "{remarks:?}");
    let original: Vec<Value> =
        serde_saphyr::from_multiple(case!("15-policies-that-look-like-pods/kyverno.yaml")).unwrap();
    assert_eq!(documents[0], original[0]);
    assert_eq!(sidecar_of(&documents[1]["spec"]["template"])["name"], "daprd");
}

#[test]
fn case_16_ports_of_daprd_that_the_pod_uses() {
    let (_, remarks) = offline(case!("16-ports-already-taken/pods.yaml"));
    insta::assert_snapshot!(warnings(&remarks, "gateway").trim(), @"
    port 9090 of container gateway is also the metrics port of daprd, so one of them cannot start; set dapr.io/metrics-port to another port
    port 50001 of container agent is also the gRPC API of daprd, so one of them cannot start; set dapr.io/grpc-port to another port
    port 3500 of container agent is also the HTTP API of daprd, so one of them cannot start; change the port of the container
    ");
    insta::assert_snapshot!(warnings(&remarks, "edge").trim(), @"hostNetwork: daprd uses ports 3500, 3501, 9090, 50001, 50002 of the node, so a node can run one such pod, and no other process on these ports");
}

#[rstest]
#[case::moved(json!({"dapr.io/metrics-port": "9091"}), json!({"ports": [{"containerPort": 9090}]}), 0)]
#[case::no_metrics(json!({"dapr.io/enable-metrics": "false"}), json!({"ports": [{"containerPort": 9090}]}), 0)]
#[case::udp(json!({}), json!({"ports": [{"containerPort": 9090, "protocol": "UDP"}]}), 0)]
#[case::debugger(json!({"dapr.io/enable-debug": "true"}), json!({"ports": [{"containerPort": 40000}]}), 1)]
fn port_conflicts_follow_the_annotations(
    #[case] annotations: Value,
    #[case] ports: Value,
    #[case] want: usize,
) {
    let mut pod = pod(&annotations);
    pod["spec"]["containers"][0]["ports"] = ports["ports"].clone();
    assert_eq!(inject(&pod, &context(&settings())).1.len(), want);
}

#[rstest]
#[case::ends_before_daprd_starts(json!({}), 0)]
#[case::native_sidecar(json!({"restartPolicy": "Always"}), 1)]
fn init_containers_conflict_if_they_keep_running(#[case] init: Value, #[case] want: usize) {
    let mut pod = pod(&json!({}));
    let mut container = json!({"name": "proxy", "ports": [{"containerPort": 3501}]});
    for (key, value) in init.as_object().unwrap() {
        container[key] = value.clone();
    }
    pod["spec"]["initContainers"] = json!([container]);
    assert_eq!(inject(&pod, &context(&settings())).1.len(), want);
}

const NO_STORE: &str = "--disable-builtin-k8s-secret-store";

#[test]
fn case_17_no_service_account_token() {
    let (documents, remarks) = offline(case!("17-no-service-account-token/pod.yaml"));
    for (document, name) in [(1, "by-account"), (2, "by-pod")] {
        let sidecar = sidecar_of(&documents[document]["spec"]["template"]);
        assert!(sidecar["args"].to_string().contains(NO_STORE), "{name}");
        let text = warnings(&remarks, name);
        assert!(
            text.contains("dapr.io/disable-builtin-k8s-secret-store: is set to true"),
            "{text}"
        );
    }
}

/// At admission the pod shows whether the API server has mounted a token.
#[rstest]
#[case::mounted(json!({"volumeMounts": [{"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}), json!({}), false, 0)]
#[case::not_mounted(json!({}), json!({}), true, 1)]
#[case::set(json!({}), json!({"dapr.io/disable-builtin-k8s-secret-store": "true"}), true, 0)]
#[case::kept(json!({}), json!({"dapr.io/disable-builtin-k8s-secret-store": "false"}), false, 0)]
#[case::mounted_by_annotation(json!({}), json!({"dapr.io/volume-mounts": "data:/var/run/secrets/kubernetes.io/serviceaccount"}), false, 0)]
fn without_a_token_the_builtin_secret_store_is_disabled(
    #[case] app: Value,
    #[case] annotations: Value,
    #[case] disabled: bool,
    #[case] count: usize,
) {
    let mut pod = pod(&annotations);
    pod["spec"]["serviceAccountName"] = json!("default");
    for (key, value) in app.as_object().unwrap() {
        pod["spec"]["containers"][0][key] = value.clone();
    }
    let settings = settings();
    let (_, warnings) = inject(&pod, &context(&settings));
    assert_eq!(warnings.len(), count, "{warnings:?}");
    let args = sidecar_of(&patched(&pod, &context(&settings)))["args"].to_string();
    assert_eq!(args.contains(NO_STORE), disabled);
}

/// Case 20. The message of a rejected pod contains the suggestions: a controller shows no warnings.
#[rstest]
#[case("vintage", &[r#""dapr.io/id" is ignored; did you mean dapr.io/app-id?"#, r#""dapr.io/port" is ignored; did you mean dapr.io/app-port?"#, r#""dapr.io/protocol" is ignored; did you mean dapr.io/app-protocol?"#])]
#[case("slip", &[r#""dapr.io/appid" is ignored; did you mean dapr.io/app-id?"#])]
fn case_20_annotations_of_old(#[case] name: &str, #[case] want: &[&str]) {
    let (_, remarks) = offline(case!("20-annotations-of-old/deployments.yaml"));
    let remark = remarks.iter().find(|remark| remark.subject.ends_with(name)).unwrap();
    let PodResult::Failed(why) = &remark.result else { panic!("{remark:?}") };
    assert!(want.iter().all(|text| why.contains(text)), "{why}");
    assert!(remark.warnings.is_empty(), "repeated: {remark:?}");
}

#[test]
fn a_rejection_keeps_its_warnings() {
    let pod = pod(&json!({"dapr.io/app-id": "Not_Valid", "dapr.io/prot": "1"}));
    let rejection = decide(&pod, &context(&settings())).unwrap_err();
    let texts: Vec<String> = rejection.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(rejection.to_string().ends_with(&texts[0]), "{rejection}");
}

#[test]
fn case_32_empty_config_and_log_level() {
    let (documents, remarks) = offline(case!("32-config-annotation-empty/pod.yaml"));
    let template = &documents[0]["spec"]["template"];
    assert!(template["metadata"]["annotations"].get("dapr.io/config").is_none());
    let args = sidecar_of(template)["args"].to_string();
    assert!(args.contains(r#""--log-level","info""#) && !args.contains("--config"), "{args}");
    insta::assert_snapshot!(warnings(&remarks, "blank").trim(), @"
    dapr.io/log-level: is empty; the default applies
    dapr.io/config is empty and was removed
    ");
}

/// Siblings of case 32: a template that renders blanks.
#[test]
fn a_blank_config_is_removed_as_an_empty_one_is() {
    let blank = pod(&json!({"dapr.io/config": "  "}));
    let (_, warnings) = inject(&blank, &context(&settings()));
    assert_eq!(warnings, ["dapr.io/config is empty and was removed"]);
    let patched = patched(&blank, &context(&settings()));
    assert!(patched["metadata"]["annotations"].get("dapr.io/config").is_none());
    assert!(!sidecar_of(&patched)["args"].to_string().contains("--config"));
}

/// Siblings of case 20: the right annotation in the wrong place.
#[test]
fn an_annotation_on_the_workload_is_named() {
    let text = case!("20-annotations-of-old/deployments.yaml");
    let text = text.replace("dapr.io/id:", "dapr.io/app-id:");
    let (documents, _) = offline(&text);
    let mut workload = documents[0].clone();
    workload["metadata"]["annotations"] =
        workload["spec"]["template"]["metadata"]["annotations"].take();
    let (_, remarks) = offline(&workload.to_string());
    let text = warnings(&remarks, "vintage");
    assert!(text.contains("dapr.io/enabled is in the metadata of the Deployment"), "{text}");
}

/// Charts render an empty value for one that is not set.
#[rstest]
fn an_empty_annotation_with_which_daprd_would_not_start_has_its_default(
    #[values(
        "sidecar-image",
        "log-level",
        "app-binding-options-timeout",
        "block-shutdown-duration",
        "actors-disseminate-timeout"
    )]
    key: &str,
    #[values("", " ")] value: &str,
) {
    let settings = settings();
    let empty = pod(&json!({ format!("dapr.io/{key}"): value }));
    let (_, warnings) = inject(&empty, &context(&settings));
    assert_eq!(warnings, [format!("dapr.io/{key}: is empty; the default applies")]);
    let plain = sidecar_of(&patched(&pod(&json!({})), &context(&settings)));
    assert_eq!(sidecar_of(&patched(&empty, &context(&settings))), plain);
}
