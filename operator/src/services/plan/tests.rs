//! Tables of Service plans.
use rstest::rstest;
use serde_json::json;

use super::*;
use crate::services::workload::{WorkloadKey, WorkloadKind};

fn workload(name: &str, annotations: &[(&str, &str)]) -> Workload {
    let key = WorkloadKey {
        kind: WorkloadKind::Deployment,
        namespace: "shop".to_owned(),
        name: name.to_owned(),
    };
    let annotations = annotations.iter().map(|(k, v)| (format!("dapr.io/{k}"), (*v).to_owned()));
    Workload {
        key,
        uid: format!("uid-{name}"),
        enabled: true,
        created: None,
        annotations: annotations.collect(),
        selector: [("app".to_owned(), name.to_owned())].into(),
        selects_more: false,
        has_pods: true,
        rolled_out: true,
    }
}

fn orders(more: &[(&str, &str)]) -> Workload {
    let all: Vec<_> =
        [("enabled", "true"), ("app-id", "orders")].iter().chain(more).copied().collect();
    workload("orders", &all)
}

/// The Service as the API server stores it.
fn stored(service: Service) -> Service {
    let mut service = service;
    service.metadata.uid = Some("uid-service".to_owned());
    service.metadata.resource_version = Some("7".to_owned());
    if let Some(spec) = service.spec.as_mut() {
        spec.type_ = Some("ClusterIP".to_owned());
        spec.session_affinity = Some("None".to_owned());
    }
    service
}

fn plan_for(workload: &Workload, current: Option<&Service>) -> Plan {
    plan(Some(workload), &[], true, current, std::iter::once(workload)).unwrap()
}

#[test]
fn desired_service_is_the_one_that_sidecars_resolve() {
    let service = desired(&orders(&[]), &[], true).unwrap();
    assert_eq!(
        serde_json::to_value(service).unwrap(),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "orders-dapr", "namespace": "shop",
                "labels": {"dapr.io/enabled": "true"},
                "annotations": {"dapr.io/app-id": "orders", "prometheus.io/probe": "true",
                    "prometheus.io/scrape": "true", "prometheus.io/port": "9090",
                    "prometheus.io/path": "/"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "orders",
                    "uid": "uid-orders", "controller": true, "blockOwnerDeletion": true}]},
            "spec": {"clusterIP": "None", "selector": {"app": "orders"}, "ports": [
                {"name": "dapr-http", "appProtocol": "http", "protocol": "TCP", "port": 80, "targetPort": 3500},
                {"name": "dapr-grpc", "appProtocol": "grpc", "protocol": "TCP", "port": 50001, "targetPort": 50001},
                {"name": "dapr-internal", "appProtocol": "tls", "protocol": "TCP", "port": 50002, "targetPort": 50002},
                {"name": "dapr-metrics", "appProtocol": "http", "protocol": "TCP", "port": 9090, "targetPort": 9090}]}
        })
    );
}

#[rstest]
#[case::sign("+9091", 9091)]
#[case::word("x", 9090)]
#[case::blank("5 0", 9090)]
#[case::hex("0x10", 9090)]
#[case::too_long("99999999999", 9090)]
#[case::empty("", 9090)]
fn port_annotation_is_a_number_or_nothing(#[case] text: &str, #[case] want: i32) {
    let service = desired(&orders(&[("metrics-port", text)]), &[], true).unwrap();
    let annotation = service.metadata.annotations.unwrap()["prometheus.io/port"].clone();
    assert_eq!(service.spec.unwrap().ports.unwrap()[3].port, want);
    assert_eq!(annotation, want.to_string());
}

#[rstest]
#[case::no_app_id(workload("w", &[("enabled", "true")]), Invalid::NoAppId)]
#[case::upper_case(workload("w", &[("app-id", "Orders")]), Invalid::AppId("Orders".into()))]
#[case::blank(workload("w", &[("app-id", " a")]), Invalid::AppId(" a".into()))]
#[case::dash(workload("w", &[("app-id", "-a")]), Invalid::AppId("-a".into()))]
#[case::port_range(orders(&[("grpc-port", "70000")]), Invalid::Port(70000))]
#[case::negative_port(orders(&[("grpc-port", "-1")]), Invalid::Port(-1))]
#[case::port_twice(orders(&[("grpc-port", "9090")]), Invalid::Port(9090))]
#[case::port_of_http(orders(&[("grpc-port", "80")]), Invalid::Port(80))]
fn invalid_workload_has_no_service(#[case] workload: Workload, #[case] want: Invalid) {
    assert_eq!(plan(Some(&workload), &[], true, None, std::iter::empty()), Err(want));
}

