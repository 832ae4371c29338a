//! Workloads, Services and settings of the control plane.

use std::collections::BTreeSet;

use resources::images::minor;
use serde_json::Value;

use crate::checks::finding::{Finding, Group, about, some_of};
use crate::facts::{Distribution, Facts, named};
use crate::pods::{Container, Pod, text};

const GROUP: Group = Group::ControlPlane;
const DOCS_PODS: &str = "run kubectl describe on its pods, and see docs/troubleshooting.md";
const DOCS_JOBS: &str = "run kubectl describe and logs on its pod, which says why (jobs of Dapr's own \
                         scheduler on its volume, a full volume), and see docs/troubleshooting.md";
/// Age in seconds after which a Lease counts as expired (default duration in Kubernetes: 15 s).
const LEASE_EXPIRED: i64 = 60;

/// The reference's may stay beside Trilby, at its own version, in place of ours.
const SCHEDULER: &str = "dapr-scheduler-server";
/// Names of its volume claims, followed by the number of the pod.
const SCHEDULER_CLAIM: &str = "dapr-scheduler-data-dir-dapr-scheduler-server-";

/// The workloads: name, id of the check, and the consequence of absence.
const WORKLOADS: [(&str, &str, Absence); 5] = [
    ("dapr-operator", "operator-ready", Absence::Error),
    ("dapr-sentry", "sentry-ready", Absence::Error),
    ("dapr-sidecar-injector", "injector-ready", Absence::NoInjection),
    ("dapr-placement-server", "placement-ready", Absence::NoActors),
    (SCHEDULER, "scheduler-ready", Absence::NoJobs),
];

#[derive(Clone, Copy)]
enum Absence {
    /// Required.
    Error,
    /// Disabled by `dapr_sidecar_injector.enabled`.
    NoInjection,
    /// Disabled by `global.actors.enabled`.
    NoActors,
    /// Disabled by `global.scheduler.enabled`.
    NoJobs,
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    if let Ok(workloads) = &facts.own.workloads
        && workloads.is_empty()
    {
        return vec![not_installed(facts)];
    }
    let mut all: Vec<Finding> =
        WORKLOADS.iter().filter_map(|(name, id, absent)| ready(facts, name, id, *absent)).collect();
    all.push(images(facts));
    all.push(versions(facts));
    all.push(services(facts));
    all.push(lease(facts));
    all.push(configuration(facts));
    all.extend(leftovers(facts));
    all
}

fn not_installed(facts: &Facts) -> Finding {
    let elsewhere = facts.cluster.pods.iter().flatten().find(|pod| {
        pod.labels.get("app").is_some_and(|app| app == "dapr-operator") && pod.is_alive()
    });
    let text = format!("no control plane is installed in namespace {}", facts.namespace);
    match elsewhere {
        Some(pod) => Finding::error(
            GROUP,
            "installed",
            text,
            format!(
                "a control plane is installed in namespace {0}: add --namespace {0}",
                pod.namespace
            ),
        ),
        None => Finding::error(GROUP, "installed", text, "install it; see README.md, Install"),
    }
}

fn ready(facts: &Facts, name: &str, id: &'static str, absent: Absence) -> Option<Finding> {
    if let Err(error) = &facts.own.workloads {
        return matches!(absent, Absence::Error).then(|| Finding::unknown(GROUP, id, error));
    }
    let Some(workload) = facts.workload(name) else {
        let remedy = "upgrade or reinstall the chart";
        return match absent {
            Absence::Error => {
                Some(Finding::error(GROUP, id, format!("{name} does not exist"), remedy))
            }
            Absence::NoInjection => Some(Finding::warning(
                GROUP,
                id,
                "the sidecar injector is not installed: pods get no sidecars",
                "set the chart value dapr_sidecar_injector.enabled=true, or add sidecars with `injector inject`",
            )),
            Absence::NoActors => {
                Some(Finding::ok(GROUP, id, "placement is not installed: actors are disabled"))
            }
            Absence::NoJobs => no_scheduler(facts, id),
        };
    };
    let number = |path: &str| workload.pointer(path).and_then(Value::as_u64);
    let wanted = number("/spec/replicas").unwrap_or(1);
    let there = number("/status/readyReplicas").unwrap_or(0);
    if there >= wanted {
        let version = facts.version_of(name).unwrap_or_default();
        return Some(Finding::ok(
            GROUP,
            id,
            format!("{name} {version} is ready, {there} of {wanted}"),
        ));
    }
    let why =
        facts.cluster.pods.iter().flatten().filter(|pod| is_of(pod, facts, name)).find_map(why);
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    let text = format!("{name} is not ready, {there} of {wanted}{why}");
    let remedy = if name == SCHEDULER && has_own_scheduler(facts) { DOCS_JOBS } else { DOCS_PODS };
    Some(match there {
        0 => Finding::error(GROUP, id, text, remedy),
        _ => Finding::warning(GROUP, id, text, remedy),
    })
}

