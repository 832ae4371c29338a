//! Each annotation: its effect on the sidecar, and the result of an invalid value.

use rstest::rstest;
use serde_json::{Value, json};
use sidecar_injector::{Actors, NativeDefault, Security, Settings, Toleration};

use crate::setting::{
    arguments, container, context, decide, inject, patched, pod, settings, sidecar,
};

/// The arguments that an annotation adds to, and removes from, those of a pod without it.
fn difference(annotations: &Value, settings: &Settings) -> (Vec<String>, Vec<String>) {
    let before = arguments(&sidecar(&json!({}), settings));
    let after = arguments(&sidecar(annotations, settings));
    let without = |from: &[String], other: &[String]| {
        from.iter().filter(|arg| !other.contains(arg)).cloned().collect()
    };
    (without(&after, &before), without(&before, &after))
}

#[rstest]
#[case("app-port", "6001", &["--app-port 6001"], &[])]
#[case("app-port", "0", &[], &[])]
#[case("app-port", "-5", &[], &[])]
#[case("app-protocol", "grpc", &["--app-protocol grpc"], &["--app-protocol http"])]
#[case("config", "appconfig", &["--config appconfig"], &[])]
#[case("log-level", "debug", &["--log-level debug"], &["--log-level info"])]
#[case("log-as-json", "true", &["--log-as-json"], &[])]
#[case("enable-api-logging", "true", &["--enable-api-logging=true"], &[])]
#[case("enable-api-logging", "no", &["--enable-api-logging=false"], &[])]
#[case("enable-api-logging", "", &["--enable-api-logging=false"], &[])]
#[case("enable-profiling", "1", &["--enable-profiling"], &[])]
#[case("app-ssl", "on", &["--app-ssl"], &[])]
#[case("app-channel-address", "10.0.0.1", &["--app-channel-address 10.0.0.1"], &[])]
#[case("app-channel-address", "", &[], &[])]
#[case("app-max-concurrency", "5", &["--app-max-concurrency 5"], &[])]
#[case("app-max-concurrency", "-10", &["--app-max-concurrency -1"], &[])]
#[case("app-binding-options-timeout", "30s", &["--app-binding-options-timeout 30s"], &[])]
#[case("disable-init-endpoints", "config,subscribe", &["--disable-init-endpoints config,subscribe"], &[])]
#[case("sidecar-listen-addresses", "0.0.0.0", &["--dapr-listen-addresses 0.0.0.0"], &["--dapr-listen-addresses [::1],127.0.0.1"])]
#[case("sidecar-listen-addresses", "", &["--dapr-listen-addresses "], &["--dapr-listen-addresses [::1],127.0.0.1"])]
#[case("grpc-port", "6000", &["--dapr-grpc-port 6000"], &["--dapr-grpc-port 50001"])]
#[case("internal-grpc-port", "6002", &["--dapr-internal-grpc-port 6002"], &["--dapr-internal-grpc-port 50002"])]
#[case("unix-domain-socket-path", "/tmp/s", &["--unix-domain-socket /var/run/dapr-sockets"], &[])]
#[case("unix-domain-socket-path", "", &[], &[])]
#[case("max-body-size", "16Mi", &["--max-body-size 16Mi"], &[])]
#[case("max-body-size", "-10Mi", &["--max-body-size -1"], &[])]
#[case("http-max-request-size", "8", &["--dapr-http-max-request-size 8"], &[])]
#[case("read-buffer-size", "16Ki", &["--read-buffer-size 16Ki"], &[])]
#[case("http-read-buffer-size", "-10", &["--dapr-http-read-buffer-size -1"], &[])]
#[case("graceful-shutdown-seconds", "10", &["--dapr-graceful-shutdown-seconds 10"], &["--dapr-graceful-shutdown-seconds -1"])]
#[case("graceful-shutdown-seconds", "-10", &[], &[])]
#[case("block-shutdown-duration", "10s", &["--dapr-block-shutdown-duration 10s"], &[])]
#[case("enable-metrics", "false", &["--enable-metrics=false"], &["--enable-metrics", "--metrics-port 9090"])]
#[case("metrics-port", "9191", &["--metrics-port 9191"], &["--metrics-port 9090"])]
#[case("placement-host-address", "' p:1 '", &["--placement-host-address p:1"], &["--placement-host-address dapr-placement-server.dapr-system.svc.cluster.local:50005"])]
#[case("placement-host-address", "\"\"", &[], &["--placement-host-address dapr-placement-server.dapr-system.svc.cluster.local:50005"])]
#[case("scheduler-host-address", "s:1,t:2", &["--scheduler-host-address s:1,t:2"], &["--scheduler-host-address dapr-scheduler-server-a.dapr-system.svc.cluster.local:443"])]
#[case("scheduler-host-address", "", &["--scheduler-host-address "], &["--scheduler-host-address dapr-scheduler-server-a.dapr-system.svc.cluster.local:443"])]
#[case("actors-disseminate-timeout", "10s", &["--actors-disseminate-timeout 10s"], &[])]
#[case("sentry-request-jwt-audiences", "a,b", &["--sentry-request-jwt-audiences a,b"], &[])]
#[case("disable-builtin-k8s-secret-store", "true", &["--disable-builtin-k8s-secret-store"], &[])]
#[case("sidecar-svc-annotations", "{}", &[], &[])]
#[case("http-stream-request-body", "true", &[], &[])]
fn changes_the_arguments(
    #[case] key: &str,
    #[case] value: &str,
    #[case] added: &[&str],
    #[case] removed: &[&str],
) {
    let (plus, minus) = difference(&json!({ format!("dapr.io/{key}"): value }), &settings());
    assert_eq!(
        (plus, minus),
        (
            added.iter().map(ToString::to_string).collect(),
            removed.iter().map(ToString::to_string).collect()
        )
    );
}

