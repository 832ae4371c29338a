//! The rendering of the chart, without a cluster.

use anyhow::Result;
use rstest::rstest;
use serde_json::{Value, json};

use crate::helm::{NAMESPACE, Objects, REGISTRY, template};

const INVENTORY: [&str; 81] = [
    "ServiceAccount/dapr-operator",
    "ServiceAccount/dapr-injector",
    "ServiceAccount/dapr-sentry",
    "ServiceAccount/dapr-placement",
    "ServiceAccount/dapr-scheduler",
    "ClusterRole/dapr-operator-admin",
    "ClusterRole/dapr-injector",
    "ClusterRole/dapr-sentry",
    "ClusterRole/dapr-placement",
    "ClusterRole/dapr-scheduler",
    "ClusterRoleBinding/dapr-operator-admin",
    "ClusterRoleBinding/dapr-injector",
    "ClusterRoleBinding/dapr-sentry",
    "ClusterRoleBinding/dapr-placement",
    "ClusterRoleBinding/dapr-scheduler",
    "Role/dapr-operator",
    "Role/dapr-injector",
    "Role/dapr-sentry",
    "Role/secret-reader",
    "RoleBinding/dapr-operator",
    "RoleBinding/dapr-injector",
    "RoleBinding/dapr-sentry",
    "RoleBinding/dapr-secret-reader",
    "Secret/dapr-trust-bundle",
    "ConfigMap/dapr-trust-bundle",
    "Deployment/dapr-operator",
    "Deployment/dapr-sidecar-injector",
    "Deployment/dapr-sentry",
    "StatefulSet/dapr-placement-server",
    "StatefulSet/dapr-scheduler-server",
    "Service/dapr-api",
    "Service/dapr-webhook",
    "Service/dapr-sentry",
    "Service/dapr-sidecar-injector",
    "Service/dapr-placement-server",
    "Service/dapr-scheduler-server",
    "Service/dapr-scheduler-server-a",
    "PodDisruptionBudget/dapr-scheduler-server-disruption-budget",
    "MutatingWebhookConfiguration/dapr-sidecar-injector",
    "Configuration/daprsystem",
    // To read the trust anchors before the kubelet has projected them.
    "Role/dapr-placement",
    "RoleBinding/dapr-placement",
    "Role/dapr-scheduler",
    "RoleBinding/dapr-scheduler",
    // The admission guard.
    "ValidatingAdmissionPolicy/dapr-sidecar-guard",
    "ValidatingAdmissionPolicyBinding/dapr-sidecar-guard",
    // Limits of the control plane's own accounts that RBAC cannot express.
    "ValidatingAdmissionPolicy/dapr-accounts-definitions",
    "ValidatingAdmissionPolicyBinding/dapr-accounts-definitions",
    "ValidatingAdmissionPolicy/dapr-accounts-pods",
    "ValidatingAdmissionPolicyBinding/dapr-accounts-pods",
    "ValidatingAdmissionPolicy/dapr-accounts-services",
    "ValidatingAdmissionPolicyBinding/dapr-accounts-services",
    "ValidatingAdmissionPolicy/dapr-accounts-webhooks",
    "ValidatingAdmissionPolicyBinding/dapr-accounts-webhooks",
    // Checks that the schemas cannot express.
    "ValidatingAdmissionPolicy/dapr-components",
    "ValidatingAdmissionPolicyBinding/dapr-components",
    "ValidatingAdmissionPolicy/dapr-configurations",
    "ValidatingAdmissionPolicyBinding/dapr-configurations",
    "ValidatingAdmissionPolicy/dapr-resiliencies",
    "ValidatingAdmissionPolicyBinding/dapr-resiliencies",
    "ValidatingAdmissionPolicy/dapr-subscriptions",
    "ValidatingAdmissionPolicyBinding/dapr-subscriptions",
    "ValidatingAdmissionPolicy/dapr-httpendpoints",
    "ValidatingAdmissionPolicyBinding/dapr-httpendpoints",
    "ValidatingAdmissionPolicy/dapr-mcpservers",
    "ValidatingAdmissionPolicyBinding/dapr-mcpservers",
    // Hooks: Helm creates these before an upgrade, or for `helm test`, and removes them.
    "ServiceAccount/dapr-crds",
    "ClusterRole/dapr-crds",
    "ClusterRoleBinding/dapr-crds",
    "Role/dapr-crds",
    "RoleBinding/dapr-crds",
    "Job/dapr-crds",
    "ServiceAccount/dapr-scheduler-check",
    "Role/dapr-scheduler-check",
    "RoleBinding/dapr-scheduler-check",
    "Job/dapr-scheduler-check",
    "ClusterRole/dapr-test",
    "ClusterRoleBinding/dapr-test",
    "Role/dapr-test",
    "RoleBinding/dapr-test",
    "Pod/dapr-test",
];

