//! Sidecars and Components.

use std::collections::{BTreeMap, BTreeSet};

use resources::images::{minor, tag};
use resources::injection::{NAMESPACE_NAME, Selection};
use serde_json::Value;

use crate::checks::finding::{Finding, Group, about, some_of};
use crate::facts::Facts;
use crate::pods::{Pod, text};

const GROUP: Group = Group::DataPlane;
/// Tolerated start-up time of a sidecar in seconds.
const STARTING: i64 = 120;
/// Minor versions that a sidecar can be older than the control plane.
const BEHIND: u32 = 2;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    vec![missing(facts), ready(facts), versions(facts), app_ids(facts), components(facts)]
}

fn missing(facts: &Facts) -> Finding {
    let id = "sidecars-missing";
    about(GROUP, id, &facts.cluster.pods, |pods| {
        let missing = pods.iter().filter(|pod| pod.lacks_sidecar() && is_covered(pod, facts));
        let names: Vec<String> = missing.map(Pod::id).collect();
        if names.is_empty() {
            return Finding::ok(GROUP, id, "all pods that request a sidecar have one");
        }
        Finding::error(
            GROUP,
            id,
            format!("{}: {}", requests(names.len()), some_of(&names)),
            "when new pods get sidecars, the watchdog of the operator deletes these \
             (dapr_operator.watchInterval); without it run kubectl rollout restart, and recreate pods \
             without controller",
        )
    })
}

fn requests(pods: usize) -> String {
    match pods {
        1 => "1 pod requests a sidecar and has none".to_owned(),
        number => format!("{number} pods request a sidecar and have none"),
    }
}

/// Whether the API server calls the webhook for a pod; true if unknown.
fn is_covered(pod: &Pod, facts: &Facts) -> bool {
    let Ok(Some(hook)) = &facts.cluster.webhook else { return true };
    let Ok(selection) = Selection::read(hook) else { return true };
    let namespaces = facts.cluster.namespaces.as_ref().ok();
    let mut labels =
        namespaces.and_then(|all| all.get(&pod.namespace)).cloned().unwrap_or_default();
    labels.insert(NAMESPACE_NAME.to_owned(), pod.namespace.clone());
    selection.covers(&labels, Some(&pod.labels))
}

fn ready(facts: &Facts) -> Finding {
    let id = "sidecars-ready";
    about(GROUP, id, &facts.cluster.pods, |pods| {
        let old = |pod: &&Pod| {
            let age = pod.created.map(|created| facts.now().duration_since(created).as_secs());
            age.is_none_or(|age| age > STARTING)
        };
        let with: Vec<&Pod> =
            pods.iter().filter(|p| p.is_alive() && p.sidecar().is_some()).collect();
        let waiting = with.iter().copied().filter(old).filter(|pod| {
            pod.phase == "Running" && pod.sidecar().is_some_and(|sidecar| !sidecar.ready)
        });
        let names: Vec<String> = waiting.map(Pod::id).collect();
        if names.is_empty() {
            return Finding::ok(
                GROUP,
                id,
                match with.len() {
                    1 => "1 sidecar is ready or starting".to_owned(),
                    number => format!("{number} sidecars are ready or starting"),
                },
            );
        }
        Finding::warning(
            GROUP,
            id,
            format!("sidecars are not ready: {}", some_of(&names)),
            "run kubectl logs POD -c daprd, which names the Component or service that it waits for",
        )
    })
}

fn versions(facts: &Facts) -> Finding {
    let id = "sidecar-versions";
    about(GROUP, id, &facts.cluster.pods, |pods| {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for sidecar in pods.iter().filter(|pod| pod.is_alive()).filter_map(Pod::sidecar) {
            *counts.entry(tag(&sidecar.image)).or_default() += 1;
        }
        if counts.is_empty() {
            return Finding::ok(GROUP, id, "there are no sidecars");
        }
        let list: Vec<String> = counts.iter().map(|(tag, n)| format!("{tag} ({n})")).collect();
        let list = some_of(&list);
        let control = facts.version_of("dapr-operator").as_deref().and_then(minor);
        let far = |tag: &str| {
            let (Some((major, now)), Some((theirs, then))) = (control, minor(tag)) else {
                return false;
            };
            major != theirs || then > now || now - then > BEHIND
        };
        if counts.keys().any(|tag| far(tag)) {
            return Finding::warning(
                GROUP,
                id,
                format!("versions of sidecars are too new or too old: {list}"),
                "upgrade the control plane first, then restart the apps with kubectl rollout restart; a \
                 sidecar can be two minor versions older",
            );
        }
        Finding::ok(GROUP, id, format!("versions of sidecars are compatible: {list}"))
    })
}

