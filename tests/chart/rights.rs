//! The services, run with the accounts and arguments that the chart renders: they may make every
//! request that they make to a real API server, and use every right that they have, or the
//! exception is listed here.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value yields null, no panic")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use blackbox::accounts::{bound_token, kubeconfig};
use blackbox::{
    ApiCluster, Deadline, Process, Scratch, Service, Spawn, build_binary, environment, until,
};
use rstest::rstest;
use serde_json::{Value, json};

use crate::helm::{NAMESPACE, Objects, REGISTRY, folder, template_with};

/// Seconds, far more than any step takes.
const TIMEOUT: u64 = 90;

/// Rights that no request of this test needs, with the suite or the part of Kubernetes that needs
/// them.
const ARGUED: &[(&str, &str, &str)] = &[
    // Only a pod elects: tests/e2e/main.rs.
    ("dapr-operator", "leases", "get"),
    ("dapr-operator", "leases", "update"),
    ("dapr-operator", "leases", "create"),
    // Checked by the admission plug-in OwnerReferencesPermissionEnforcement for the service.
    ("dapr-operator", "deployments/finalizers", "update"),
    ("dapr-operator", "statefulsets/finalizers", "update"),
    // Only for a scope that no pod has: tests/operator/cases.rs.
    ("dapr-operator", "daemonsets", "list"),
    ("dapr-operator", "jobs", "list"),
    ("dapr-operator", "cronjobs", "list"),
    ("dapr-operator", "rollouts", "list"),
    ("dapr-operator", "scaledjobs", "list"),
    // An app whose port changes, or that is deleted: tests/operator/main.rs.
    ("dapr-operator", "services", "update"),
    ("dapr-operator", "services", "delete"),
    // The watchdog deletes only once the injector is reached: tests/injector/main.rs.
    ("dapr-operator", "pods", "get"),
    ("dapr-operator", "pods", "delete"),
    ("dapr-operator", "pods", "create"),
    ("dapr-operator", "namespaces", "get"),
    ("dapr-operator", "mutatingwebhookconfigurations", "get"),
    // Only until the kubelet has projected the trust anchors, which are a file here.
    ("dapr-operator", "configmaps", "get"),
    ("dapr-injector", "configmaps", "get"),
    ("dapr-placement", "configmaps", "get"),
    ("dapr-scheduler", "configmaps", "get"),
    // A namespace that is deleted: tests/scheduler/main.rs. Its list is streamed.
    ("dapr-scheduler", "namespaces", "get"),
    ("dapr-scheduler", "namespaces", "list"),
    // Dapr 1.19's own scheduler, whose image may take the place of ours, is never ready without.
    ("dapr-scheduler", "pods", "get"),
    ("dapr-scheduler", "pods", "list"),
    ("dapr-scheduler", "pods", "watch"),
    // Events on owners of pods: tests/injector_admission/main.rs. It lists pods after a long time
    // without a call.
    ("dapr-injector", "events", "create"),
    ("dapr-injector", "pods", "list"),
    // A rotation or expiry of the CA: tests/sentry/main.rs.
    ("dapr-sentry", "events", "create"),
    // A pod or Configuration that the watch has not delivered yet: tests/sentry/main.rs.
    ("dapr-sentry", "pods", "get"),
];

/// A test cluster with the chart's objects, applied as a `GitOps` tool does.
pub(crate) struct Installed {
    pub(crate) api: ApiCluster,
    pub(crate) manifests: String,
    objects: Objects,
    scratch: Scratch,
    sentry_port: u16,
}

impl Installed {
    pub(crate) fn new(sets: &[&str]) -> Result<Self> {
        let api = ApiCluster::start()?;
        let sentry_port = environment::free_port()?;
        let address = format!("global.mtls.sentryAddress=127.0.0.1:{sentry_port}");
        let all = [&[REGISTRY, &address], sets].concat();
        let manifests = template_with(&all, &["--no-hooks"])?;
        let objects = Objects::parse(&manifests)?;
        api.kubectl(&["create", "namespace", NAMESPACE])?;
        let installed =
            Self { api, manifests, objects, scratch: Scratch::new("rights")?, sentry_port };
        installed.apply_crds()?;
        installed.apply()?;
        Ok(installed)
    }

    /// `kubectl apply --server-side` of the definitions, which must have no conflict.
    pub(crate) fn apply_crds(&self) -> Result<()> {
        let crds = folder().join("crds");
        let crds = crds.to_string_lossy();
        let apply = ["apply", "--server-side", "--field-manager=gitops", "-f", &crds];
        self.api.kubectl(&apply)?;
        let wait = ["wait", "--for=condition=Established", "--timeout=60s", "-f", &crds];
        self.api.kubectl(&wait).map(drop)
    }

    /// The same of everything else.
    pub(crate) fn apply(&self) -> Result<String> {
        let apply = ["apply", "--server-side", "--field-manager=gitops", "-f", "-"];
        self.api.cluster().kubectl_with_input(&apply, &self.manifests)
    }

