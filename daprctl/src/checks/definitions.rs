//! Custom resource definitions and the conversion of Subscriptions.

use serde_json::Value;

use super::identity::{BundleTrust, check_bundle};
use crate::checks::finding::{Finding, Group, about, some_of};
use crate::definitions::{CONVERTED, UPDATE, missing_members, newer_members, unserved};
use crate::facts::{Fact, Facts};
use crate::pods::text;

const GROUP: Group = Group::Definitions;
/// Kinds since Dapr 1.18; no other depends on them.
const NEWEST: [&str; 2] = ["mcpservers.dapr.io", "workflowaccesspolicies.dapr.io"];
const CLIENT: &str = "/spec/conversion/webhook/clientConfig";

pub(super) fn findings(facts: &Facts, conversion: &Fact<Result<(), String>>) -> Vec<Finding> {
    vec![present(facts), schemas(facts), newer(facts), webhook(facts), converts(conversion)]
}

fn present(facts: &Facts) -> Finding {
    let id = "definitions-present";
    let (mut old, mut new, mut pending) = (Vec::new(), Vec::new(), Vec::new());
    for (name, fact) in &facts.definitions {
        match fact {
            Err(error) => return Finding::unknown(GROUP, id, error),
            Ok(None) if NEWEST.contains(&name.as_str()) => new.push(name.clone()),
            Ok(None) => old.push(name.clone()),
            Ok(Some(definition)) if !is_established(definition) => pending.push(name.clone()),
            Ok(Some(definition)) => {
                old.extend(unserved(name, definition).iter().map(|v| format!("{name} {v}")));
            }
        }
    }
    if !old.is_empty() {
        let text = format!("custom resource definitions are not served: {}", some_of(&old));
        return Finding::error(GROUP, id, text, UPDATE);
    }
    if !pending.is_empty() {
        let text =
            format!("custom resource definitions are not established: {}", some_of(&pending));
        return Finding::error(GROUP, id, text, "run kubectl describe crd for the reason");
    }
    if !new.is_empty() {
        let text = format!("custom resource definitions of 1.18 are missing: {}", some_of(&new));
        return Finding::warning(GROUP, id, text, UPDATE);
    }
    Finding::ok(GROUP, id, "all custom resource definitions are installed and served")
}

fn is_established(definition: &Value) -> bool {
    let conditions = definition.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        text(condition.get("type")) == "Established" && text(condition.get("status")) == "True"
    })
}

fn schemas(facts: &Facts) -> Finding {
    let id = "definitions-schema";
    let mut missing = Vec::new();
    for (name, fact) in &facts.definitions {
        match fact {
            Err(error) => return Finding::unknown(GROUP, id, error),
            Ok(Some(there)) => missing
                .extend(missing_members(name, there).into_iter().map(|at| format!("{name} {at}"))),
            Ok(None) => {}
        }
    }
    if missing.is_empty() {
        return Finding::ok(GROUP, id, "the schemas contain all members that sidecars read");
    }
    Finding::warning(
        GROUP,
        id,
        format!("the API server removes members that sidecars read: {}", some_of(&missing)),
        UPDATE,
    )
}

/// Definitions of a newer Dapr. The operator passes their members on to sidecars; writing the
/// definitions of this release over them would remove those members from all objects.
fn newer(facts: &Facts) -> Finding {
    let id = "definitions-newer";
    let mut newer = Vec::new();
    for (name, fact) in &facts.definitions {
        match fact {
            Err(error) => return Finding::unknown(GROUP, id, error),
            Ok(Some(there)) => newer
                .extend(newer_members(name, there).into_iter().map(|at| format!("{name} {at}"))),
            Ok(None) => {}
        }
    }
    if newer.is_empty() {
        return Finding::ok(GROUP, id, "no definition is newer than this release");
    }
    let text = format!("definitions of a newer release are installed: {}", some_of(&newer));
    Finding::warning(
        GROUP,
        id,
        text,
        "upgrade the control plane; never apply older definition files, which removes these members \
         from all objects (helm upgrade keeps them)",
    )
}

/// The conversion webhook and its caBundle.
fn webhook(facts: &Facts) -> Finding {
    let id = "conversion-webhook";
    let Some(fact) = facts.definitions.get(CONVERTED) else {
        return Finding::ok(GROUP, id, "no definition needs conversion");
    };
    let operator = "the operator writes it within seconds: check its log and its right to patch \
                    customresourcedefinitions";
    about(GROUP, id, fact, |definition| {
        let client = definition.as_ref().and_then(|definition| definition.pointer(CLIENT));
        let Some(client) = client else {
            let text = format!("{CONVERTED} has no conversion webhook");
            return Finding::error(GROUP, id, text, UPDATE);
        };
        let namespace = client.pointer("/service/namespace").map(|ns| text(Some(ns)));
        if let Some(namespace) = namespace.filter(|namespace| *namespace != facts.namespace) {
            let text = format!("the conversion webhook refers to namespace {namespace}");
            return Finding::error(GROUP, id, text, operator);
        }
        let bundle = text(client.get("caBundle"));
        match check_bundle(&bundle, facts) {
            BundleTrust::Current => {
                Finding::ok(GROUP, id, "the caBundle of the conversion webhook verifies the CA")
            }
            BundleTrust::Outdated => Finding::warning(
                GROUP,
                id,
                "the conversion webhook's caBundle differs from the published trust anchors",
                operator,
            ),
            BundleTrust::Untrusted(why) => {
                let text = format!("the conversion webhook's caBundle {why}");
                Finding::error(GROUP, id, text, operator)
            }
        }
    })
}

fn converts(conversion: &Fact<Result<(), String>>) -> Finding {
    let id = "conversion-works";
    about(GROUP, id, conversion, |outcome| match outcome {
        Ok(()) => Finding::ok(GROUP, id, "the conversion of Subscriptions works (dry run)"),
        Err(words) => Finding::error(
            GROUP,
            id,
            format!("the API server rejects a Subscription of the old version: {words}"),
            "allow connections from the API server to the operator's pods on TCP 19443 (security \
             groups, firewall, network policies); if they are allowed, check the other findings and the \
             log of the operator",
        ),
    })
}
