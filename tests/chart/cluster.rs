//! The chart on a real API server, as a real Helm release.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context as _, Result, anyhow};
use blackbox::{ApiCluster, Deadline, environment, until};
use rstest::rstest;
use serde_json::{Value, json};

use crate::helm::{NAMESPACE, REGISTRY, folder, template};

/// The chart has cluster-wide objects: one test at a time may install it.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The common cluster with the namespace of the control plane, for dry runs: they need no turn.
fn dry() -> Result<&'static ApiCluster> {
    let api = ApiCluster::common()?;
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    api.apply(&namespace.to_string())?;
    Ok(api)
}

/// The shared cluster with the CRDs and the namespace of the control plane.
pub(crate) fn api() -> Result<&'static ApiCluster> {
    static PREPARED: OnceLock<Result<()>> = OnceLock::new();
    let api = ApiCluster::shared()?;
    let prepared = PREPARED.get_or_init(|| prepare(api));
    prepared.as_ref().map_err(|error| anyhow!("prepare the cluster: {error:#}"))?;
    Ok(api)
}

fn prepare(api: &ApiCluster) -> Result<()> {
    api.kubectl(&["create", "namespace", NAMESPACE])?;
    let crds = folder().join("crds");
    let crds = crds.to_string_lossy();
    api.kubectl(&["apply", "--server-side", "-f", &crds])?;
    api.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "-f", &crds]).map(drop)
}

/// Removes the release of another test, with the CA that it leaves behind.
pub(crate) fn clean(api: &ApiCluster) -> Result<()> {
    let namespace = ["--namespace", NAMESPACE];
    let uninstall = ["uninstall", "dapr", "--ignore-not-found", "--wait"];
    api.cluster().helm(&[&uninstall[..], &namespace].concat())?;
    let delete = ["delete", "secret,configmap", "dapr-trust-bundle", "--ignore-not-found"];
    api.kubectl(&[&delete[..], &namespace].concat()).map(drop)
}

fn dry_run(api: &ApiCluster, manifests: &str) -> Result<String> {
    api.cluster().kubectl_with_input(&["apply", "--dry-run=server", "-f", "-"], manifests)
}

#[rstest]
#[case::default(&[])]
#[case::ha(&["global.ha.enabled=true"])]
#[case::namespaced(&["global.rbac.namespaced=true"])]
#[case::jobs_in_memory(&["dapr_scheduler.cluster.inMemoryStorage=true"])]
#[case::no_mtls(&["global.mtls.enabled=false"])]
#[case::production(&["profile=production", "networkPolicy.enabled=true", "monitoring.dashboard.enabled=true"])]
#[case::dev(&["profile=dev", "networkPolicy.enabled=true", "networkPolicy.apiServerCIDRs={10.0.0.1/32,fd00::1/128}"])]
#[case::secrets_of_some_namespaces(&["global.rbac.secrets.namespaces={default,kube-public}"])]
#[case::critical(&["global.priorityClassName=system-cluster-critical"])]
#[case::much(&[
    "global.ha.enabled=true", "global.ha.disruption.minimumAvailable=2", "global.ha.disruption.maximumUnavailable=",
    "global.imagePullSecrets=a", "global.nodeSelector.disk=ssd", "global.labels.team=a", "global.logAsJson=true",
    "global.daprControlPlaneArch=arm64", "global.seccompProfile=RuntimeDefault", "global.mtls.mountSentryVolume=false",
    "global.argoRolloutServiceReconciler.enabled=true", "global.operator.watchdogCanPatchPodLabels=true",
    "global.issuerFilenames.ca=ca.crt", "global.issuerFilenames.cert=tls.crt", "global.issuerFilenames.key=tls.key",
    "dapr_sidecar_injector.matchAnnotatedPodsOnly=true", "dapr_sidecar_injector.hostNetwork=true",
    "dapr_sidecar_injector.sidecarRunAsUser=1000", "dapr_sidecar_injector.webhookFailurePolicy=Fail",
    "dapr_sentry.caKeyType=rsa-2048",
    "dapr_operator.resources.requests.cpu=100m", "dapr_operator.extraEnvVars.A=1", "dapr_placement.scaleZero=true",
    "dapr_rbac.serviceAccount.operator.annotations.role=a",
])]
fn the_api_server_accepts_every_object(#[case] sets: &[&str]) -> Result<()> {
    let api = dry()?;
    let mut all = vec![REGISTRY];
    all.extend(sets);
    // The account of the pod of `helm test` exists only in a dry run.
    let account = "serviceAccountName: dapr-operator\n  restartPolicy";
    let manifests =
        template(&all)?.replace(account, "serviceAccountName: default\n  restartPolicy");
    let accepted = dry_run(api, &manifests)?;
    let documents = manifests.lines().filter(|line| line.starts_with("kind: ")).count();
    assert_eq!(accepted.lines().count(), documents, "{accepted}");
    Ok(())
}