/// Without a scheduler; an error if sidecars get the address of one, for which they wait.
fn no_scheduler(facts: &Facts, id: &'static str) -> Option<Finding> {
    facts.workload(resources::names::SERVICE_INJECTOR)?;
    let told = facts.argument(resources::names::SERVICE_INJECTOR, "--scheduler-enabled");
    if told.as_deref() == Some("false") {
        let text = "the scheduler is not installed: jobs, reminders and workflows are disabled";
        return Some(Finding::ok(GROUP, id, text));
    }
    Some(Finding::error(
        GROUP,
        id,
        "the scheduler does not exist, and the injector gives sidecars its address: they do not get ready",
        "upgrade the chart with global.scheduler.enabled=true, or with false, and without \
         global.scheduler.external; then restart the apps",
    ))
}

/// Whether the scheduler is Trilby's. Only its chart names the port that sidecars connect to (Dapr
/// 1.18.3, chart).
fn has_own_scheduler(facts: &Facts) -> bool {
    let ports = facts
        .workload(SCHEDULER)
        .and_then(|scheduler| scheduler.pointer("/spec/template/spec/containers/0/ports"));
    let ports = ports.and_then(Value::as_array).into_iter().flatten();
    ports.into_iter().any(|port| port.get("name").and_then(Value::as_str) == Some("api"))
}

/// Number of pods that use volumes; one that is scaled to zero may use any.
fn pods(stateful_set: &Value) -> u64 {
    match stateful_set.pointer("/spec/replicas").and_then(Value::as_u64) {
        Some(0) => u64::MAX,
        replicas => replicas.unwrap_or(1),
    }
}

fn is_of(pod: &Pod, facts: &Facts, app: &str) -> bool {
    pod.namespace == facts.namespace
        && pod.is_alive()
        && pod.labels.get("app").is_some_and(|label| label == app)
}

/// Why a pod is not ready: its scheduling, else the first waiting container.
fn why(pod: &Pod) -> Option<String> {
    if let Some(message) = &pod.unschedulable {
        return Some(format!("it cannot be scheduled: {message}"));
    }
    let waiting = |container: &Container| container.waiting.clone();
    let (reason, message) = pod.containers.iter().find_map(waiting)?;
    Some(if message.is_empty() { reason } else { format!("{reason}: {message}") })
}

/// Images of the control plane and of sidecars that cannot be pulled.
fn images(facts: &Facts) -> Finding {
    let id = "images-pulled";
    about(GROUP, id, &facts.cluster.pods, |pods| {
        let sidecar = resources::names::SIDECAR_CONTAINER;
        let ours = |pod: &Pod, container: &Container| {
            container.name == sidecar
                || (pod.namespace == facts.namespace && container.name.starts_with("dapr-"))
        };
        let stuck: BTreeSet<&str> = pods
            .iter()
            .filter(|pod| pod.is_alive())
            .flat_map(|pod| pod.containers.iter().filter(move |c| ours(pod, c)))
            .filter(|container| {
                container.waiting.as_ref().is_some_and(|(reason, _)| {
                    matches!(
                        reason.as_str(),
                        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName"
                    )
                })
            })
            .map(|container| container.image.as_str())
            .collect();
        if stuck.is_empty() {
            return Finding::ok(
                GROUP,
                id,
                "the images of control plane and sidecars can be pulled",
            );
        }
        let names: Vec<String> = stuck.into_iter().map(str::to_owned).collect();
        Finding::error(
            GROUP,
            id,
            format!("images cannot be pulled: {}", some_of(&names)),
            "push them to a registry that the nodes can read, and set the chart values \
             global.controlPlane.registry, global.registry or global.imagePullSecrets",
        )
    })
}

