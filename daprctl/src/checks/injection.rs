//! Whether new pods get their sidecar.

use resources::injection::Selection;
use resources::names;

use super::identity::{BundleTrust, check_bundle};
use crate::checks::finding::{Finding, Group, about, some_of};
use crate::facts::{Distribution, Fact, Facts, Probe};
use crate::pods::text;

const GROUP: Group = Group::Injection;
const GUARD: &str = "dapr-sidecar-guard";
/// The policies for custom resources, without those that one value disables together.
const POLICIES: [&str; 5] = [
    "dapr-components",
    "dapr-configurations",
    "dapr-resiliencies",
    "dapr-subscriptions",
    "dapr-httpendpoints",
];
const INJECTOR: &str = "the injector writes it at start and after a change: check its log and its right to patch \
                        mutatingwebhookconfigurations";

pub(super) fn findings(facts: &Facts, probe: &Fact<Probe>) -> Vec<Finding> {
    if facts.own.workloads.is_ok() && facts.workload("dapr-sidecar-injector").is_none() {
        return Vec::new(); // reported by `injector-ready`
    }
    let mut all = vec![registered(facts), ca_bundle(facts), works(facts, probe)];
    if facts.distribution() == Distribution::Trilby {
        all.push(guard(facts));
        all.push(policies(facts));
    }
    all
}

fn registered(facts: &Facts) -> Finding {
    let id = "webhook-registered";
    about(GROUP, id, &facts.cluster.webhook, |hook| {
        let name = names::WEBHOOK_CONFIGURATION;
        let remedy = "upgrade or reinstall the chart";
        let Some(hook) = hook else {
            let text = format!(
                "MutatingWebhookConfiguration {name} does not exist: no pod gets a sidecar"
            );
            return Finding::error(GROUP, id, text, remedy);
        };
        if let Err(error) = Selection::read(hook) {
            let text = format!("MutatingWebhookConfiguration {name}: {}", runtime::chain(&error));
            return Finding::error(GROUP, id, text, remedy);
        }
        let namespace = hook.pointer("/webhooks/0/clientConfig/service/namespace");
        if let Some(namespace) = namespace.map(|ns| text(Some(ns)))
            && namespace != facts.namespace
        {
            let text = format!("the webhook refers to an injector in namespace {namespace}");
            return Finding::error(
                GROUP,
                id,
                text,
                "a cluster can have one control plane: uninstall one of the two",
            );
        }
        let policy = text(hook.pointer("/webhooks/0/failurePolicy"));
        Finding::ok(
            GROUP,
            id,
            format!("the injector's webhook is registered, failurePolicy {policy}"),
        )
    })
}

fn ca_bundle(facts: &Facts) -> Finding {
    let id = "webhook-ca";
    about(GROUP, id, &facts.cluster.webhook, |hook| {
        let path = "/webhooks/0/clientConfig/caBundle";
        let bundle = hook.as_ref().map(|hook| text(hook.pointer(path))).unwrap_or_default();
        match check_bundle(&bundle, facts) {
            BundleTrust::Current => {
                Finding::ok(GROUP, id, "the caBundle of the webhook verifies the CA")
            }
            BundleTrust::Outdated => Finding::warning(
                GROUP,
                id,
                "the caBundle of the webhook differs from the published trust anchors",
                INJECTOR,
            ),
            BundleTrust::Untrusted(why) => {
                Finding::error(GROUP, id, format!("the caBundle of the webhook {why}"), INJECTOR)
            }
        }
    })
}

fn works(facts: &Facts, probe: &Fact<Probe>) -> Finding {
    let id = "injection-works";
    let port = webhook_port(facts);
    let reach = format!(
        "allow connections from the API server to the injector's pods on TCP {port} (on EKS from the \
         cluster's security group to that of the nodes; on private GKE with a firewall rule); if they are \
         allowed, check the findings above and the log of the injector"
    );
    about(GROUP, id, probe, |probe| match probe {
        Probe::Injected(image) => {
            Finding::ok(GROUP, id, format!("a new pod gets a sidecar, {image} (dry run)"))
        }
        Probe::WithoutSidecar { as_controller: true } => {
            Finding::error(GROUP, id, "a new pod gets no sidecar (dry run)", reach)
        }
        Probe::WithoutSidecar { as_controller: false } => Finding::warning(
            GROUP,
            id,
            "a pod that you create gets no sidecar (dry run)",
            "the injector may not allow you to inject: run the check with the right to impersonate \
             serviceaccounts, or see the chart value dapr_sidecar_injector.allowedServiceAccounts",
        ),
        Probe::Denied(words) if words.contains(GUARD) => Finding::error(
            GROUP,
            id,
            "a new pod gets no sidecar, and the admission guard rejects it (dry run)",
            reach,
        ),
        Probe::Denied(words) => Finding::error(
            GROUP,
            id,
            format!("admission rejects a pod with a sidecar (dry run): {words}"),
            "check Pod Security of the namespace, quotas and other admission policies",
        ),
    })
}

/// Port of the injector: its flag, or the default 4000 (Dapr 1.18.3).
fn webhook_port(facts: &Facts) -> String {
    let flag = facts.argument(names::SERVICE_INJECTOR, "--port");
    flag.unwrap_or_else(|| "4000".to_owned())
}

fn guard(facts: &Facts) -> Finding {
    let id = "guard";
    let remedy = "set the chart value admissionGuard.enabled=true; without it a pod can start without its \
                  sidecar while the injector is unavailable";
    about(GROUP, id, &facts.cluster.policies, |policies| match policies.get(GUARD) {
        Some(Some(actions)) if actions.iter().any(|action| action == "Deny") => Finding::ok(
            GROUP,
            id,
            "the admission guard rejects pods without the sidecar that they request",
        ),
        Some(_) => Finding::warning(GROUP, id, "the admission guard does not reject pods", remedy),
        None => Finding::warning(GROUP, id, "the admission guard is not installed", remedy),
    })
}

fn policies(facts: &Facts) -> Finding {
    let id = "resource-policies";
    about(GROUP, id, &facts.cluster.policies, |there| {
        // A namespaced installation has none (the chart's `global.rbac.namespaced`).
        if facts.argument("dapr-operator", "--watch-namespace").is_some() {
            return Finding::ok(
                GROUP,
                id,
                "a namespaced installation has no admission policies for custom resources",
            );
        }
        let missing = POLICIES.iter().filter(|name| !matches!(there.get(**name), Some(Some(_))));
        let missing: Vec<String> = missing.map(|name| (*name).to_owned()).collect();
        if missing.is_empty() {
            return Finding::ok(GROUP, id, "admission policies validate custom resources");
        }
        Finding::warning(
            GROUP,
            id,
            format!("admission policies are missing: {}", some_of(&missing)),
            "set the chart value global.resourcePolicies.enabled=true",
        )
    })
}