/// Workload, path of the program in the image, name that `dapr.io/control-plane` has.
const SERVICES: [(&str, &str, &str); 5] = [
    ("Deployment/dapr-operator", "operator", "operator"),
    ("Deployment/dapr-sentry", "sentry", "sentry"),
    ("Deployment/dapr-sidecar-injector", "injector", "injector"),
    ("StatefulSet/dapr-placement-server", "placement", "placement"),
    ("StatefulSet/dapr-scheduler-server", "scheduler", "scheduler"),
];

fn assert_golden(name: &str, text: &str) {
    insta::with_settings!({
        snapshot_path => "../golden",
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, { insta::assert_snapshot!(name, text) });
}

#[test]
fn renders_the_objects_of_the_inventory() -> Result<()> {
    let objects = Objects::render(&[])?;
    let mut want = INVENTORY.map(str::to_owned).to_vec();
    want.sort();
    let got: Vec<String> = objects.0.keys().cloned().collect();
    assert_eq!(got, want);
    for (key, object) in &objects.0 {
        let cluster_wide = ["Cluster", "Mutating", "Validating"];
        let want = match key.as_str() {
            "Role/secret-reader" | "RoleBinding/dapr-secret-reader" => Some("default"),
            key if cluster_wide.iter().any(|prefix| key.starts_with(prefix)) => None,
            _ => Some(NAMESPACE),
        };
        assert_eq!(object["metadata"]["namespace"].as_str(), want, "{key}");
        let labels = &object["metadata"]["labels"];
        assert_eq!(labels["app.kubernetes.io/part-of"], "dapr", "{key}");
        assert_eq!(labels["app.kubernetes.io/version"], "1.18.3", "{key}");
    }
    Ok(())
}

#[test]
fn the_default_rendering_is_the_golden_file() -> Result<()> {
    assert_golden("chart_default", &template(&[REGISTRY])?);
    Ok(())
}

#[rstest]
#[case::ha("chart_ha", &["global.ha.enabled=true"])]
#[case::required_spread("chart_required_spread", &[
    "global.ha.enabled=true",
    "global.ha.podAntiAffinityPolicy=requiredDuringSchedulingIgnoredDuringExecution",
])]
#[case::namespaced("chart_namespaced", &["global.rbac.namespaced=true"])]
#[case::production("chart_production", &["profile=production"])]
#[case::dev("chart_dev", &["profile=dev"])]
#[case::placement_ha("chart_placement_ha", &["dapr_placement.ha=true"])]
#[case::some_secrets("chart_some_secrets", &["global.rbac.secrets.namespaces={shop}"])]
#[case::network_policy("chart_network_policy", &[
    "networkPolicy.enabled=true", "networkPolicy.apiServerCIDRs={10.0.0.1/32}",
    "networkPolicy.extraEgress.sentry[0].ports[0].port=8443",
])]
#[case::no_crd_hook("chart_no_crd_hook", &["crds.upgradeJob.enabled=false"])]
#[case::no_metrics("chart_no_metrics", &["global.prometheus.enabled=false"])]
#[case::no_injector("chart_no_injector", &["dapr_sidecar_injector.enabled=false"])]
#[case::no_watchdog("chart_no_watchdog", &["dapr_operator.watchInterval=0"])]
#[case::no_secret_reload("chart_no_secret_reload", &["dapr_operator.secretReload.enabled=false"])]
#[case::component_status("chart_component_status", &["dapr_operator.componentStatus.enabled=true"])]
#[case::printer_columns("chart_printer_columns", &["dapr_operator.printerColumns.enabled=true"])]
#[case::daemon_sets("chart_daemon_sets", &["dapr_operator.serviceReconciler.daemonSets=true"])]
#[case::no_scheduler("chart_no_scheduler", &["global.scheduler.enabled=false"])]
#[case::kept_scheduler("chart_kept_scheduler", &["global.scheduler.external=true"])]
#[case::jobs_in_memory("chart_jobs_in_memory", &["dapr_scheduler.cluster.inMemoryStorage=true"])]
#[case::no_actors("chart_no_actors", &["global.actors.enabled=false"])]
#[case::host_network("chart_host_network", &[
    "dapr_operator.hostNetwork=true", "dapr_operator.healthzPort=8081",
    "dapr_operator.webhookPort=29443",
    "dapr_sidecar_injector.hostNetwork=true", "dapr_sidecar_injector.webhookPort=24000",
])]
fn a_setting_changes_this_and_nothing_else(
    #[case] name: &str,
    #[case] sets: &[&str],
) -> Result<()> {
    assert_golden(name, &Objects::render(&[])?.changes_to(&Objects::render(sets)?));
    Ok(())
}