    /// Starts the service of this workload as its account, with the arguments and the environment
    /// of the rendered container; `more` arguments win.
    fn start(&self, service: Service, workload: &str, more: &[String]) -> Result<Process> {
        let account = self.objects.pod(workload)?["serviceAccountName"].as_str();
        let account = account.context("no account")?.to_owned();
        let name = service.binary();
        let [healthz, metrics] = [environment::free_port()?, environment::free_port()?];
        let mut spawn = Spawn::new(name, build_binary(name)?, self.scratch.path());
        for entry in self.objects.container(workload)?["env"].as_array().into_iter().flatten() {
            if let (Some(name), Some(value)) = (entry["name"].as_str(), entry["value"].as_str()) {
                spawn = spawn.env(name, value);
            }
        }
        spawn = spawn.args(self.args(workload)?);
        if service != Service::Placement {
            let way =
                kubeconfig(&self.api, &self.scratch, &format!("{name}.kubeconfig"), &account)?;
            spawn = spawn.arg("--kubeconfig").arg(way);
        }
        if service != Service::Sentry {
            let pod = self.pod_of(workload)?;
            let token = format!("{name}.token");
            let token = bound_token(&self.api, &self.scratch, &token, &account, &pod)?;
            spawn = spawn.env("DAPR_SENTRY_TOKEN_FILE", token);
            spawn = spawn.env("DAPR_TRUST_ANCHORS_FILE", self.anchors());
        }
        let mut process = spawn
            .args(more)
            .args([format!("--healthz-port={healthz}"), format!("--metrics-port={metrics}")])
            .env("NAMESPACE", NAMESPACE)
            .env("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true")
            .env_remove("KUBERNETES_SERVICE_HOST")
            .start()?;
        process.wait_for_http(healthz, "/healthz", Deadline::seconds(TIMEOUT))?;
        Ok(process)
    }

    fn args(&self, workload: &str) -> Result<Vec<String>> {
        self.objects.args(workload)
    }

    fn anchors(&self) -> PathBuf {
        self.scratch.path().join("ca.crt")
    }

    /// The pod that the workload's controller has made.
    fn pod_of(&self, workload: &str) -> Result<String> {
        let app = workload.rsplit('/').next().unwrap_or_default();
        let label = format!("app={app}");
        until(Deadline::seconds(TIMEOUT), &format!("a pod of {workload}"), || {
            let pods = self.api.get(&["pods", "-n", NAMESPACE, "-l", &label])?;
            Ok(pods["items"][0]["metadata"]["name"].as_str().map(str::to_owned))
        })
    }

    /// All services, ready.
    pub(crate) fn start_services(&self) -> Result<Vec<Process>> {
        let port =
            |flag: &str| Ok::<_, anyhow::Error>(format!("--{flag}={}", environment::free_port()?));
        let credentials = self.scratch.path().join("credentials");
        let sentry = self.start(
            Service::Sentry,
            "Deployment/dapr-sentry",
            &[
                "--listen-address=127.0.0.1".to_owned(),
                format!("--port={}", self.sentry_port),
                format!("--issuer-credentials={}", credentials.display()),
            ],
        )?;
        let published = until(Deadline::seconds(TIMEOUT), "the CA", || {
            let found = self.api.get(&["configmap", "dapr-trust-bundle", "-n", NAMESPACE])?;
            Ok(found["data"]["ca.crt"].as_str().map(str::to_owned))
        })?;
        self.scratch.write("ca.crt", published)?;
        let anchors = format!("--trust-anchors-file={}", self.anchors().display());
        let operator = self.start(
            Service::Operator,
            "Deployment/dapr-operator",
            &[
                anchors.clone(),
                port("port")?,
                port("webhook-server-port")?,
                // Only a pod knows its namespace, where the lease is.
                "--disable-leader-election".to_owned(),
            ],
        )?;
        let injector =
            self.start(Service::Injector, "Deployment/dapr-sidecar-injector", &[port("port")?])?;
        let placement = self.start(
            Service::Placement,
            "StatefulSet/dapr-placement-server",
            &[
                anchors.clone(),
                port("port")?,
                format!(
                    "--initial-cluster=dapr-placement-0=127.0.0.1:{}",
                    environment::free_port()?
                ),
            ],
        )?;
        let scheduler = self.start(
            Service::Scheduler,
            "StatefulSet/dapr-scheduler-server",
            &[
                anchors,
                port("port")?,
                port("etcd-client-port")?,
                "--id=dapr-scheduler-server-0".to_owned(),
                format!("--etcd-data-dir={}", self.scratch.path().join("jobs").display()),
            ],
        )?;
        Ok(vec![sentry, operator, injector, placement, scheduler])
    }

    /// Waits until the services have written their run-time data.
    pub(crate) fn wait_for_what_is_written(&self) -> Result<()> {
        until(Deadline::seconds(TIMEOUT), "the caBundles", || {
            let hook = self.api.get(&["mutatingwebhookconfiguration", "dapr-sidecar-injector"])?;
            let crd = self.api.get(&["crd", "subscriptions.dapr.io"])?;
            let conversion = &crd["spec"]["conversion"]["webhook"]["clientConfig"];
            let both = hook["webhooks"][0]["clientConfig"]["caBundle"].is_string()
                && conversion["caBundle"].is_string();
            Ok(both.then_some(()))
        })
    }