#[test]
fn every_optional_argument_at_once_in_order() {
    let annotations = json!({
        "dapr.io/app-port": "3000", "dapr.io/config": "c", "dapr.io/app-channel-address": "h",
        "dapr.io/sentry-request-jwt-audiences": "aud", "dapr.io/enable-api-logging": "true",
        "dapr.io/disable-builtin-k8s-secret-store": "true", "dapr.io/enable-app-health-check": "true",
        "dapr.io/app-health-check-path": "/h", "dapr.io/app-health-probe-interval": "10",
        "dapr.io/app-health-probe-timeout": "200", "dapr.io/app-health-threshold": "7",
        "dapr.io/app-binding-options-timeout": "3s", "dapr.io/log-as-json": "true",
        "dapr.io/enable-profiling": "true", "dapr.io/app-ssl": "true",
        "dapr.io/app-max-concurrency": "4", "dapr.io/http-max-request-size": "5",
        "dapr.io/max-body-size": "6Mi", "dapr.io/http-read-buffer-size": "7",
        "dapr.io/read-buffer-size": "8Ki", "dapr.io/unix-domain-socket-path": "/s",
        "dapr.io/block-shutdown-duration": "9s", "dapr.io/actors-disseminate-timeout": "10s",
        "dapr.io/disable-init-endpoints": "config",
    });
    let mut settings = settings();
    settings.reminders = Some("r:s.ns:1".to_owned());
    settings.actors = Actors::Service("a:b.ns:2".to_owned());
    insta::assert_snapshot!(arguments(&sidecar(&annotations, &settings)).join("\n"));
}