#[test]
fn longest_app_id_is_58() {
    let with =
        |length: usize| desired(&workload("w", &[("app-id", &"a".repeat(length))]), &[], true);
    assert!(with(58).is_ok());
    assert!(with(59).is_err());
}

#[rstest]
#[case::metrics_off("false", "prometheus.io/path=/x,a=b", &[("a", "b"), ("prometheus.io/path", "/x")])]
#[case::reserved("", "prometheus.io/port=1,dapr.io/app-id=x", &[("prometheus.io/path", "/"),
    ("prometheus.io/port", "9090"), ("prometheus.io/probe", "true"), ("prometheus.io/scrape", "true")])]
#[case::odd_items("no", " a = b =c ,x, =y,a=z,d=", &[("a", "b =c"), ("d", "")])]
fn service_annotations_are_added(
    #[case] metrics: &str,
    #[case] text: &str,
    #[case] want: &[(&str, &str)],
) {
    let workload = orders(&[("enable-metrics", metrics), ("sidecar-svc-annotations", text)]);
    let mut got = desired(&workload, &[], true).unwrap().metadata.annotations.unwrap();
    assert_eq!(got.remove("dapr.io/app-id").as_deref(), Some("orders"));
    let got: Vec<_> = got.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(got, want);
}

#[test]
fn absent_service_is_created_and_an_equal_one_kept() {
    let workload = orders(&[]);
    let Plan::Create(service) = plan_for(&workload, None) else { panic!("not created") };
    assert_eq!(plan_for(&workload, Some(&stored(*service))), Plan::Keep);
}

#[test]
fn update_keeps_foreign_labels_and_annotations() {
    let workload = orders(&[]);
    let mut current = stored(desired(&workload, &[], true).unwrap());
    current.metadata.labels.as_mut().unwrap().insert("mesh".into(), "on".into());
    current.metadata.annotations.as_mut().unwrap().insert("external-dns".into(), "x".into());
    assert_eq!(plan_for(&workload, Some(&current)), Plan::Keep);

    current.spec.as_mut().unwrap().selector = Some([("app".to_owned(), "other".to_owned())].into());
    current.metadata.annotations.as_mut().unwrap().remove("dapr.io/app-id");
    let Plan::Update(updated) = plan_for(&workload, Some(&current)) else { panic!("not updated") };
    assert_eq!(updated.metadata.resource_version.as_deref(), Some("7"));
    assert_eq!(updated.metadata.labels.as_ref().unwrap()["mesh"], "on");
    assert_eq!(updated.metadata.annotations.as_ref().unwrap()["external-dns"], "x");
    assert_eq!(updated.metadata.annotations.as_ref().unwrap()["dapr.io/app-id"], "orders");
    assert_eq!(updated.spec.as_ref().unwrap().selector.as_ref().unwrap()["app"], "orders");
    assert_eq!(plan_for(&workload, Some(&updated)), Plan::Keep, "no second update");
}

#[test]
fn metrics_switched_off_removes_their_annotations() {
    let current = stored(desired(&orders(&[]), &[], true).unwrap());
    let Plan::Update(updated) = plan_for(&orders(&[("enable-metrics", "false")]), Some(&current))
    else {
        panic!("not updated")
    };
    assert_eq!(updated.metadata.annotations.unwrap().len(), 1);
}

#[test]
fn service_of_a_user_is_not_modified() {
    let workload = orders(&[]);
    let mut foreign = stored(desired(&workload, &[], true).unwrap());
    foreign.metadata.labels = None;
    foreign.metadata.owner_references = None;
    assert_eq!(plan_for(&workload, Some(&foreign)), Plan::Foreign);
    let mut with_address = stored(desired(&workload, &[], true).unwrap());
    with_address.spec.as_mut().unwrap().cluster_ip = Some("10.0.0.1".to_owned());
    assert_eq!(plan_for(&workload, Some(&with_address)), Plan::Foreign);
}

#[test]
fn our_service_without_its_label_is_repaired() {
    let workload = orders(&[]);
    let mut damaged = stored(desired(&workload, &[], true).unwrap());
    damaged.metadata.labels = None;
    assert!(matches!(plan_for(&workload, Some(&damaged)), Plan::Update(_)));
}

#[rstest]
#[case::after_the_rollout(true, Plan::Delete("uid-service".to_owned()))]
#[case::old_pods_still_run(false, Plan::Keep)]
fn service_of_the_previous_app_id_is_deleted_after_the_rollout(
    #[case] rolled_out: bool,
    #[case] want: Plan,
) {
    let old = stored(desired(&orders(&[]), &[], true).unwrap());
    let renamed = Workload { rolled_out, ..workload("orders", &[("app-id", "bills")]) };
    assert_eq!(plan(None, &[], true, Some(&old), std::iter::once(&renamed)), Ok(want));
}

