//! The control plane's own workloads, Services and settings.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::facts::{Facts, Flavour, named};
use crate::finding::{Finding, Group, about, some_of};
use crate::pods::{Container, Pod, minor, text};

const GROUP: Group = Group::ControlPlane;
const DOCS_PODS: &str = "kubectl describe its pods, and see docs/troubleshooting.md";
/// A holder of a Lease that has not renewed it for so long is gone (Kubernetes, leader election:
/// 15 s by default).
const LEASE_OVER: i64 = 60;

/// The reference's alone; it may stay beside Trilby, at its own version.
const SCHEDULER: &str = "dapr-scheduler-server";

/// A workload: name, id of its check, and what it means when there is none.
const WORKLOADS: [(&str, &str, Absence); 5] = [
    ("dapr-operator", "operator-ready", Absence::Error),
    ("dapr-sentry", "sentry-ready", Absence::Error),
    ("dapr-sidecar-injector", "injector-ready", Absence::NoInjection),
    ("dapr-placement-server", "placement-ready", Absence::NoActors),
    (SCHEDULER, "scheduler-ready", Absence::Nothing),
];

#[derive(Clone, Copy)]
enum Absence {
    /// Nothing works without it.
    Error,
    /// Switched off by `dapr_sidecar_injector.enabled`.
    NoInjection,
    /// Switched off by `global.actors.enabled`.
    NoActors,
    /// Optional.
    Nothing,
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
    let elsewhere =
        facts.cluster.pods.iter().flatten().find(|pod| {
            pod.labels.get("app").is_some_and(|app| app == "dapr-operator") && pod.lives()
        });
    let text = format!("there is no control plane in namespace {}", facts.namespace);
    match elsewhere {
        Some(pod) => Finding::error(
            GROUP,
            "installed",
            text,
            format!("there is one in {0}: add --namespace {0}", pod.namespace),
        ),
        None => Finding::error(GROUP, "installed", text, "install it: see README.md, Install"),
    }
}

fn ready(facts: &Facts, name: &str, id: &'static str, absent: Absence) -> Option<Finding> {
    if let Err(unread) = &facts.own.workloads {
        return matches!(absent, Absence::Error).then(|| Finding::unknown(GROUP, id, unread));
    }
    let Some(workload) = facts.workload(name) else {
        let remedy = "upgrade or install the chart again";
        return match absent {
            Absence::Error => {
                Some(Finding::error(GROUP, id, format!("there is no {name}"), remedy))
            }
            Absence::NoInjection => Some(Finding::warning(
                GROUP,
                id,
                "there is no sidecar injector: pods get no sidecar by themselves",
                "dapr_sidecar_injector.enabled of the chart; sidecars then come by `injector inject`",
            )),
            Absence::NoActors => {
                Some(Finding::ok(GROUP, id, "there is no placement: actors are switched off"))
            }
            Absence::Nothing => None,
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
    Some(match there {
        0 => Finding::error(GROUP, id, text, DOCS_PODS),
        _ => Finding::warning(GROUP, id, text, DOCS_PODS),
    })
}

fn is_of(pod: &Pod, facts: &Facts, app: &str) -> bool {
    pod.namespace == facts.namespace
        && pod.lives()
        && pod.labels.get("app").is_some_and(|label| label == app)
}

/// Why a pod is not ready, by the first thing that says so.
fn why(pod: &Pod) -> Option<String> {
    if let Some(message) = &pod.unschedulable {
        return Some(format!("no node takes it: {message}"));
    }
    let waiting = |container: &Container| container.waiting.clone();
    let (reason, message) = pod.containers.iter().find_map(waiting)?;
    Some(if message.is_empty() { reason } else { format!("{reason}: {message}") })
}

/// Images that cannot be pulled, of the control plane and of sidecars.
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
            .filter(|pod| pod.lives())
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
            return Finding::ok(GROUP, id, "no image of control plane or sidecars is waited for");
        }
        let names: Vec<String> = stuck.into_iter().map(str::to_owned).collect();
        Finding::error(
            GROUP,
            id,
            format!("images that cannot be pulled: {}", some_of(&names)),
            "push them where the nodes can read them, and set global.controlPlane.registry, \
             global.registry or global.imagePullSecrets of the chart",
        )
    })
}