#[test]
fn pod_security_restricted_admits_the_control_plane() -> Result<()> {
    let api = dry()?;
    let restricted = api.namespace("restricted")?;
    let enforce = "pod-security.kubernetes.io/enforce=restricted";
    api.kubectl(&["label", "namespace", &restricted, enforce])?;
    let objects = crate::helm::Objects::parse(&template(&[REGISTRY])?)?;
    for workload in [
        "Deployment/dapr-operator",
        "Deployment/dapr-sentry",
        "Deployment/dapr-sidecar-injector",
        "StatefulSet/dapr-placement-server",
        "StatefulSet/dapr-scheduler-server",
    ] {
        let spec = &objects.get(workload)?["spec"];
        let mut template = spec["template"].clone();
        // The controller adds a volume for each claim to the pod.
        for claim in spec["volumeClaimTemplates"].as_array().into_iter().flatten() {
            let volume = json!({"name": claim["metadata"]["name"], "emptyDir": {}});
            let volumes = template["spec"]["volumes"].as_array_mut();
            volumes.context("no volumes")?.push(volume);
        }
        template["metadata"]["name"] = "pod".into();
        template["metadata"]["namespace"] = restricted.as_str().into();
        template["spec"]["serviceAccountName"] = "default".into();
        template["apiVersion"] = "v1".into();
        template["kind"] = "Pod".into();
        dry_run(api, &template.to_string()).with_context(|| workload.to_owned())?;
    }
    Ok(())
}

/// One Helm release from the first installation to the end.
#[test]
fn a_release_never_takes_away_what_was_written_at_run_time() -> Result<()> {
    let _alone = alone();
    let api = api()?;
    clean(api)?;
    install(api, &[])?;

    // Sentry writes its CA, the injector its caBundle.
    let ours = json!({"stringData": {"ca.crt": "own", "issuer.crt": "own", "issuer.key": "own"}});
    patch(api, "secret/dapr-trust-bundle", &ours)?;
    patch(api, "configmap/dapr-trust-bundle", &json!({"data": {"ca.crt": "own"}}))?;
    set_ca_bundle(api, "b3du")?;

    install(api, &["global.logAsJson=true"])?;
    assert_eq!(ca(api)?, ["own", "own", "own"], "an upgrade must leave the CA alone");
    assert_eq!(ca_bundle(api)?, "b3du", "an upgrade must leave the caBundle alone");

    // `dapr mtls renew-certificate` stores the new CA in the release's values.
    install(
        api,
        &[
            "dapr_sentry.tls.root.certPEM=new",
            "dapr_sentry.tls.issuer.certPEM=new",
            "dapr_sentry.tls.issuer.keyPEM=new",
        ],
    )?;
    assert_eq!(ca(api)?, ["new", "new", "new"], "values must replace the CA");

    // The next upgrade is without them.
    install(api, &[])?;
    assert_eq!(
        ca(api)?,
        ["new", "new", "new"],
        "values that are gone must not take the CA with them"
    );

    api.cluster().helm(&["uninstall", "dapr", "--namespace", NAMESPACE, "--wait"])?;
    assert_eq!(ca(api)?, ["new", "new", "new"], "the CA must outlive the release");
    install(api, &[])?;
    assert_eq!(ca(api)?, ["new", "new", "new"], "a new release must take over the CA");
    clean(api)
}

