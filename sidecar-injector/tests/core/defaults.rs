//! Defaults of cluster and Namespace, the Namespace's switch and its Pod Security.

use std::collections::BTreeMap;

use rstest::rstest;
use serde_json::{Value, json};
use sidecar_injector::{Change, Defaults, InjectionContext, Mutation, NamespacePolicy, SkipReason};

use crate::setting::{arguments, container, context, decide, inject, patched, pod, settings};

/// A Namespace with these labels and annotations.
fn namespace(labels: &Value, annotations: &Value) -> NamespacePolicy {
    let map = |object: &Value| -> BTreeMap<String, String> {
        serde_json::from_value(object.clone()).unwrap()
    };
    NamespacePolicy::of(&map(labels), &map(annotations)).0
}

#[test]
fn a_sidecar_follows_the_defaults_that_its_pod_leaves_open() {
    let mut settings = settings();
    let cluster = r#"{"log-level": "warn", "sidecar-cpu-request": "100m", "sidecar-image": "mirror/daprd:1.18.3"}"#;
    settings.defaults = Defaults::parse(cluster).unwrap();
    let policy =
        namespace(&json!({}), &json!({"dapr.io/log-level": "debug", "dapr.io/env": "A=1"}));
    let cx = InjectionContext { policy: &policy, ..context(&settings) };
    let own = pod(&json!({"dapr.io/env": "B=2"}));
    let pod = patched(&own, &cx);
    let sidecar = container(&pod, "daprd");
    assert_eq!(sidecar["image"], "mirror/daprd:1.18.3");
    assert_eq!(sidecar["resources"], json!({"requests": {"cpu": "100m"}}));
    assert!(arguments(&sidecar).contains(&"--log-level debug".to_owned()));
    let env = sidecar["env"].as_array().unwrap();
    let named = |name: &str| env.iter().any(|var| var["name"] == name);
    assert!(named("B") && !named("A"), "the pod's annotation wins as a whole");
    assert_eq!(
        pod["metadata"]["annotations"]["dapr.io/applied-defaults"],
        r#"{"cluster":{"dapr.io/sidecar-cpu-request":"100m","dapr.io/sidecar-image":"mirror/daprd:1.18.3"},"namespace":{"dapr.io/log-level":"debug"}}"#
    );
    let again = decide(&pod, &cx).unwrap();
    assert_eq!(again.change, Change::Nothing(SkipReason::AlreadyPresent));
}

#[test]
fn a_bad_default_is_named_as_such() {
    let policy = namespace(&json!({}), &json!({"dapr.io/log-level": "loud"}));
    let settings = settings();
    let cx = InjectionContext { policy: &policy, ..context(&settings) };
    let (_, warnings) = inject(&pod(&json!({})), &cx);
    insta::assert_snapshot!(warnings.join("\n"), @r#"dapr.io/log-level: "loud" is not debug, info, warn, error or fatal; daprd does not start (set by the defaults of the namespace or the cluster, not by the pod)"#);
}

#[test]
fn without_defaults_nothing_is_written_about_them() {
    let settings = settings();
    let (patch, _) = inject(&pod(&json!({})), &context(&settings));
    assert!(!json!(patch).to_string().contains("applied-defaults"));
}

#[rstest]
#[case::opted_in("enabled", json!({"dapr.io/app-id": "a"}), None)]
#[case::no_id("enabled", json!({}), Some(SkipReason::NotEnabled))]
#[case::empty_id("enabled", json!({"dapr.io/app-id": ""}), Some(SkipReason::NotEnabled))]
#[case::refuses("enabled", json!({"dapr.io/app-id": "a", "dapr.io/enabled": "false"}), Some(SkipReason::NotEnabled))]
#[case::switched_off("disabled", json!({"dapr.io/app-id": "a", "dapr.io/enabled": "true"}), Some(SkipReason::NamespaceDisabled))]
#[case::did_not_ask("disabled", json!({"dapr.io/app-id": "a"}), Some(SkipReason::NotEnabled))]
#[case::odd("maybe", json!({"dapr.io/app-id": "a"}), Some(SkipReason::NotEnabled))]
fn a_namespace_switches_its_pods(
    #[case] label: &str,
    #[case] annotations: Value,
    #[case] skip: Option<SkipReason>,
) {
    let policy = namespace(&json!({"dapr.io/injection": label}), &json!({}));
    let settings = settings();
    let cx = InjectionContext { policy: &policy, ..context(&settings) };
    let mut pod = pod(&json!({}));
    pod["metadata"]["annotations"] = annotations;
    let Mutation { change, .. } = decide(&pod, &cx).unwrap();
    match (change, skip) {
        (Change::Inject { .. }, None) => {
            let pod = patched(&pod, &cx);
            assert_eq!(pod["metadata"]["annotations"]["dapr.io/enabled"], "true");
            assert!(matches!(decide(&pod, &cx).unwrap().change, Change::Nothing(_)));
        }
        (Change::Nothing(got), Some(want)) => assert_eq!(got, want),
        (change, skip) => panic!("{change:?}, not {skip:?}"),
    }
}

#[rstest]
#[case::plain(json!({}), "RuntimeDefault")]
#[case::told_otherwise(json!({"dapr.io/sidecar-seccomp-profile-type": "Unconfined"}), "Unconfined")]
// Certificates would make it a Windows administrator, which the namespace rejects.
#[case::certificates(json!({"dapr.io/env": "SSL_CERT_DIR=/certs"}), "RuntimeDefault")]
fn a_restricted_namespace_gets_restricted_sidecars(
    #[case] annotations: Value,
    #[case] profile: &str,
) {
    let restricted = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let policy = namespace(&restricted, &json!({}));
    let settings = settings();
    let cx = InjectionContext { policy: &policy, ..context(&settings) };
    let sidecar = container(&patched(&pod(&annotations), &cx), "daprd");
    assert_eq!(
        sidecar["securityContext"],
        json!({
            "allowPrivilegeEscalation": false, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": profile},
        })
    );
}
