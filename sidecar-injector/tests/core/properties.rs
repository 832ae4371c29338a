//! Properties of every pod.

use proptest::prelude::*;
use resources::annotations::POD;
use serde_json::{Map, Value, json};
use sidecar_injector::{AllowList, AllowedUsers, Change, ComponentContainer, Mutation, Review};

use crate::setting::{decide, settings, with_components};

fn annotation_value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("true".to_owned()),
        Just("false".to_owned()),
        Just(String::new()),
        Just("data:/a,b:/c".to_owned()),
        Just("A=1,B=s:k".to_owned()),
        Just("side,app".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        (0..70_000_i64).prop_map(|n| n.to_string()),
        "[a-z]{1,8}",
        ".{0,20}",
    ]
}

fn annotations() -> impl Strategy<Value = Map<String, Value>> {
    let one = (proptest::sample::select(POD), annotation_value());
    proptest::collection::vec(one, 0..12).prop_map(|pairs| {
        let mut all: Map<String, Value> =
            pairs.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
        all.insert("dapr.io/enabled".to_owned(), json!("true"));
        all.insert("dapr.io/app-id".to_owned(), json!("app"));
        all
    })
}

fn list(names: &'static [&'static str]) -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!([])),
        proptest::sample::subsequence(names, 1..=names.len())
            .prop_map(|names| names.iter().map(|name| json!({"name": name})).collect()),
    ]
}

fn container(name: &'static str) -> impl Strategy<Value = Value> {
    (list(&["DAPR_HTTP_PORT", "OTHER"]), list(&["data", "dapr-unix-domain-socket"]))
        .prop_map(move |(env, mounts)| json!({"name": name, "env": env, "volumeMounts": mounts}))
}

prop_compose! {
    fn any_pod()(
        annotations in annotations(),
        app in container("app"),
        side in proptest::option::of(container("side")),
        init in list(&["init"]),
        volumes in list(&["data", "dapr-identity-token", "dapr-components-unix-domain-socket"]),
        labels in prop_oneof![Just(Value::Null), Just(json!({})), Just(json!({"app": "x"}))],
    ) -> Value {
        let containers: Vec<Value> = std::iter::once(app).chain(side).collect();
        json!({
            "metadata": {"name": "pod", "annotations": annotations, "labels": labels},
            "spec": {"containers": containers, "initContainers": init, "volumes": volumes},
        })
    }
}

fn components() -> Vec<ComponentContainer> {
    let container = json!({"image": "i", "volumeMounts": [{"name": "new", "mountPath": "/n"}]});
    let component = |name: &str, container: &Value| ComponentContainer {
        name: name.to_owned(),
        scopes: Vec::new(),
        container: container.to_string(),
    };
    vec![component("a", &container), component("b", &json!({"image": "j"}))]
}

/// A patched pod has its sidecar once, unique names of volumes, and needs no second patch.
fn check(mut pod: Value) -> Result<(), TestCaseError> {
    let (settings, components) = (settings(), components());
    let cx = with_components(&settings, &components);
    let Mutation { change, .. } =
        decide(&pod, &cx).map_err(|e| TestCaseError::fail(e.to_string()))?;
    let Change::Inject { patch, .. } = change else {
        return Err(TestCaseError::fail("not injected"));
    };
    json_patch::patch(&mut pod, &patch).map_err(|e| TestCaseError::fail(e.to_string()))?;
    let names = |list: &str| -> Vec<String> {
        let items = pod["spec"][list].as_array().into_iter().flatten();
        items.map(|item| item["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let all = [names("containers"), names("initContainers")].concat();
    prop_assert_eq!(all.iter().filter(|name| *name == "daprd").count(), 1);
    let mut volumes = names("volumes");
    volumes.sort_unstable();
    let count = volumes.len();
    volumes.dedup();
    prop_assert_eq!(volumes.len(), count, "a volume twice");
    let again = decide(&pod, &cx).map_err(|e| TestCaseError::fail(e.to_string()))?;
    prop_assert!(matches!(again.change, Change::Nothing(_)), "second patch: {:?}", again.change);
    Ok(())
}

/// JSON of any shape, with some keys of a review.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(json!("true")),
    ];
    let key = prop_oneof![
        proptest::sample::select(vec![
            "metadata",
            "spec",
            "annotations",
            "labels",
            "containers",
            "initContainers",
            "volumes",
            "env",
            "volumeMounts",
            "name",
            "dapr.io/enabled",
            "dapr.io/app-id",
            "tolerations",
        ])
        .prop_map(str::to_owned),
        "[a-z]{0,4}",
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_patched_pod_is_whole_and_needs_no_second_patch(pod in any_pod()) {
        check(pod)?;
    }

    #[test]
    fn no_object_panics(object in any_json(), user in any_json()) {
        let body = json!({"request": {"kind": {"kind": "Pod"}, "object": object, "userInfo": user}});
        if let Ok(review) = Review::parse(body.to_string().as_bytes()) {
            let (settings, allowed) = (settings(), AllowList::parse(["*:*"]).unwrap());
            let users = AllowedUsers { allowed: &allowed, uids: &[], mark_skipped: true };
            let decision = review.decide(&with_components(&settings, &[]), &users);
            let _ = serde_json::to_string(&review.answer(&decision)).unwrap();
        }
    }

    #[test]
    fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = Review::parse(&body);
    }
}