fn versions(facts: &Facts) -> Finding {
    let id = "versions";
    about(GROUP, id, &facts.own.workloads, |_| {
        let kept = facts.distribution() == Distribution::Trilby && !has_own_scheduler(facts);
        let ours = |name: &str| name != SCHEDULER || !kept;
        let named = WORKLOADS
            .iter()
            .filter(|(name, ..)| ours(name))
            .filter_map(|(name, ..)| Some((*name, facts.version_of(name)?)));
        let all: Vec<(&str, String)> = named.collect();
        let distinct: BTreeSet<&str> = all.iter().map(|(_, version)| version.as_str()).collect();
        let list: Vec<String> =
            all.iter().map(|(name, version)| format!("{name} {version}")).collect();
        if distinct.len() > 1 {
            return Finding::error(
                GROUP,
                id,
                format!("the services have different versions: {}", list.join(", ")),
                "finish the upgrade: run kubectl rollout status for each, or reinstall the chart",
            );
        }
        let Some(version) = distinct.into_iter().next() else {
            return Finding::warning(
                GROUP,
                id,
                "the images have no version tag",
                "the dapr CLI reads the version from the tag: use a tag, or a tag and a digest",
            );
        };
        let mine = runtime::VERSION;
        if facts.distribution() == Distribution::Trilby
            && minor(version).is_some()
            && minor(version) != minor(mine)
        {
            return Finding::warning(
                GROUP,
                id,
                format!("the control plane has version {version}, this command {mine}"),
                "use daprctl of the same version",
            );
        }
        let whose = if facts.distribution() == Distribution::Dapr { " (Dapr's own)" } else { "" };
        Finding::ok(GROUP, id, format!("all services have version {version}{whose}"))
    })
}

fn services(facts: &Facts) -> Finding {
    let id = "services";
    let both = facts
        .own
        .services
        .as_ref()
        .and_then(|services| facts.own.endpoint_slices.as_ref().map(|slices| (services, slices)))
        .map_err(Clone::clone);
    about(GROUP, id, &both, |(services, slices)| {
        let mut needed = vec!["dapr-api", "dapr-sentry", "dapr-webhook"];
        let injects = facts.workload("dapr-sidecar-injector").is_some();
        needed.extend(injects.then_some(resources::names::SERVICE_INJECTOR));
        let actors = facts.workload("dapr-placement-server").is_some();
        needed.extend(actors.then_some(resources::names::SERVICE_PLACEMENT));
        let jobs = facts.workload(SCHEDULER).is_some();
        needed.extend(jobs.then_some(resources::names::SERVICE_SCHEDULER));
        let bad: Vec<String> =
            needed.into_iter().filter_map(|name| without_address(name, services, slices)).collect();
        if bad.is_empty() {
            return Finding::ok(GROUP, id, "all Services have endpoints");
        }
        Finding::error(
            GROUP,
            id,
            bad.join("; "),
            "check that its pods are ready and its selector is unchanged; reinstall the chart if it does not exist",
        )
    })
}

fn without_address(name: &str, services: &[Value], slices: &[Value]) -> Option<String> {
    let Some(service) = named(services, name) else {
        return Some(format!("Service {name} does not exist"));
    };
    if text(service.pointer("/spec/type")) == "ExternalName" {
        return None;
    }
    let label = |slice: &Value| {
        let labels = slice.pointer("/metadata/labels")?;
        Some(labels.get("kubernetes.io/service-name")?.as_str()? == name)
    };
    let ready = slices.iter().filter(|slice| label(slice) == Some(true)).any(|slice| {
        let endpoints = slice.get("endpoints").and_then(Value::as_array);
        endpoints.into_iter().flatten().any(|endpoint| {
            // Absent means ready (Kubernetes, EndpointConditions).
            endpoint.pointer("/conditions/ready").and_then(Value::as_bool) != Some(false)
        })
    });
    (!ready).then(|| format!("Service {name} has no endpoints"))
}