/// The protocol of each port of each Service (Dapr 1.19); meshes guess without it.
#[rstest]
#[case::default(&[], "dapr-api/grpc=tls dapr-api/legacy=tls dapr-api/metrics=http dapr-placement-server/api=tls \
    dapr-placement-server/metrics=http dapr-placement-server/raft-node=tls \
    dapr-scheduler-server-a/api=tls dapr-scheduler-server-a/etcd-client=tcp dapr-scheduler-server-a/etcd-peer=tls \
    dapr-scheduler-server-a/metrics=http dapr-scheduler-server/api=tls dapr-scheduler-server/etcd-client=tcp \
    dapr-scheduler-server/etcd-peer=tls dapr-scheduler-server/metrics=http dapr-sentry/grpc=tls dapr-sentry/metrics=http \
    dapr-sidecar-injector/https=https dapr-sidecar-injector/metrics=http dapr-webhook/=https")]
#[case::oidc(&["global.scheduler.enabled=false", "global.prometheus.enabled=false", "dapr_sentry.jwt.enabled=true", "dapr_sentry.oidc.enabled=true",
    "dapr_sentry.oidc.tls.certFile=c", "dapr_sentry.oidc.tls.keyFile=k"],
    "dapr-api/grpc=tls dapr-api/legacy=tls dapr-placement-server/api=tls dapr-placement-server/raft-node=tls \
    dapr-sentry/grpc=tls dapr-sentry/oidc=https dapr-sidecar-injector/https=https dapr-webhook/=https")]
#[case::without_mtls(&["global.scheduler.enabled=false", "global.mtls.enabled=false", "global.prometheus.enabled=false",
    "dapr_sentry.jwt.enabled=true", "dapr_sentry.oidc.enabled=true", "dapr_sentry.oidc.tls.enabled=false"],
    "dapr-api/grpc=tls dapr-api/legacy=tls dapr-placement-server/api=tls dapr-placement-server/raft-node=tls \
    dapr-sentry/grpc=tls dapr-sentry/oidc=http dapr-sidecar-injector/https=https dapr-webhook/=https")]
