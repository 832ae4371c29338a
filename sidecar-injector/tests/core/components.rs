//! Pluggable components: containers in the pod, and containers from Components.

use serde_json::{Value, json};
use sidecar_injector::{ComponentContainer, InjectionContext};

use crate::setting::{container, context, decide, inject, patched, pod, settings, with_components};

const VOLUME: &str = "dapr-components-unix-domain-socket";
const FOLDER: &str = "/tmp/dapr-components-sockets";

fn component(name: &str, scopes: &[&str], container: &Value) -> ComponentContainer {
    ComponentContainer {
        name: name.to_owned(),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        container: container.to_string(),
    }
}

fn volume_names(pod: &Value) -> Vec<&str> {
    pod["spec"]["volumes"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect()
}

#[test]
fn containers_of_the_pod_get_the_socket_folder_and_nothing_of_an_app() {
    let mut pod = pod(&json!({
        "dapr.io/pluggable-components": " store ",
        "dapr.io/pluggable-components-sockets-folder": "/sockets",
        "dapr.io/unix-domain-socket-path": "/api",
    }));
    pod["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "store"}));
    let pod = patched(&pod, &context(&settings()));
    assert_eq!(
        container(&pod, "store"),
        json!({
            "name": "store",
            "env": [{"name": "DAPR_COMPONENT_SOCKETS_FOLDER", "value": "/sockets"}],
            "volumeMounts": [{"name": VOLUME, "mountPath": "/sockets"}],
        })
    );
    let daprd = container(&pod, "daprd");
    assert_eq!(
        daprd["volumeMounts"].as_array().unwrap().last(),
        Some(&json!({"name": VOLUME, "mountPath": "/sockets"}))
    );
    assert_eq!(
        daprd["env"].as_array().unwrap().last(),
        Some(&json!({"name": "DAPR_COMPONENT_SOCKETS_FOLDER", "value": "/sockets"}))
    );
    assert_eq!(
        volume_names(&pod),
        ["data", "dapr-unix-domain-socket", "dapr-identity-token", VOLUME]
    );
}

#[test]
fn containers_of_components_are_added_by_scope_and_once_per_image() {
    let components = [
        component(
            "a",
            &[],
            &json!({"image": "one", "volumeMounts": [{"name": "scratch", "mountPath": "/s"}, {"name": "data", "mountPath": "/d"}]}),
        ),
        component("b", &["other"], &json!({"image": "two"})),
        component(
            "c",
            &["app"],
            &json!({"image": "two", "name": "named", "volumeMounts": [{"name": "scratch", "mountPath": "/s"}]}),
        ),
        component("d", &[], &json!({"image": "one"})),
        component("e", &[], &Value::Null),
        component("f", &[], &json!({"image": 7})),
    ];
    let settings = settings();
    let cx = with_components(&settings, &components);
    let pod = pod(&json!({"dapr.io/inject-pluggable-components": "true"}));
    let (_, warnings) = inject(&pod, &cx);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("Component \"e\" has an invalid container"), "{warnings:?}");
    let pod = patched(&pod, &cx);
    let names: Vec<&Value> =
        pod["spec"]["containers"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(names, ["app", "daprd", "a", "named"]);
    assert_eq!(volume_names(&pod), ["data", "dapr-identity-token", VOLUME, "scratch"]);
    assert_eq!(
        container(&pod, "a"),
        json!({
            "image": "one",
            "volumeMounts": [
                {"name": "scratch", "mountPath": "/s"},
                {"name": "data", "mountPath": "/d"},
                {"name": VOLUME, "mountPath": FOLDER},
            ],
            "name": "a",
            "env": [{"name": "DAPR_COMPONENT_SOCKETS_FOLDER", "value": FOLDER}],
        })
    );
}

#[test]
fn a_pod_without_volumes_keeps_its_token_beside_the_sockets() {
    let settings = settings();
    let components = [component("a", &[], &json!({"image": "one"}))];
    let mut pod = pod(&json!({"dapr.io/inject-pluggable-components": "true"}));
    pod["spec"].as_object_mut().unwrap().remove("volumes");
    let pod = patched(&pod, &with_components(&settings, &components));
    assert_eq!(volume_names(&pod), ["dapr-identity-token", VOLUME]);
}

#[test]
fn a_volume_of_that_name_is_not_added_again() {
    let settings = settings();
    let components = [component("a", &[], &json!({"image": "one"}))];
    let mut pod = pod(&json!({"dapr.io/inject-pluggable-components": "true"}));
    pod["spec"]["volumes"] = json!([{"name": VOLUME, "emptyDir": {}}]);
    let pod = patched(&pod, &with_components(&settings, &components));
    assert_eq!(volume_names(&pod), [VOLUME, "dapr-identity-token"]);
}

#[test]
fn nothing_is_mounted_when_no_component_is_in_scope() {
    let settings = settings();
    let components = [component("a", &["other"], &json!({"image": "one"}))];
    let pod = pod(&json!({"dapr.io/inject-pluggable-components": "true"}));
    let pod = patched(&pod, &with_components(&settings, &components));
    assert_eq!(volume_names(&pod), ["data", "dapr-identity-token"]);
}

#[test]
fn a_pod_that_needs_unknown_components_is_refused_and_others_are_not() {
    let settings = settings();
    let unknown = InjectionContext { components: Err("forbidden"), ..context(&settings) };
    let wanting = pod(&json!({"dapr.io/inject-pluggable-components": "true"}));
    insta::assert_snapshot!(decide(&wanting, &unknown).unwrap_err(), @"Components of namespace default are unknown, but dapr.io/inject-pluggable-components requests their containers: forbidden");
    assert!(decide(&pod(&json!({})), &unknown).is_ok());
}

#[test]
fn a_second_call_leaves_added_component_containers_alone() {
    let settings = settings();
    let components = [component("a", &[], &json!({"image": "one"}))];
    let cx = with_components(&settings, &components);
    let pod = patched(&pod(&json!({"dapr.io/inject-pluggable-components": "true"})), &cx);
    let again = decide(&pod, &cx).unwrap();
    assert!(matches!(again.change, sidecar_injector::Change::Nothing(_)), "{again:?}");
}

#[test]
fn an_application_that_knows_the_sockets_folder_is_still_an_application() {
    let settings = settings();
    let mut pod = pod(&json!({}));
    pod["spec"]["containers"][0]["env"] =
        json!([{"name": "DAPR_COMPONENT_SOCKETS_FOLDER", "value": "/own"}]);
    let app = container(&patched(&pod, &context(&settings)), "app");
    let names: Vec<&str> =
        app["env"].as_array().unwrap().iter().filter_map(|v| v["name"].as_str()).collect();
    let want =
        ["DAPR_COMPONENT_SOCKETS_FOLDER", "DAPR_HTTP_PORT", "DAPR_GRPC_PORT", "APP_PROTOCOL"];
    assert_eq!(names, want);
}