#[rstest]
#[case("app-port", "abc", r#"dapr.io/app-port: "abc" is not an integer; the default 0 applies"#)]
#[case(
    "app-port",
    "70000",
    "dapr.io/app-port: 70000 is not a port from 1 to 65535; daprd does not start"
)]
#[case(
    "app-port",
    "3500",
    "dapr.io/app-port: 3500 is also the port of the HTTP API; daprd does not start"
)]
#[case(
    "app-port",
    "50001",
    "dapr.io/app-port: 50001 is also the port of dapr.io/grpc-port; daprd does not start"
)]
#[case(
    "grpc-port",
    "0",
    "dapr.io/grpc-port: 0 is not a port from 1 to 65535; the API server rejects the pod"
)]
#[case(
    "metrics-port",
    "4294967300",
    r#"dapr.io/metrics-port: "4294967300" does not fit in 32 bits; the default 9090 applies"#
)]
#[case(
    "app-max-concurrency",
    "many",
    r#"dapr.io/app-max-concurrency: "many" is not an integer and is ignored"#
)]
#[case("app-protocol", "gopher", r#"dapr.io/app-protocol: "gopher" is not http, https, grpc, grpcs or h2c; daprd does not start"#)]
#[case(
    "log-level",
    "loud",
    r#"dapr.io/log-level: "loud" is not debug, info, warn, error or fatal; daprd does not start"#
)]
#[case("block-shutdown-duration", "5", r#"dapr.io/block-shutdown-duration: "5" has no unit; write for example 5s or 5m; daprd does not start"#)]
#[case(
    "app-binding-options-timeout",
    "",
    "dapr.io/app-binding-options-timeout: is empty; the default applies"
)]
#[case("max-body-size", "16 MB", r#"dapr.io/max-body-size: "16 MB" is not a quantity such as 100m or 64Mi and daprd does not start"#)]
#[case(
    "sidecar-cpu-limit",
    "1 core",
    r#"dapr.io/sidecar-cpu-limit: "1 core" is not a quantity such as 100m or 64Mi and is ignored"#
)]
#[case("disable-init-endpoints", "config,subscribed", r#"dapr.io/disable-init-endpoints: "subscribed" is not config or subscribe; daprd does not start"#)]
#[case(
    "unix-domain-socket-path",
    "sock",
    r#"dapr.io/unix-domain-socket-path: "sock" is not an absolute path; the API server rejects the pod"#
)]
#[case("sidecar-image", "", "dapr.io/sidecar-image: is empty; the default applies")]
#[case(
    "volume-mounts",
    "nope:/x",
    r#"dapr.io/volume-mounts: the pod has no volume for "nope:/x"; the entry is ignored"#
)]
#[case(
    "volume-mounts-rw",
    "data",
    r#"dapr.io/volume-mounts-rw: "data" is not of the form volume:path and is ignored"#
)]
#[case(
    "env",
    "NAMESPACE=x",
    "dapr.io/env: NAMESPACE overrides the value that the injector sets; rename it"
)]
#[case("env", "A =x", r#"dapr.io/env: "A " is not a valid variable name"#)]
#[case(
    "env-from-secret",
    "A=b:c:d",
    "dapr.io/env-from-secret: variable A is dropped; use the form A=secret:key"
)]
#[case(
    "pluggable-components",
    "gone",
    r#"dapr.io/pluggable-components: the pod has no container "gone"; the entry is ignored"#
)]
#[case(
    "sidecar-seccomp-profile-type",
    "Localhost",
    "dapr.io/sidecar-seccomp-profile-type: Localhost needs a profile path, which no annotation sets; the API server rejects the pod"
)]
#[case(
    "apport",
    "1",
    r#"unknown annotation "dapr.io/apport" is ignored; did you mean dapr.io/app-port?"#
)]
fn warns_of_an_invalid_value_and_injects(
    #[case] key: &str,
    #[case] value: &str,
    #[case] want: &str,
) {
    let (patch, warnings) =
        inject(&pod(&json!({ format!("dapr.io/{key}"): value })), &context(&settings()));
    assert_eq!(warnings, [want]);
    assert!(!patch.0.is_empty());
}