fn every_port_names_its_protocol(#[case] sets: &[&str], #[case] want: &str) -> Result<()> {
    let objects = Objects::render(sets)?;
    let mut got = Vec::new();
    for (key, object) in &objects.0 {
        let Some(name) = key.strip_prefix("Service/") else { continue };
        for port in object["spec"]["ports"].as_array().into_iter().flatten() {
            let text = |key: &str| port[key].as_str().unwrap_or_default().to_owned();
            got.push(format!("{name}/{}={}", text("name"), text("appProtocol")));
        }
    }
    got.sort();
    assert_eq!(got.join(" "), want);
    Ok(())
}

#[test]
fn arguments_of_the_user_come_last() -> Result<()> {
    let objects = Objects::render(&["dapr_sentry.extraArgs={--log-level=debug,--x=a b}"])?;
    let args = objects.args("Deployment/dapr-sentry")?;
    assert!(args.ends_with(&["--log-level=debug".to_owned(), "--x=a b".to_owned()]), "{args:?}");
    Ok(())
}

#[test]
fn the_ca_is_mounted_for_the_group_of_the_pod_only() -> Result<()> {
    let pod = Objects::render(&[])?.pod("Deployment/dapr-sentry")?.clone();
    let secret = &pod["volumes"][0]["secret"];
    assert_eq!(*secret, json!({"secretName": "dapr-trust-bundle", "defaultMode": 0o440}));
    assert_eq!(pod["securityContext"]["fsGroup"], 65532);
    Ok(())
}

#[test]
fn a_cluster_may_assign_the_groups_of_volumes() -> Result<()> {
    let objects = Objects::render(&[
        "dapr_sentry.fsGroup=null",
        "dapr_placement.fsGroup=null",
        "dapr_scheduler.securityContext.fsGroup=null",
    ])?;
    for workload in [
        "Deployment/dapr-sentry",
        "StatefulSet/dapr-placement-server",
        "StatefulSet/dapr-scheduler-server",
    ] {
        assert_eq!(objects.pod(workload)?["securityContext"].get("fsGroup"), None, "{workload}");
    }
    Ok(())
}

#[rstest]
#[case::default(&[])]
#[case::dev(&["profile=dev"])]
#[case::production(&["profile=production"])]
fn every_service_has_a_limit_of_memory_and_asks_for_less(#[case] sets: &[&str]) -> Result<()> {
    let objects = Objects::render(sets)?;
    for (workload, ..) in SERVICES {
        let resources = &objects.container(workload)?["resources"];
        assert!(resources["limits"]["memory"].is_string(), "{workload}: {resources}");
        assert!(resources["requests"]["memory"].is_string(), "or Kubernetes takes the limit");
    }
    Ok(())
}

#[test]
fn a_restart_is_for_processes_that_do_not_answer() -> Result<()> {
    let objects = Objects::render(&[])?;
    for (workload, ..) in SERVICES {
        let container = objects.container(workload)?;
        assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/livez", "{workload}");
        assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/healthz", "{workload}");
    }
    Ok(())
}

#[test]
fn two_renderings_are_the_same_bytes() -> Result<()> {
    let sets = [REGISTRY, "global.ha.enabled=true", "global.logAsJson=true"];
    assert_eq!(template(&sets)?, template(&sets)?);
    Ok(())
}

#[rstest]
#[case::default(&[REGISTRY], "registry.example/trilby/NAME:1.18.3", "ghcr.io/dapr/daprd:1.18.5")]
#[case::mirror(&["global.registry=mirror:5000/x/"], "mirror:5000/x/NAME:1.18.3", "mirror:5000/x/daprd:1.18.5")]
#[case::upstream_registry_is_none(&[REGISTRY, "global.registry=docker.io/daprio"],
    "registry.example/trilby/NAME:1.18.3", "ghcr.io/dapr/daprd:1.18.5")]