pub(crate) fn install(api: &ApiCluster, sets: &[&str]) -> Result<()> {
    let chart = folder();
    let chart = chart.to_string_lossy();
    let mut args = vec!["upgrade", "--install", "dapr", &chart, "--namespace", NAMESPACE];
    // The hook's pod does not run on this test cluster.
    args.extend(["--reset-values", "--set", REGISTRY, "--set", "crds.upgradeJob.enabled=false"]);
    args.extend(["--set", "dapr_scheduler.upgradeCheck.enabled=false"]);
    for set in sets {
        args.extend(["--set", set]);
    }
    api.cluster().helm(&args).map(drop)
}

fn patch(api: &ApiCluster, object: &str, patch: &Value) -> Result<()> {
    api.kubectl(&["patch", object, "-n", NAMESPACE, "-p", &patch.to_string()]).map(drop)
}

fn ca(api: &ApiCluster) -> Result<Vec<String>> {
    let secret = api.get(&["secret", "dapr-trust-bundle", "-n", NAMESPACE])?;
    let data = secret.get("data").context("the Secret is empty")?;
    ["ca.crt", "issuer.crt", "issuer.key"].iter().map(|key| decode(data.get(key))).collect()
}

fn decode(value: Option<&Value>) -> Result<String> {
    use base64::Engine as _;
    let text = value.and_then(Value::as_str).context("a key of the CA is gone")?;
    Ok(String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text)?)?)
}

const WEBHOOK: &str = "mutatingwebhookconfiguration/dapr-sidecar-injector";

fn set_ca_bundle(api: &ApiCluster, bundle: &str) -> Result<()> {
    let place = "/webhooks/0/clientConfig/caBundle";
    let patch = json!([{"op": "add", "path": place, "value": bundle}]).to_string();
    api.kubectl(&["patch", WEBHOOK, "--type=json", "-p", &patch]).map(drop)
}

fn ca_bundle(api: &ApiCluster) -> Result<String> {
    let webhook = api.get(&[WEBHOOK])?;
    let bundle = webhook.pointer("/webhooks/0/clientConfig/caBundle").and_then(Value::as_str);
    bundle.map(str::to_owned).context("the caBundle is gone")
}

#[test]
fn the_notes_name_what_has_no_effect() -> Result<()> {
    let api = dry()?;
    let chart = folder();
    let notes = api.cluster().helm(&[
        "install",
        "dapr",
        &chart.to_string_lossy(),
        "--namespace",
        NAMESPACE,
        "--dry-run",
        "--set",
        REGISTRY,
        "--set",
        "my_team.owner=x",
    ])?;
    assert!(
        notes.contains("these values have no effect here:") && notes.contains("my_team"),
        "{notes}"
    );
    Ok(())
}

/// Account, verb, resource, namespace ("" for cluster-wide): rights that each service must have.
const RIGHTS: [(&str, &str, &str, &str); 16] = [
    ("dapr-operator", "get", "secrets", "apps"),
    ("dapr-operator", "watch", "secrets", "apps"),
    ("dapr-operator", "watch", "components.dapr.io", "apps"),
    ("dapr-operator", "create", "events.events.k8s.io", "apps"),
    ("dapr-operator", "delete", "pods", "apps"),
    ("dapr-operator", "create", "pods", NAMESPACE),
    ("dapr-operator", "get", "mutatingwebhookconfigurations/dapr-sidecar-injector", ""),
    ("dapr-operator", "get", "namespaces", ""),
    ("dapr-operator", "patch", "customresourcedefinitions/subscriptions.dapr.io", ""),
    ("dapr-sentry", "update", "secrets/dapr-trust-bundle", NAMESPACE),
    ("dapr-sentry", "create", "tokenreviews.authentication.k8s.io", ""),
    ("dapr-sentry", "create", "events.events.k8s.io", NAMESPACE),
    ("dapr-injector", "patch", "mutatingwebhookconfigurations/dapr-sidecar-injector", ""),
    ("dapr-placement", "get", "configmaps/dapr-trust-bundle", NAMESPACE),
    ("dapr-scheduler", "get", "configmaps/dapr-trust-bundle", NAMESPACE),
    ("dapr-scheduler", "watch", "namespaces", ""),
];

