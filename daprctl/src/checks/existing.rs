//! Objects that prevent an installation.

use resources::injection::Selection;
use resources::names;

use crate::checks::finding::{Finding, Group, about, some_of};
use crate::definitions::{UPDATE, missing_members, unserved};
use crate::facts::{Distribution, Facts};
use crate::pods::text;

const GROUP: Group = Group::Existing;
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    vec![
        installation(facts),
        definitions(facts),
        webhook(facts),
        trust_bundle(facts),
        security(facts),
    ]
}

fn installation(facts: &Facts) -> Finding {
    let id = "no-installation";
    let operators = facts.cluster.pods.as_ref().map(|pods| {
        let app = |pod: &&crate::pods::Pod| {
            pod.labels.get("app").is_some_and(|app| app == "dapr-operator") && pod.is_alive()
        };
        pods.iter().filter(app).map(|pod| pod.namespace.clone()).collect::<Vec<_>>()
    });
    let operators = operators.map_err(Clone::clone);
    about(GROUP, id, &operators, |namespaces| match namespaces.first() {
        None => Finding::ok(GROUP, id, "no control plane is installed"),
        Some(namespace) => {
            let what = match facts.distribution() {
                Distribution::Dapr => "Dapr's own control plane is installed",
                Distribution::Trilby | Distribution::None => "a control plane is installed",
            };
            Finding::warning(
                GROUP,
                id,
                format!("{what} in namespace {namespace}"),
                "a cluster can have one: use `helm upgrade` with the same release name and namespace \
                 (docs/upgrade.md), and `daprctl check` without --pre to check it",
            )
        }
    })
}

/// Helm does not update existing definitions.
fn definitions(facts: &Facts) -> Finding {
    let id = "definitions-left";
    let mut old = Vec::new();
    for (name, fact) in &facts.definitions {
        match fact {
            Err(error) => return Finding::unknown(GROUP, id, error),
            Ok(Some(there)) => {
                if !missing_members(name, there).is_empty() || !unserved(name, there).is_empty() {
                    old.push(name.clone());
                }
            }
            Ok(None) => {}
        }
    }
    if old.is_empty() {
        return Finding::ok(GROUP, id, "no outdated custom resource definitions are installed");
    }
    Finding::warning(
        GROUP,
        id,
        format!("outdated custom resource definitions are installed: {}", some_of(&old)),
        UPDATE,
    )
}

fn webhook(facts: &Facts) -> Finding {
    let id = "webhook-left";
    about(GROUP, id, &facts.cluster.webhook, |webhook| {
        let service = webhook.as_ref().and_then(|hook| {
            hook.pointer("/webhooks/0/clientConfig/service/namespace").map(|ns| text(Some(ns)))
        });
        let Some(namespace) = service else {
            return Finding::ok(GROUP, id, "no webhook of an earlier installation is left");
        };
        let there = facts.distribution() != Distribution::None && namespace == facts.namespace;
        if there {
            return Finding::ok(GROUP, id, "the webhook belongs to the installation");
        }
        let readable = webhook.as_ref().is_some_and(|hook| Selection::read(hook).is_ok());
        let foreign = if readable { "" } else { ", and it is not that of the injector" };
        Finding::error(
            GROUP,
            id,
            format!(
                "MutatingWebhookConfiguration {} refers to namespace {namespace}{foreign}",
                names::WEBHOOK_CONFIGURATION
            ),
            "uninstall the control plane there, or delete the webhook configuration: kubectl delete \
             mutatingwebhookconfiguration dapr-sidecar-injector",
        )
    })
}

/// Sentry uses a complete CA of an earlier installation, and does not start with an incomplete one.
fn trust_bundle(facts: &Facts) -> Finding {
    let id = "trust-bundle-left";
    about(GROUP, id, &facts.trust.stored, |stored| match stored {
        Some(stored) if stored.fingerprint().is_some() => {
            Finding::ok(GROUP, id, "the CA of an earlier installation exists and is used")
        }
        Some(stored) if stored.anchors().is_some() => Finding::error(
            GROUP,
            id,
            "the CA of an earlier installation is incomplete: sentry neither uses nor replaces it",
            "restore Secret dapr-trust-bundle, or delete it and the ConfigMap of the same name: kubectl \
             delete secret,configmap dapr-trust-bundle",
        ),
        _ => Finding::ok(GROUP, id, "no CA of an earlier installation is left"),
    })
}

fn security(facts: &Facts) -> Finding {
    let id = "pod-security";
    about(GROUP, id, &facts.cluster.namespaces, |namespaces| {
        let namespace = &facts.namespace;
        let Some(labels) = namespaces.get(namespace) else {
            return Finding::ok(GROUP, id, format!("namespace {namespace} does not exist yet"));
        };
        let level = labels.get(ENFORCE).map_or("privileged", String::as_str);
        Finding::ok(
            GROUP,
            id,
            format!("namespace {namespace} admits the control plane's pods (Pod Security {level})"),
        )
    })
}