#[case::tag(&[REGISTRY, "global.tag=1.18.4"], "registry.example/trilby/NAME:1.18.4", "ghcr.io/dapr/daprd:1.18.4")]
#[case::respin(&[REGISTRY, "global.tag=1.18.3-r12"],
    "registry.example/trilby/NAME:1.18.3-r12", "ghcr.io/dapr/daprd:1.18.3")]
#[case::variant(&[REGISTRY, "global.tag=1.18.3-mariner"],
    "registry.example/trilby/NAME:1.18.3", "ghcr.io/dapr/daprd:1.18.3-mariner")]
#[case::architecture(&[REGISTRY, "global.tag=1.18.3-linux-arm64"],
    "registry.example/trilby/NAME:1.18.3", "ghcr.io/dapr/daprd:1.18.3-linux-arm64")]
#[case::variant_of_an_architecture(&[REGISTRY, "global.tag=1.18.3-mariner-linux-amd64"],
    "registry.example/trilby/NAME:1.18.3", "ghcr.io/dapr/daprd:1.18.3-mariner-linux-amd64")]
#[case::own_sidecar(&[REGISTRY, "global.daprd.registry=r/d", "global.daprd.tag=1.17.9"],
    "registry.example/trilby/NAME:1.18.3", "r/d/daprd:1.17.9")]
#[case::complete_sidecar(&[REGISTRY, "dapr_sidecar_injector.image.name=localhost/daprd:dev"],
    "registry.example/trilby/NAME:1.18.3", "localhost/daprd:dev")]
fn images_come_from(
    #[case] sets: &[&str],
    #[case] service: &str,
    #[case] sidecar: &str,
) -> Result<()> {
    let objects = Objects::parse(&template(sets)?)?;
    for (workload, program, _) in SERVICES {
        let image = &objects.container(workload)?["image"];
        assert_eq!(*image, service.replace("NAME", program), "{workload}");
    }
    let injector = "Deployment/dapr-sidecar-injector";
    assert_eq!(objects.env(injector, "SIDECAR_IMAGE")?.as_deref(), Some(sidecar));
    Ok(())
}

#[test]
fn complete_image_names_need_no_registry() -> Result<()> {
    let objects = Objects::parse(&template(&[
        "dapr_operator.image.name=localhost/o:1",
        "dapr_sentry.image.name=localhost/s:1",
        "dapr_placement.image.name=localhost/p:1",
        "dapr_scheduler.image.name=localhost/d:1",
        "dapr_sidecar_injector.injectorImage.name=localhost/i:1",
    ])?)?;
    assert_eq!(objects.container("Deployment/dapr-operator")?["image"], "localhost/o:1");
    Ok(())
}

#[test]
fn container_0_is_the_service() -> Result<()> {
    // The CLI reads readiness and version there.
    let extra = r#"[{"name":"helper","image":"h:1"}]"#;
    let sets = ["operator", "sentry", "injector", "placement", "scheduler"]
        .map(|service| format!("global.extraContainers.{service}={extra}"));
    let mut args = Vec::new();
    for set in &sets {
        args.extend(["--set-json", set.as_str()]);
    }
    let objects = Objects::parse(&crate::helm::template_with(&[REGISTRY], &args)?)?;
    for (workload, program, id) in SERVICES {
        let name = workload.split_once('/').map(|(_, name)| name);
        let pod = objects.pod(workload)?;
        assert_eq!(pod["containers"][0]["name"].as_str(), name);
        assert_eq!(pod["containers"][0]["command"][0], format!("/{program}"));
        assert_eq!(pod["containers"][1]["name"], "helper");
        let template = &objects.get(workload)?["spec"]["template"]["metadata"];
        assert_eq!(template["annotations"]["dapr.io/control-plane"], id);
        assert_eq!(template["annotations"].get("dapr.io/app-id"), None);
        assert_eq!(template["labels"]["app"].as_str(), name);
    }
    Ok(())
}