#[test]
fn strict_mode_refuses_with_all_problems_in_one_text() {
    let mut settings = settings();
    settings.strict_annotations = true;
    let pod = pod(&json!({"dapr.io/app-port": "abc", "dapr.io/log-level": "loud"}));
    let error = decide(&pod, &context(&settings)).unwrap_err().to_string();
    insta::assert_snapshot!(error, @r#"annotations of pod default/app-5d-* are invalid: dapr.io/app-port: "abc" is not an integer; the default 0 applies; dapr.io/log-level: "loud" is not debug, info, warn, error or fatal; daprd does not start"#);
}

#[rstest]
#[case::too_old("1.17.13", "actors-disseminate-timeout", "1s", false)]
#[case::new_enough("1.18.0", "actors-disseminate-timeout", "1s", true)]
#[case::backport("1.16.18", "app-binding-options-timeout", "1s", true)]
#[case::gap("1.17.11", "app-binding-options-timeout", "1s", false)]
#[case::unknown("edge", "disable-init-endpoints", "config", true)]
fn leaves_out_flags_that_a_pinned_image_does_not_know(
    #[case] tag: &str,
    #[case] key: &str,
    #[case] value: &str,
    #[case] emitted: bool,
) {
    let annotations = json!({
        format!("dapr.io/{key}"): value, "dapr.io/sidecar-image": format!("ghcr.io/dapr/daprd:{tag}")
    });
    let (plus, _) = difference(&annotations, &settings());
    assert_eq!(!plus.is_empty(), emitted);
    let (_, warnings) = inject(&pod(&annotations), &context(&settings()));
    assert_eq!(warnings.is_empty(), emitted, "{warnings:?}");
}

#[test]
fn resources_keep_the_good_quantities() {
    let annotations = json!({
        "dapr.io/sidecar-cpu-request": "100m", "dapr.io/sidecar-memory-request": "bad",
        "dapr.io/sidecar-memory-limit": "1Gi",
    });
    let sidecar = sidecar(&annotations, &settings());
    assert_eq!(
        sidecar["resources"],
        json!({"limits": {"memory": "1Gi"}, "requests": {"cpu": "100m"}})
    );
}

#[test]
fn environment_in_order_with_the_list_of_keys() {
    let annotations = json!({
        "dapr.io/env": "A=1, B=x,y", "dapr.io/env-from-secret": "C=s:k,D=s,E=a:b:c",
        "dapr.io/api-token-secret": "api", "dapr.io/app-token-secret": "app",
    });
    let mut settings = settings();
    settings.downward_api = true;
    let sidecar = sidecar(&annotations, &settings);
    insta::assert_json_snapshot!(sidecar["env"]);
}

#[test]
fn user_volumes_come_first_in_the_mounts() {
    let annotations = json!({
        "dapr.io/volume-mounts": "data:/ro", "dapr.io/volume-mounts-rw": "data:/rw",
        "dapr.io/unix-domain-socket-path": "/run/dapr",
    });
    let pod = patched(&pod(&annotations), &context(&settings()));
    assert_eq!(
        container(&pod, "daprd")["volumeMounts"],
        json!([
            {"name": "data", "mountPath": "/ro", "readOnly": true},
            {"name": "data", "mountPath": "/rw"},
            {"name": "dapr-unix-domain-socket", "mountPath": "/var/run/dapr-sockets"},
            {"name": "dapr-identity-token", "mountPath": "/var/run/secrets/dapr.io/sentrytoken", "readOnly": true},
        ])
    );
    assert_eq!(
        container(&pod, "app")["volumeMounts"],
        json!([{"name": "dapr-unix-domain-socket", "mountPath": "/run/dapr"}])
    );
    assert_eq!(
        pod["spec"]["volumes"][1],
        json!({"name": "dapr-unix-domain-socket", "emptyDir": {"medium": "Memory"}})
    );
}

#[test]
fn the_apps_own_variables_and_mounts_win() {
    let mut pod = pod(&json!({"dapr.io/unix-domain-socket-path": "/run/dapr"}));
    pod["spec"]["containers"][0]["env"] = json!([{"name": "DAPR_HTTP_PORT", "value": "1"}]);
    pod["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "mine", "mountPath": "/run/dapr"}]);
    pod["spec"]["initContainers"] = json!([{"name": "init"}]);
    let pod = patched(&pod, &context(&settings()));
    let app = container(&pod, "app");
    assert_eq!(app["env"].as_array().unwrap().len(), 3);
    assert_eq!(app["env"][0]["value"], "1");
    assert_eq!(app["volumeMounts"].as_array().unwrap().len(), 1);
    assert_eq!(container(&pod, "init"), json!({"name": "init"}));
}

#[rstest]
#[case("http", "false", Some("http"))]
#[case("HTTP", "true", Some("https"))]
#[case("grpc", "true", Some("grpcs"))]
#[case("H2C", "true", Some("h2c"))]
#[case("", "false", Some("http"))]
#[case::asked_of_dapr_1_18_1("", "true", Some("http"))]
#[case("gopher", "false", None)]
fn tells_the_app_its_protocol(
    #[case] protocol: &str,
    #[case] ssl: &str,
    #[case] want: Option<&str>,
) {
    let pod = pod(&json!({"dapr.io/app-protocol": protocol, "dapr.io/app-ssl": ssl}));
    let app = container(&patched(&pod, &context(&settings())), "app");
    let found =
        app["env"].as_array().unwrap().iter().find(|v| v["name"] == "APP_PROTOCOL").cloned();
    assert_eq!(found.and_then(|v| v["value"].as_str().map(str::to_owned)).as_deref(), want);
}

#[test]
fn the_debugger_wraps_the_sidecar() {
    let sidecar = sidecar(
        &json!({"dapr.io/enable-debug": "true", "dapr.io/debug-port": "4444"}),
        &settings(),
    );
    let args: Vec<&str> =
        sidecar["args"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).take(11).collect();
    assert_eq!(
        args,
        [
            "/dlv",
            "--listen",
            ":4444",
            "--accept-multiclient",
            "--headless=true",
            "--log",
            "--api-version=2",
            "exec",
            "/daprd",
            "--",
            "--dapr-http-port"
        ]
    );
    assert_eq!(sidecar["ports"][4], json!({"name": "dapr-debug", "containerPort": 4444}));
}

#[test]
fn a_tolerated_virtual_node_gets_a_command() {
    let mut settings = settings();
    settings.entrypoint_tolerations =
        Toleration::parse_list(r#"[{"key":"aws","operator":"Exists","effect":"NoSchedule"}]"#)
            .unwrap();
    let mut pod = pod(&json!({}));
    let plain = container(&patched(&pod, &context(&settings)), "daprd");
    assert!(plain.get("command").is_none());
    pod["spec"]["tolerations"] =
        json!([{"key": "aws", "operator": "Exists", "effect": "NoSchedule"}]);
    let sidecar = container(&patched(&pod, &context(&settings)), "daprd");
    assert_eq!(sidecar["command"], json!(["/daprd"]));
    assert_eq!(sidecar["args"][0], "--dapr-http-port");
}

#[rstest]
#[case::unknown_system(json!({}), false)]
#[case::linux(json!({"os": {"name": "linux"}}), true)]
#[case::linux_by_selector(json!({"nodeSelector": {"kubernetes.io/os": "linux"}}), true)]
#[case::windows_by_selector(json!({"nodeSelector": {"kubernetes.io/os": "windows"}}), false)]
fn added_certificates_loosen_security_only_where_windows_is_possible(
    #[case] spec: Value,
    #[case] strict: bool,
) {
    let mut settings = settings();
    settings.security = Security {
        run_as_user: Some(5),
        run_as_group: Some(6),
        drop_all: true,
        ..Security::default()
    };
    let mut pod = pod(
        &json!({"dapr.io/env": "SSL_CERT_DIR=/certs", "dapr.io/sidecar-seccomp-profile-type": "RuntimeDefault"}),
    );
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    let context =
        container(&patched(&pod, &context(&settings)), "daprd")["securityContext"].clone();
    let want = if strict {
        json!({
            "allowPrivilegeEscalation": false, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
            "runAsUser": 5, "runAsGroup": 6,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
        })
    } else {
        json!({
            "allowPrivilegeEscalation": false, "runAsNonRoot": false, "readOnlyRootFilesystem": false,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
            "windowsOptions": {"runAsUserName": "ContainerAdministrator"},
        })
    };
    assert_eq!(context, want);
}

#[rstest]
#[case::off(NativeDefault::Off, None, false)]
#[case::cluster(NativeDefault::On, None, true)]
#[case::unknown_cluster(NativeDefault::Auto, None, false)]
#[case::annotation_on(NativeDefault::Off, Some("true"), true)]
#[case::annotation_off(NativeDefault::On, Some("false"), false)]
fn native_sidecars(
    #[case] cluster: NativeDefault,
    #[case] annotation: Option<&str>,
    #[case] native: bool,
) {
    let mut settings = settings();
    settings.native = cluster;
    let annotation = annotation.map_or(json!({}), |a| json!({"dapr.io/enable-native-sidecar": a}));
    let mut pod = pod(&annotation);
    pod["spec"]["initContainers"] = json!([{"name": "init"}]);
    let pod = patched(&pod, &context(&settings));
    let list = if native { "initContainers" } else { "containers" };
    let last = pod["spec"][list].as_array().unwrap().last().unwrap();
    assert_eq!(last["name"], "daprd");
    assert_eq!(last.get("restartPolicy"), native.then(|| json!("Always")).as_ref());
}

#[test]
fn a_native_sidecar_is_the_first_init_container_where_there_is_none() {
    let (patch, _) =
        inject(&pod(&json!({"dapr.io/enable-native-sidecar": "true"})), &context(&settings()));
    let patch = json!(patch);
    assert_eq!(patch[1], json!({"op": "add", "path": "/spec/initContainers", "value": []}));
    assert_eq!(patch[2]["path"], "/spec/initContainers/-");
}

#[rstest]
#[case(json!({"hostNetwork": true}), Some("hostNetwork without dnsPolicy ClusterFirstWithHostNet: daprd cannot resolve the names of the control plane and does not become ready"))]
#[case(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), Some("hostNetwork: daprd uses ports 3500, 3501, 9090, 50001, 50002 of the node, so a node can run one such pod, and no other process on these ports"))]
#[case(json!({"hostNetwork": false, "dnsPolicy": "ClusterFirst"}), None)]
fn warns_of_the_host_network(#[case] spec: Value, #[case] want: Option<&str>) {
    let mut pod = pod(&json!({}));
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    let (_, warnings) = inject(&pod, &context(&settings()));
    assert_eq!(warnings.first().map(String::as_str), want);
}

#[test]
fn warns_if_the_grace_period_is_too_short() {
    let annotations = json!({"dapr.io/block-shutdown-duration": "25s"});
    let (_, warnings) = inject(&pod(&annotations), &context(&settings()));
    insta::assert_snapshot!(warnings.join("\n"), @"dapr.io/block-shutdown-duration and dapr.io/graceful-shutdown-seconds need 30 s, but Kubernetes kills the pod after 30 s: increase terminationGracePeriodSeconds");
    let mut roomy = pod(&annotations);
    roomy["spec"]["terminationGracePeriodSeconds"] = json!(60);
    assert!(inject(&roomy, &context(&settings())).1.is_empty());
}

#[test]
fn replaces_an_empty_app_id_and_config() {
    let mut pod = pod(&json!({"dapr.io/app-id": "", "dapr.io/config": ""}));
    pod["metadata"]["name"] = json!("web-0");
    let (_, warnings) = inject(&pod, &context(&settings()));
    assert_eq!(
        warnings,
        ["dapr.io/app-id is empty; the app id is web-0", "dapr.io/config is empty and was removed"]
    );
    let pod = patched(&pod, &context(&settings()));
    assert_eq!(
        pod["metadata"]["annotations"],
        json!({"dapr.io/enabled": "true", "dapr.io/app-id": "web-0"})
    );
}

#[test]
fn without_a_token_of_the_injector_sidecars_mount_none() {
    let mut settings = settings();
    settings.identity_token = false;
    let pod = patched(&pod(&json!({})), &context(&settings));
    assert!(container(&pod, "daprd").get("volumeMounts").is_none());
    assert_eq!(pod["spec"]["volumes"], json!([{"name": "data"}]));
}