fn lease(facts: &Facts) -> Finding {
    let id = "operator-lease";
    about(GROUP, id, &facts.own.leases, |leases| {
        let Some(lease) = named(leases, "operator.dapr.io") else {
            return Finding::warning(
                GROUP,
                id,
                "the operators have no leader: Lease operator.dapr.io does not exist",
                "check the log of the operator; without a leader new apps get no Service",
            );
        };
        let holder = text(lease.pointer("/spec/holderIdentity"));
        let renewed: Option<jiff::Timestamp> = text(lease.pointer("/spec/renewTime")).parse().ok();
        let age = renewed.map(|renewed| facts.now().duration_since(renewed).as_secs());
        if age.is_some_and(|age| age <= LEASE_EXPIRED) && !holder.is_empty() {
            return Finding::ok(GROUP, id, format!("{holder} is the leader of the operators"));
        }
        Finding::warning(
            GROUP,
            id,
            "the operators have no leader: Lease operator.dapr.io has expired",
            "check the log of the operator; without a leader new apps get no Service",
        )
    })
}

fn configuration(facts: &Facts) -> Finding {
    let id = "configuration";
    about(GROUP, id, &facts.own.configuration, |found| {
        let name = resources::names::CONTROL_PLANE_CONFIGURATION;
        let remedy = "reinstall the chart with dapr_config.dapr_config_chart_included=true";
        let Some(configuration) = found else {
            return Finding::error(
                GROUP,
                id,
                format!("Configuration {name} does not exist"),
                remedy,
            );
        };
        match configuration.pointer("/spec/mtls/enabled").and_then(Value::as_bool) {
            Some(true) => {
                Finding::ok(GROUP, id, format!("Configuration {name} exists, mTLS is enabled"))
            }
            Some(false) => Finding::warning(
                GROUP,
                id,
                format!("Configuration {name} exists, mTLS between sidecars is disabled"),
                "set the chart value global.mtls.enabled=true, then restart the apps",
            ),
            None => Finding::error(
                GROUP,
                id,
                format!("Configuration {name} lacks spec.mtls.enabled: the dapr CLI crashes"),
                remedy,
            ),
        }
    })
}

/// Objects that only the reference has, and volumes of a removed scheduler.
fn leftovers(facts: &Facts) -> Option<Finding> {
    let id = "leftovers";
    if facts.distribution() != Distribution::Trilby {
        return None;
    }
    Some(about(GROUP, id, &facts.own.claims, |claims| {
        let scheduler = facts.workload(SCHEDULER);
        let own = has_own_scheduler(facts); // or kept on purpose, docs/upgrade.md
        let volume = |claim: &&Value| {
            let name = text(claim.pointer("/metadata/name"));
            let pod = name.strip_prefix(SCHEDULER_CLAIM).and_then(|pod| pod.parse::<u64>().ok());
            name.starts_with("raft-log-dapr-placement-")
                || pod.is_some_and(|pod| scheduler.is_none_or(|set| own && pod >= pods(set)))
        };
        let claims = claims.iter().filter(volume);
        let mut left: Vec<String> =
            claims.map(|c| format!("pvc/{}", text(c.pointer("/metadata/name")))).collect();
        // Dapr's has versions below 1; the other of this name is ours.
        let version = facts.version_of("dapr-dashboard");
        let dapr_s = version.as_deref().and_then(minor).is_some_and(|(major, _)| major == 0);
        left.extend(dapr_s.then(|| "deployment/dapr-dashboard".to_owned()));
        if left.is_empty() {
            return Finding::ok(GROUP, id, "no objects of another control plane are left");
        }
        Finding::warning(
            GROUP,
            id,
            format!("objects that nothing uses are left: {}", some_of(&left)),
            format!(
                "if you do not plan to return to what used them, and need none of the jobs on \
                 volumes of a scheduler: kubectl -n {} delete {}",
                facts.namespace,
                left.join(" ")
            ),
        )
    }))
}