#[test]
fn service_without_a_known_owner_is_kept() {
    let old = stored(desired(&orders(&[]), &[], true).unwrap());
    assert_eq!(plan(None, &[], true, Some(&old), std::iter::empty()), Ok(Plan::Keep));
}

fn app_protocols(service: &Service) -> Vec<&str> {
    let ports = service.spec.as_ref().unwrap().ports.as_ref().unwrap();
    ports.iter().map(|port| port.app_protocol.as_deref().unwrap_or_default()).collect()
}

#[rstest]
#[case::mtls(true, &["http", "grpc", "tls", "http"])]
#[case::no_mtls(false, &["http", "grpc", "grpc", "http"])]
fn app_protocol_of_the_internal_port_depends_on_mtls(#[case] mtls: bool, #[case] want: &[&str]) {
    assert_eq!(app_protocols(&desired(&orders(&[]), &[], mtls).unwrap()), want);
}

#[test]
fn app_protocol_is_added_in_one_write_and_repaired() {
    let workload = orders(&[]);
    let mut current = stored(desired(&workload, &[], true).unwrap());
    for port in current.spec.as_mut().unwrap().ports.iter_mut().flatten() {
        port.app_protocol = None; // as created by Dapr up to 1.18
    }
    let Plan::Update(mut updated) = plan_for(&workload, Some(&current)) else {
        panic!("not updated")
    };
    assert_eq!(app_protocols(&updated), ["http", "grpc", "tls", "http"]);
    assert_eq!(plan_for(&workload, Some(&updated)), Plan::Keep, "no second update");

    updated.spec.as_mut().unwrap().ports.as_mut().unwrap()[1].app_protocol = Some("tcp".to_owned());
    let Plan::Update(repaired) = plan_for(&workload, Some(&updated)) else {
        panic!("not repaired")
    };
    assert_eq!(app_protocols(&repaired)[1], "grpc");
}

#[rstest]
#[case::one_workload(&[], &[("app", "orders")])]
#[case::canary(&["orders-primary"], &[("dapr.io/app-id", "orders")])]
#[case::revisions(&["orders-1", "orders-2"], &[("dapr.io/app-id", "orders")])]
fn workloads_that_share_an_app_id_are_selected_by_its_label(
    #[case] others: &[&str],
    #[case] want: &[(&str, &str)],
) {
    let others: Vec<_> =
        others.iter().map(|name| workload(name, &[("app-id", "orders")])).collect();
    let sharing: Vec<_> = others.iter().collect();
    let service = desired(&orders(&[]), &sharing, true).unwrap();
    let owners = service.metadata.owner_references.unwrap();
    let controllers = owners.iter().filter(|owner| owner.controller == Some(true));
    assert_eq!(controllers.map(|owner| owner.name.as_str()).collect::<Vec<_>>(), ["orders"]);
    assert_eq!(owners.len(), 1 + others.len(), "the Service outlives each of them");
    let selector = service.spec.unwrap().selector.unwrap();
    let selector: Vec<_> = selector.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(selector, want);
}

#[rstest]
#[case::labels(json!({"matchLabels": {"a": "x"}}), &[("a", "x")])]
#[case::single_value(json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["x"]}]}), &[("a", "x")])]
#[case::both(json!({"matchLabels": {"a": "x"}, "matchExpressions": [{"key": "b", "operator": "In", "values": ["y"]}]}),
    &[("a", "x"), ("b", "y")])]
#[case::ignored_as_by_dapr(json!({"matchLabels": {"a": "x"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}),
    &[("a", "x")])]
#[case::exists(json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]}), &[("dapr.io/app-id", "o")])]
#[case::several_values(json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["x", "y"]},
    {"key": "b", "operator": "In", "values": ["z"]}]}), &[("b", "z"), ("dapr.io/app-id", "o")])]
#[case::not_in(json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["x"]}]}), &[("dapr.io/app-id", "o")])]
#[case::empty(json!({}), &[("dapr.io/app-id", "o")])]
fn every_selector_of_a_workload_gives_a_service_with_its_pods(
    #[case] selector: serde_json::Value,
    #[case] want: &[(&str, &str)],
) {
    let object = serde_json::from_value(json!({
        "metadata": {"name": "o", "namespace": "n", "uid": "u"},
        "spec": {"selector": selector, "template": {"metadata":
            {"annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": "o"}}}}
    }));
    let workload = Workload::of(WorkloadKind::Deployment, &object.unwrap()).unwrap();
    let selector = desired(&workload, &[], true).unwrap().spec.unwrap().selector.unwrap();
    let selector: Vec<_> = selector.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(selector, want);
}
