//! Sidecars of pods, and Components.

use std::collections::{BTreeMap, BTreeSet};

use resources::injection::{NAMESPACE_NAME, Selection};
use serde_json::Value;

use crate::facts::Facts;
use crate::finding::{Finding, Group, about, some_of};
use crate::pods::{Pod, minor, tag, text};

const GROUP: Group = Group::DataPlane;
/// A sidecar may take so long before somebody should look at it.
const STARTING: i64 = 120;
/// Minor versions that a sidecar may be behind the control plane.
const BEHIND: u32 = 2;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    vec![naked(facts), ready(facts), versions(facts), app_ids(facts), components(facts)]
}

fn naked(facts: &Facts) -> Finding {
    let id = "sidecars-missing";
    about(GROUP, id, &facts.cluster.pods, |pods| {
        let naked = pods.iter().filter(|pod| pod.is_naked() && is_covered(pod, facts));
        let names: Vec<String> = naked.map(Pod::id).collect();
        if names.is_empty() {
            return Finding::ok(GROUP, id, "every pod that asks for a sidecar has one");
        }
        Finding::error(
            GROUP,
            id,
            format!("{} pods ask for a sidecar and have none: {}", names.len(), some_of(&names)),
            "once new pods get theirs, the operator's watchdog deletes these (dapr_operator.watchInterval); \
             without it: kubectl rollout restart; a bare pod has to be made anew",
        )
    })
}

/// Whether the webhook is called for a pod; if that cannot be told, it is.
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
        let with: Vec<&Pod> = pods.iter().filter(|p| p.lives() && p.sidecar().is_some()).collect();
        let waiting = with.iter().copied().filter(old).filter(|pod| {
            pod.phase == "Running" && pod.sidecar().is_some_and(|sidecar| !sidecar.ready)
        });
        let names: Vec<String> = waiting.map(Pod::id).collect();
        if names.is_empty() {
            return Finding::ok(GROUP, id, format!("{} sidecars, none of them stuck", with.len()));
        }
        Finding::warning(
            GROUP,
            id,
            format!("sidecars that are not ready: {}", some_of(&names)),
            "kubectl logs POD -c daprd names the Component or the service that it waits for",
        )
    })
}

fn versions(facts: &Facts) -> Finding {
    let id = "sidecar-versions";
    about(GROUP, id, &facts.cluster.pods, |pods| {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for sidecar in pods.iter().filter(|pod| pod.lives()).filter_map(Pod::sidecar) {
            *counts.entry(tag(&sidecar.image)).or_default() += 1;
        }
        if counts.is_empty() {
            return Finding::ok(GROUP, id, "there are no sidecars yet");
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
                format!("sidecars of versions that are too new or too old: {list}"),
                "upgrade the control plane first, then restart the apps: kubectl rollout restart; a \
                 sidecar may be two minor versions behind",
            );
        }
        Finding::ok(GROUP, id, format!("sidecars fit the control plane: {list}"))
    })
}

/// Two workloads with one app id take each other's calls.
fn app_ids(facts: &Facts) -> Finding {
    let id = "app-ids";
    about(GROUP, id, &facts.cluster.pods, |pods| {
        let mut owners: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
        for pod in pods.iter().filter(|pod| pod.lives() && pod.sidecar().is_some()) {
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
            return Finding::ok(GROUP, id, "no two workloads of a namespace share an app id");
        }
        Finding::warning(
            GROUP,
            id,
            format!("workloads share an app id: {}", some_of(&shared)),
            "calls to the id go to any of them: give each its own dapr.io/app-id",
        )
    })
}

/// What the operator said about Components, as Events of the last hour and as conditions.
fn components(facts: &Facts) -> Finding {
    let id = "components";
    let both =
        facts.cluster.components.as_ref().and_then(|components| {
            facts.cluster.events.as_ref().map(|events| (components, events))
        });
    let both = both.map_err(Clone::clone);
    about(GROUP, id, &both, |(components, events)| {
        let mut troubles: BTreeMap<String, String> = BTreeMap::new();
        for component in *components {
            let name = object(component, "/metadata/namespace", "/metadata/name");
            if let Some(words) = condition(component) {
                troubles.insert(name, words);
            }
        }
        let alive = |name: &str| {
            components.iter().any(|c| object(c, "/metadata/namespace", "/metadata/name") == name)
        };
        for event in *events {
            let name = object(event, "/involvedObject/namespace", "/involvedObject/name");
            let ours =
                text(event.pointer("/involvedObject/apiVersion")).starts_with(resources::GROUP);
            if ours && alive(&name) {
                let (reason, words) = (text(event.get("reason")), text(event.get("message")));
                troubles.entry(name).or_insert(format!("{reason}: {words}"));
            }
        }
        if troubles.is_empty() {
            return Finding::ok(
                GROUP,
                id,
                format!("{} Components, no complaint", components.len()),
            );
        }
        let list: Vec<String> =
            troubles.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        Finding::warning(
            GROUP,
            id,
            format!("Components with trouble: {}", some_of(&list)),
            "kubectl describe component NAME says all of it; what was mended stays here for an hour",
        )
    })
}

fn object(value: &Value, namespace: &str, name: &str) -> String {
    format!("{}/{}", text(value.pointer(namespace)), text(value.pointer(name)))
}

/// The first condition that is not met.
fn condition(component: &Value) -> Option<String> {
    let conditions = component.pointer("/status/conditions").and_then(Value::as_array)?;
    let unmet = conditions.iter().find(|c| text(c.get("status")) == "False")?;
    Some(format!("{}: {}", text(unmet.get("reason")), text(unmet.get("message"))))
}