fn versions(facts: &Facts) -> Finding {
    let id = "versions";
    about(GROUP, id, &facts.own.workloads, |_| {
        let ours = |name: &str| facts.flavour() != Flavour::Trilby || name != SCHEDULER;
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
                format!("the services are of different versions: {}", list.join(", ")),
                "finish the upgrade: kubectl rollout status of each, or install the chart again",
            );
        }
        let Some(version) = distinct.into_iter().next() else {
            return Finding::warning(
                GROUP,
                id,
                "the images carry no version",
                "the dapr CLI reads it from the tag: pin by tag, or by tag and digest",
            );
        };
        let mine = runtime::VERSION;
        if facts.flavour() == Flavour::Trilby
            && minor(version).is_some()
            && minor(version) != minor(mine)
        {
            return Finding::warning(
                GROUP,
                id,
                format!("the control plane is {version}, this command {mine}"),
                "use the daprctl of the control plane's version",
            );
        }
        let whose = if facts.flavour() == Flavour::Dapr { " (Dapr's own)" } else { "" };
        Finding::ok(GROUP, id, format!("all services are {version}{whose}"))
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
        let bad: Vec<String> =
            needed.into_iter().filter_map(|name| without_address(name, services, slices)).collect();
        if bad.is_empty() {
            return Finding::ok(GROUP, id, "every Service has an address");
        }
        Finding::error(
            GROUP,
            id,
            bad.join("; "),
            "its pods are not ready, or its selector was changed; install the chart again if it is gone",
        )
    })
}

fn without_address(name: &str, services: &[Value], slices: &[Value]) -> Option<String> {
    let Some(service) = named(services, name) else {
        return Some(format!("there is no Service {name}"));
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
    (!ready).then(|| format!("Service {name} has no address"))
}

fn lease(facts: &Facts) -> Finding {
    let id = "operator-lease";
    about(GROUP, id, &facts.own.leases, |leases| {
        let Some(lease) = named(leases, "operator.dapr.io") else {
            return Finding::warning(
                GROUP,
                id,
                "no operator leads: there is no Lease operator.dapr.io",
                "look at the operator's log; without a leader no Service is made for new apps",
            );
        };
        let holder = text(lease.pointer("/spec/holderIdentity"));
        let renewed: Option<jiff::Timestamp> = text(lease.pointer("/spec/renewTime")).parse().ok();
        let age = renewed.map(|renewed| facts.now().duration_since(renewed).as_secs());
        if age.is_some_and(|age| age <= LEASE_OVER) && !holder.is_empty() {
            return Finding::ok(GROUP, id, format!("{holder} leads the operators"));
        }
        Finding::warning(
            GROUP,
            id,
            "no operator leads: the Lease operator.dapr.io is over",
            "look at the operator's log; without a leader no Service is made for new apps",
        )
    })
}

fn configuration(facts: &Facts) -> Finding {
    let id = "configuration";
    about(GROUP, id, &facts.own.configuration, |found| {
        let name = resources::names::CONTROL_PLANE_CONFIGURATION;
        let remedy = "install the chart again with dapr_config.dapr_config_chart_included=true";
        let Some(configuration) = found else {
            return Finding::error(GROUP, id, format!("there is no Configuration {name}"), remedy);
        };
        match configuration.pointer("/spec/mtls/enabled").and_then(Value::as_bool) {
            Some(true) => {
                Finding::ok(GROUP, id, format!("Configuration {name} is there, mTLS is on"))
            }
            Some(false) => Finding::warning(
                GROUP,
                id,
                format!("Configuration {name} is there, mTLS between sidecars is off"),
                "global.mtls.enabled=true of the chart, then restart the apps",
            ),
            None => Finding::error(
                GROUP,
                id,
                format!(
                    "Configuration {name} does not say spec.mtls.enabled: the dapr CLI crashes"
                ),
                remedy,
            ),
        }
    })
}

/// What the reference had and Trilby has not.
fn leftovers(facts: &Facts) -> Option<Finding> {
    let id = "leftovers";
    if facts.flavour() != Flavour::Trilby {
        return None;
    }
    Some(about(GROUP, id, &facts.own.claims, |claims| {
        let scheduler = facts.workload(SCHEDULER).is_some(); // kept on purpose, docs/upgrade.md
        let volume = |claim: &&Value| {
            let name = text(claim.pointer("/metadata/name"));
            name.starts_with("raft-log-dapr-placement-")
                || (name.starts_with("dapr-scheduler-data-dir-") && !scheduler)
        };
        let claims = claims.iter().filter(volume);
        let mut left: Vec<String> =
            claims.map(|c| format!("pvc/{}", text(c.pointer("/metadata/name")))).collect();
        let dashboard =
            facts.workload("dapr-dashboard").map(|_| "deployment/dapr-dashboard".to_owned());
        left.extend(dashboard);
        if left.is_empty() {
            return Finding::ok(GROUP, id, "nothing is left of another control plane");
        }
        Finding::warning(
            GROUP,
            id,
            format!("left of Dapr's own control plane, and unused: {}", some_of(&left)),
            format!(
                "unless you want to go back to it: kubectl -n {} delete {}",
                facts.namespace,
                left.join(" ")
            ),
        )
    }))
}
