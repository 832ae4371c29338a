//! Native sidecars: when, in which position, and what older components get instead.

use rstest::rstest;
use serde_json::{Value, json};
use sidecar_injector::{InjectionContext, NativeDefault, Platform, Version};

use crate::setting::{arguments, container, context, inject, patched, pod, settings};

fn platform(server: &str, node: Option<&str>) -> Platform {
    Platform { server: Version::parse(server), oldest_node: node.and_then(Version::parse) }
}

/// Names of init containers and containers of the patched pod, and the warnings.
fn injected(annotations: &Value, auto: bool, platform: Platform) -> (Vec<String>, Vec<String>) {
    let mut settings = settings();
    if auto {
        settings.native = NativeDefault::Auto;
    }
    let cx = InjectionContext { platform, ..context(&settings) };
    let mut pod = pod(annotations);
    pod["spec"]["initContainers"] = json!([{"name": "init"}]);
    let (_, warnings) = inject(&pod, &cx);
    let pod = patched(&pod, &cx);
    let names = |list: &str| -> Vec<String> {
        let list = pod["spec"][list].as_array().unwrap();
        list.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    ([names("initContainers"), vec!["|".to_owned()], names("containers")].concat(), warnings)
}

#[rstest]
#[case::all_new(platform("1.30", Some("1.29")), &["init", "daprd", "|", "app"])]
#[case::old_node(platform("1.30", Some("1.28")), &["init", "|", "app", "daprd"])]
#[case::nodes_unknown(platform("1.30", None), &["init", "|", "app", "daprd"])]
#[case::old_server(platform("1.28", Some("1.28")), &["init", "|", "app", "daprd"])]
#[case::nothing_known(Platform::default(), &["init", "|", "app", "daprd"])]
fn auto_waits_until_api_server_and_nodes_run_native_sidecars(
    #[case] platform: Platform,
    #[case] want: &[&str],
) {
    let (names, warnings) = injected(&json!({}), true, platform);
    assert_eq!(names, want);
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn an_old_api_server_gets_an_ordinary_container_and_the_user_a_warning() {
    let native = json!({"dapr.io/enable-native-sidecar": "true"});
    let (names, warnings) = injected(&native, false, platform("1.28", None));
    assert_eq!(names, ["init", "|", "app", "daprd"]);
    insta::assert_snapshot!(warnings.join("\n"), @"dapr.io/enable-native-sidecar: Kubernetes 1.28 does not support native sidecars; an ordinary container is used (native sidecars need 1.29)");
}

#[rstest]
#[case("first", &["daprd", "init", "|", "app"], 0)]
#[case("last", &["init", "daprd", "|", "app"], 0)]
#[case("middle", &["init", "daprd", "|", "app"], 1)]
fn a_native_sidecar_may_come_before_the_pods_own(
    #[case] position: &str,
    #[case] want: &[&str],
    #[case] warnings: usize,
) {
    let annotations = json!({
        "dapr.io/enable-native-sidecar": "true", "dapr.io/native-sidecar-position": position,
    });
    let (names, warned) = injected(&annotations, false, Platform::default());
    assert_eq!(names, want);
    assert_eq!(warned.len(), warnings, "{warned:?}");
}

#[test]
fn only_the_first_one_holds_the_others_back_and_by_a_probe_that_cannot_deadlock() {
    let sidecar = |position: &str| {
        let annotations = json!({
            "dapr.io/enable-native-sidecar": "true", "dapr.io/native-sidecar-position": position,
        });
        container(&patched(&pod(&annotations), &context(&settings())), "daprd")
    };
    assert_eq!(
        sidecar("first")["startupProbe"],
        json!({
            "httpGet": {"path": "/v1.0/healthz/outbound", "port": 3501},
            "periodSeconds": 1, "failureThreshold": 60,
        })
    );
    assert!(sidecar("last").get("startupProbe").is_none());
}

#[rstest]
#[case(
    "daprd:1.14.5",
    "dapr-scheduler-server-0.dapr-scheduler-server.dapr-system.svc.cluster.local:50006,dapr-scheduler-server-1.dapr-scheduler-server.dapr-system.svc.cluster.local:50006,dapr-scheduler-server-2.dapr-scheduler-server.dapr-system.svc.cluster.local:50006"
)]
#[case("daprd:1.15.0", "dapr-scheduler-server-a.dapr-system.svc.cluster.local:443")]
#[case("daprd:latest", "dapr-scheduler-server-a.dapr-system.svc.cluster.local:443")]
fn old_sidecars_get_the_address_of_each_scheduler(#[case] image: &str, #[case] want: &str) {
    let pod = patched(&pod(&json!({"dapr.io/sidecar-image": image})), &context(&settings()));
    let wanted = format!("--scheduler-host-address {want}");
    assert!(arguments(&container(&pod, "daprd")).contains(&wanted));
}