/// Calls to an app id can reach any workload with this id.
fn app_ids(facts: &Facts) -> Finding {
    let id = "app-ids";
    about(GROUP, id, &facts.cluster.pods, |pods| {
        let mut owners: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
        for pod in pods.iter().filter(|pod| pod.is_alive() && pod.sidecar().is_some()) {
            owners.entry((&pod.namespace, pod.app_id())).or_default().insert(&pod.owner);
        }
        let shared = owners.iter().filter(|(_, owners)| owners.len() > 1);
        let shared: Vec<String> = shared
            .map(|((namespace, app), owners)| {
                let owners = owners.iter().copied().collect::<Vec<_>>().join(" and ");
                format!("{namespace}/{app} ({owners})")
            })
            .collect();
        if shared.is_empty() {
            return Finding::ok(GROUP, id, "app ids are unique in each namespace");
        }
        Finding::warning(
            GROUP,
            id,
            format!("workloads share an app id: {}", some_of(&shared)),
            "calls to the id reach any of them: set a different dapr.io/app-id for each, unless they are \
             releases of one application",
        )
    })
}

/// Warnings of the operator about Components and what refers to them: Events of the last hour and conditions.
fn components(facts: &Facts) -> Finding {
    let id = "components";
    let both =
        facts.cluster.components.as_ref().and_then(|components| {
            facts.cluster.events.as_ref().map(|events| (components, events))
        });
    let both = both.map_err(Clone::clone);
    about(GROUP, id, &both, |(components, events)| {
        let mut problems: BTreeMap<String, String> = BTreeMap::new();
        for component in *components {
            let name = object(component, "/metadata/namespace", "/metadata/name");
            if let Some(words) = condition(component) {
                problems.insert(name, words);
            }
        }
        let alive = |name: &str| {
            components.iter().any(|c| object(c, "/metadata/namespace", "/metadata/name") == name)
        };
        for event in *events {
            let name = object(event, "/involvedObject/namespace", "/involvedObject/name");
            let ours =
                text(event.pointer("/involvedObject/apiVersion")).starts_with(resources::GROUP);
            // Which objects of other kinds still exist is not read.
            let kind = text(event.pointer("/involvedObject/kind"));
            let other = !kind.is_empty() && kind != "Component";
            let of_a_pod = text(event.get("reason")) == "ConfigurationNotFound";
            if of_a_pod || ours && (other || alive(&name)) {
                let name = if other { format!("{kind} {name}") } else { name };
                let words = reason(event);
                problems.entry(name).or_insert(words);
            }
        }
        if problems.is_empty() {
            return Finding::ok(
                GROUP,
                id,
                format!("{} Components without warnings", components.len()),
            );
        }
        let list: Vec<String> =
            problems.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        Finding::warning(
            GROUP,
            id,
            format!("Components or objects that refer to them have warnings: {}", some_of(&list)),
            "run kubectl describe component NAME (or the other kind) for details; Events stay for an hour \
             after the correction",
        )
    })
}

fn object(value: &Value, namespace: &str, name: &str) -> String {
    format!("{}/{}", text(value.pointer(namespace)), text(value.pointer(name)))
}

/// The first condition with status False.
fn condition(component: &Value) -> Option<String> {
    let conditions = component.pointer("/status/conditions").and_then(Value::as_array)?;
    let unmet = conditions.iter().find(|c| text(c.get("status")) == "False")?;
    Some(reason(unmet))
}

/// Reason and message of an Event or a condition; a message may quote a connection string.
fn reason(of: &Value) -> String {
    let (reason, message) = (text(of.get("reason")), text(of.get("message")));
    format!("{reason}: {}", dashboard::without_secrets(&message))
}