#[test]
fn the_webhook_is_entry_0_and_has_no_ca_bundle() -> Result<()> {
    let objects = Objects::render(&[])?;
    let webhooks = &objects.get("MutatingWebhookConfiguration/dapr-sidecar-injector")?["webhooks"];
    assert_eq!(webhooks.as_array().map(Vec::len), Some(1));
    assert_eq!(webhooks[0]["name"], "sidecar-injector.dapr.io");
    assert_eq!(webhooks[0]["clientConfig"].get("caBundle"), None);
    assert_eq!(webhooks[0]["reinvocationPolicy"], "IfNeeded");
    assert_eq!(webhooks[0]["failurePolicy"], "Ignore");
    Ok(())
}

#[test]
fn selectors_of_the_user_are_added_to_the_rule_that_spares_the_control_plane() -> Result<()> {
    let objects = Objects::render(&[
        "dapr_sidecar_injector.objectSelector.matchLabels.team=a",
        "dapr_sidecar_injector.namespaceSelector.matchLabels.dapr=yes",
    ])?;
    let webhook = objects.get("MutatingWebhookConfiguration/dapr-sidecar-injector")?;
    let guard = objects.get("ValidatingAdmissionPolicy/dapr-sidecar-guard")?;
    let places = [&webhook["webhooks"][0], &guard["spec"]["matchConstraints"]];
    for place in places {
        assert_eq!(place["objectSelector"]["matchLabels"]["team"], "a");
        let rule = &place["objectSelector"]["matchExpressions"][0];
        assert_eq!((rule["key"].as_str(), rule["operator"].as_str()), (Some("app"), Some("NotIn")));
        let apps: Vec<_> = rule["values"].as_array().into_iter().flatten().collect();
        for (workload, ..) in SERVICES {
            let app = workload.split_once('/').map(|(_, name)| Value::from(name));
            assert!(apps.contains(&&app.unwrap_or_default()), "{workload} is not spared");
        }
        let switch = serde_json::json!({
            "key": "dapr.io/injection", "operator": "NotIn", "values": ["disabled"],
        });
        assert_eq!(
            place["namespaceSelector"],
            serde_json::json!({"matchLabels": {"dapr": "yes"}, "matchExpressions": [switch]})
        );
    }
    Ok(())
}

#[test]
fn an_environment_variable_of_the_user_replaces_ours() -> Result<()> {
    let objects = Objects::render(&[
        "dapr_sidecar_injector.extraEnvVars.SIDECAR_IMAGE_PULL_POLICY=Always",
        r"dapr_sidecar_injector.extraEnvVars.NO_PROXY=.svc\,10.0.0.0/8\,a=b",
    ])?;
    let injector = "Deployment/dapr-sidecar-injector";
    let env = objects.container(injector)?["env"].as_array().cloned().unwrap_or_default();
    let named = |name: &str| env.iter().filter(|entry| entry["name"] == name).count();
    assert_eq!(named("SIDECAR_IMAGE_PULL_POLICY"), 1);
    let value = |name| objects.env(injector, name);
    assert_eq!(value("SIDECAR_IMAGE_PULL_POLICY")?.as_deref(), Some("Always"));
    assert_eq!(value("NO_PROXY")?.as_deref(), Some(".svc,10.0.0.0/8,a=b"));
    Ok(())
}

#[test]
fn another_cluster_domain_reaches_every_address() -> Result<()> {
    let objects = Objects::render(&["global.dnsSuffix=.corp.example"])?;
    let injector = "Deployment/dapr-sidecar-injector";
    let sentry = format!("dapr-sentry.{NAMESPACE}.svc.corp.example:443");
    assert_eq!(objects.env(injector, "KUBE_CLUSTER_DOMAIN")?.as_deref(), Some("corp.example"));
    assert_eq!(objects.env(injector, "DAPR_SENTRY_ADDRESS")?.as_ref(), Some(&sentry));
    let placement = objects.args("StatefulSet/dapr-placement-server")?;
    assert!(placement.contains(&format!("--sentry-address={sentry}")), "{placement:?}");
    let system = objects.get("Configuration/daprsystem")?;
    assert_eq!(system["spec"]["mtls"]["sentryAddress"], sentry);
    Ok(())
}