/// Rights that a service must not have.
const NO_RIGHTS: [(&str, &str, &str, &str); 16] = [
    ("dapr-operator", "patch", "customresourcedefinitions/components.dapr.io", ""),
    ("dapr-operator", "create", "pods", "apps"),
    ("dapr-operator", "patch", "pods", "apps"),
    ("dapr-operator", "list", "namespaces", ""),
    ("dapr-operator", "update", "components.dapr.io", "apps"),
    ("dapr-operator", "update", "secrets", NAMESPACE),
    ("dapr-operator", "update", "secrets", "apps"),
    ("dapr-injector", "get", "secrets/dapr-trust-bundle", NAMESPACE),
    ("dapr-sentry", "get", "secrets/other", NAMESPACE),
    ("dapr-sentry", "get", "secrets", "apps"),
    ("dapr-injector", "patch", "mutatingwebhookconfigurations/other", ""),
    ("dapr-injector", "get", "secrets", "apps"),
    ("dapr-placement", "get", "secrets/dapr-trust-bundle", NAMESPACE),
    ("dapr-placement", "list", "pods", NAMESPACE),
    ("dapr-scheduler", "get", "secrets/dapr-trust-bundle", NAMESPACE),
    ("dapr-scheduler", "delete", "namespaces", ""),
];

#[test]
fn a_service_has_its_rights_and_no_more() -> Result<()> {
    let _alone = alone();
    let api = api()?;
    let manifests = template(&[REGISTRY])?;
    let roles: Vec<&str> =
        manifests.split("\n---\n").filter(|document| is_role(document)).collect();
    api.apply(&roles.join("\n---\n"))?;
    // The authorizer sees a new role shortly after the API server has stored it.
    for right in RIGHTS {
        until(Deadline::seconds(10), &format!("{right:?}"), || Ok(may(api, right)?.then_some(())))?;
    }
    for right in NO_RIGHTS {
        assert!(!may(api, right)?, "{right:?} is allowed");
    }
    api.cluster().kubectl_with_input(&["delete", "-f", "-"], &roles.join("\n---\n")).map(drop)
}

/// Asks the API server instead of reading the role.
fn may(api: &ApiCluster, right: (&str, &str, &str, &str)) -> Result<bool> {
    let (account, verb, resource, namespace) = right;
    let user = format!("system:serviceaccount:{NAMESPACE}:{account}");
    let (resource, name) = resource.split_once('/').unwrap_or((resource, ""));
    let (resource, group) = resource.split_once('.').unwrap_or((resource, group_of(resource)));
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": {
            "verb": verb, "resource": resource, "group": group, "name": name, "namespace": namespace,
        }},
    });
    let args = ["create", "-o", "json", "-f", "-"];
    let answer = api.cluster().kubectl_with_input(&args, &review.to_string())?;
    let answer: Value = serde_json::from_str(&answer)?;
    answer.pointer("/status/allowed").and_then(Value::as_bool).context("no answer")
}

fn group_of(resource: &str) -> &'static str {
    match resource {
        "customresourcedefinitions" => "apiextensions.k8s.io",
        "mutatingwebhookconfigurations" => "admissionregistration.k8s.io",
        _ => "",
    }
}

fn is_role(document: &str) -> bool {
    ["\nkind: Role", "\nkind: ClusterRole"].iter().any(|kind| document.contains(kind))
        && !document.contains("secret-reader")
}

#[test]
fn the_sample_fits_into_a_restricted_namespace() -> Result<()> {
    let api = dry()?;
    let namespace = api.namespace("sample")?;
    let mode = "pod-security.kubernetes.io/warn=restricted";
    api.kubectl(&["label", "namespace", &namespace, mode])?;
    let sample = environment::workspace().join("deploy/samples/hello-kubernetes");
    for overlay in [sample.clone(), sample.join("local")] {
        let manifests = api.kubectl(&["kustomize", &overlay.to_string_lossy()])?;
        let args =
            ["apply", "--dry-run=server", "--warnings-as-errors", "-n", &namespace, "-f", "-"];
        let accepted = api.cluster().kubectl_with_input(&args, &manifests)?;
        assert_eq!(accepted.lines().count(), 11, "{accepted}");
    }
    Ok(())
}