    /// Creates an app, and a Component whose Secret is missing; waits for a Service and an Event.
    fn work(&self, namespace: &str) -> Result<()> {
        let app = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "orders", "namespace": namespace},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "orders"}}, "template": {
                "metadata": {"labels": {"app": "orders"},
                    "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": "orders"}},
                "spec": {"containers": [{"name": "app", "image": "app"}]}}},
        });
        let component = json!({
            "apiVersion": "dapr.io/v1alpha1", "kind": "Component",
            "metadata": {"name": "store", "namespace": namespace},
            "spec": {"type": "state.redis", "version": "v1", "metadata": [
                {"name": "redisPassword", "secretKeyRef": {"name": "absent", "key": "password"}}]},
        });
        self.api.apply(&app.to_string())?;
        self.api.apply(&component.to_string())?;
        until(Deadline::seconds(TIMEOUT), "the app's Service", || {
            Ok(self.api.get(&["service", "orders-dapr", "-n", namespace]).ok())
        })?;
        until(Deadline::seconds(TIMEOUT), "an Event about the Secret", || {
            let events = self.api.get(&["events", "-n", namespace])?;
            Ok(events.to_string().contains("absent").then_some(()))
        })
    }
}

/// Account, resource with its part, verb.
type Right = (String, String, String);

/// The right that a request of the audit log needed.
fn asked(event: &Value) -> Option<Right> {
    let account = event["user"]["username"].as_str()?.rsplit(':').next()?;
    let object = &event["objectRef"];
    let mut resource = object["resource"].as_str()?.to_owned();
    if let Some(part) = object["subresource"].as_str() {
        resource = format!("{resource}/{part}");
    }
    Some((account.to_owned(), resource, event["verb"].as_str()?.to_owned()))
}

/// The rights that the rendered roles grant.
fn granted(objects: &Objects) -> BTreeSet<Right> {
    let mut all = BTreeSet::new();
    for (name, object) in &objects.0 {
        let Some((kind @ ("Role" | "ClusterRole"), role)) = name.split_once('/') else { continue };
        if role == "secret-reader" {
            continue; // of applications
        }
        let binding = &objects.0[&format!("{kind}Binding/{role}")];
        let account = binding["subjects"][0]["name"].as_str().unwrap_or_default();
        for rule in object["rules"].as_array().into_iter().flatten() {
            let texts = |key: &str| rule[key].as_array().cloned().unwrap_or_default();
            for resource in texts("resources") {
                for verb in texts("verbs") {
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    all.insert((account.to_owned(), text(&resource), text(&verb)));
                }
            }
        }
    }
    all
}

#[rstest]
#[case::cluster_wide(&[], "apps")]
#[case::namespaced(&["global.rbac.namespaced=true"], NAMESPACE)]
fn services_ask_for_what_they_may_and_may_what_they_ask_for(
    #[case] sets: &[&str],
    #[case] apps: &str,
) -> Result<()> {
    let installed = Installed::new(sets)?;
    if apps != NAMESPACE {
        installed.api.kubectl(&["create", "namespace", apps])?;
    }
    let services = installed.start_services()?;
    installed.wait_for_what_is_written()?;
    installed.work(apps)?;
    // Some requests follow only after others.
    let granted = granted(&installed.objects);
    let mut idle = Vec::new();
    let used = until(Deadline::seconds(TIMEOUT), "every right to be used", || {
        idle = unused(&granted, &installed.api.audit()?);
        Ok(idle.is_empty().then_some(()))
    });
    ensure!(used.is_ok(), "granted and not needed: {idle:#?}");
    drop(services);

    let events = installed.api.audit()?;
    let forbidden: Vec<_> = events
        .iter()
        .filter(|event| event["annotations"]["authorization.k8s.io/decision"] == "forbid")
        // With rights in one namespace, cluster-wide requests are tried once and then dropped.
        .filter(|event| apps != NAMESPACE || !event["objectRef"]["namespace"].is_null())
        .map(|event| format!("{:?} {}", asked(event), event["requestURI"]))
        .collect();
    ensure!(forbidden.is_empty(), "forbidden:\n{}", forbidden.join("\n"));
    Ok(())
}

/// The rights that are neither used so far nor listed.
fn unused(granted: &BTreeSet<Right>, events: &[Value]) -> Vec<Right> {
    let used: BTreeSet<_> = events.iter().filter_map(asked).collect();
    let argued = |right: &Right| {
        // Services list from API servers before 1.34; newer ones stream lists in a watch.
        let listed = (right.0.clone(), right.1.clone(), "watch".to_owned());
        let streamed = right.0 == "dapr-operator" && right.2 == "list" && used.contains(&listed);
        streamed
            || ARGUED.iter().any(|(account, resource, verb)| {
                (right.0.as_str(), right.1.as_str(), right.2.as_str())
                    == (*account, *resource, *verb)
            })
    };
    granted.iter().filter(|right| !used.contains(*right) && !argued(right)).cloned().collect()
}