#[test]
fn jwt_and_oidc_values_become_flags_and_ports() -> Result<()> {
    let objects = Objects::render(&[
        "dapr_sentry.jwt.enabled=true",
        "dapr_sentry.jwt.issuer=https://issuer.example",
        "dapr_sentry.jwt.keyID=k1",
        "dapr_sentry.oidc.enabled=true",
        "dapr_sentry.oidc.tls.enabled=false",
        "dapr_sentry.oidc.server.port=8443",
        "dapr_sentry.oidc.allowedHosts={a,b}",
    ])?;
    let pod = objects.pod("Deployment/dapr-sentry")?;
    let container = &pod["containers"][0];
    let given = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let given: Vec<&str> =
        given.filter(|arg| ["--jwt", "--oidc"].iter().any(|p| arg.starts_with(p))).collect();
    assert_eq!(
        given,
        [
            "--jwt-enabled=true",
            "--jwt-issuer=https://issuer.example",
            "--jwt-key-id=k1",
            "--oidc-enabled=true",
            "--oidc-server-listen-address=",
            "--oidc-server-tls-enabled=false",
            "--oidc-allowed-hosts=a,b",
        ]
    );
    let port = |ports: &Value| {
        let named = ports.as_array().into_iter().flatten().find(|port| port["name"] == "oidc");
        named.cloned()
    };
    let want = json!({"containerPort": 9080, "name": "oidc", "protocol": "TCP"});
    assert_eq!(port(&container["ports"]), Some(want));
    let service = &objects.0["Service/dapr-sentry"]["spec"]["ports"];
    let want = json!({"name": "oidc", "port": 8443, "protocol": "TCP", "targetPort": "oidc",
        "appProtocol": "http"});
    assert_eq!(port(service), Some(want));
    Ok(())
}

#[test]
fn each_feature_of_the_injector_brings_its_rights_and_settings_and_no_others() -> Result<()> {
    let objects = Objects::render(&[
        "dapr_sidecar_injector.nativeSidecar=auto",
        "dapr_sidecar_injector.sidecarDefaults.log-level=warn",
        "dapr_sidecar_injector.injectionEvents=false",
        "dapr_sidecar_injector.reachabilityCheck=false",
        "dapr_sidecar_injector.namespaceDefaults=false",
        "dapr_sidecar_injector.clientCA.configMap=api-clients",
    ])?;
    let injector = "Deployment/dapr-sidecar-injector";
    let value = |name| objects.env(injector, name);
    assert_eq!(value("NATIVE_SIDECAR_ENABLED")?.as_deref(), Some("auto"));
    assert_eq!(value("SIDECAR_DEFAULTS")?.as_deref(), Some(r#"{"log-level":"warn"}"#));
    assert_eq!(value("INJECTION_EVENTS")?, None);
    let args = objects.container(injector)?["args"].to_string();
    assert!(args.contains("/var/run/secrets/trilby/client-ca/ca.crt"), "{args}");
    let volumes = objects.get(injector)?["spec"]["template"]["spec"]["volumes"].to_string();
    assert!(volumes.contains("api-clients"), "{volumes}");
    let webhook = objects.get("MutatingWebhookConfiguration/dapr-sidecar-injector")?;
    assert_eq!(webhook["webhooks"][0]["sideEffects"], "None");
    let rules = objects.get("ClusterRole/dapr-injector")?["rules"].to_string();
    assert!(rules.contains("nodes"), "{rules}");
    for other in ["events", "pods", "namespaces"] {
        assert!(!rules.contains(&format!("\"{other}\"")), "{rules}");
    }
    Ok(())
}
