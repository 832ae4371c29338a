//! Whether new pods get their sidecar.

use resources::injection::Selection;
use resources::names;

use super::identity::{Vouched, judge_bundle};
use crate::facts::{Fact, Facts, Flavour, Probe};
use crate::finding::{Finding, Group, about, some_of};
use crate::pods::text;

const GROUP: Group = Group::Injection;
const GUARD: &str = "dapr-sidecar-guard";
/// The policies over custom resources, without those that values switch off together.
const POLICIES: [&str; 5] = [
    "dapr-components",
    "dapr-configurations",
    "dapr-resiliencies",
    "dapr-subscriptions",
    "dapr-httpendpoints",
];
const INJECTOR: &str = "the injector writes it at start and when it changes: look at its log, and at its \
                        right to patch mutatingwebhookconfigurations";

pub(super) fn findings(facts: &Facts, probe: &Fact<Probe>) -> Vec<Finding> {
    if facts.own.workloads.is_ok() && facts.workload("dapr-sidecar-injector").is_none() {
        return Vec::new(); // said by `injector-ready`
    }
    let mut all = vec![registered(facts), ca_bundle(facts), works(facts, probe)];
    if facts.flavour() == Flavour::Trilby {
        all.push(guard(facts));
        all.push(policies(facts));
    }
    all
}

fn registered(facts: &Facts) -> Finding {
    let id = "webhook-registered";
    about(GROUP, id, &facts.cluster.webhook, |hook| {
        let name = names::WEBHOOK_CONFIGURATION;
        let remedy = "upgrade or install the chart again";
        let Some(hook) = hook else {
            let text =
                format!("there is no MutatingWebhookConfiguration {name}: no pod gets a sidecar");
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
            let text = format!("the webhook leads to an injector in namespace {namespace}");
            return Finding::error(
                GROUP,
                id,
                text,
                "a cluster has one control plane: uninstall one of the two",
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
        match judge_bundle(&bundle, facts) {
            Vouched::Yes => Finding::ok(GROUP, id, "the webhook's caBundle vouches for the CA"),
            Vouched::Older => Finding::warning(
                GROUP,
                id,
                "the webhook's caBundle differs from the published trust anchors",
                INJECTOR,
            ),
            Vouched::No(why) => {
                Finding::error(GROUP, id, format!("the webhook's caBundle {why}"), INJECTOR)
            }
        }
    })
}

fn works(facts: &Facts, probe: &Fact<Probe>) -> Finding {
    let id = "injection-works";
    let port = webhook_port(facts);
    let reach = format!(
        "the API server must reach the injector's pods on TCP {port} (on EKS the cluster's security \
         group to the nodes'; on private GKE a firewall rule); if it does, look at the findings above \
         and the injector's log"
    );
    about(GROUP, id, probe, |probe| match probe {
        Probe::Injected(image) => {
            Finding::ok(GROUP, id, format!("a new pod gets its sidecar, {image} (dry run)"))
        }
        Probe::Naked { as_controller: true } => {
            Finding::error(GROUP, id, "a new pod gets no sidecar (dry run)", reach)
        }
        Probe::Naked { as_controller: false } => Finding::warning(
            GROUP,
            id,
            "a pod made by you gets no sidecar (dry run)",
            "the injector may not accept you as a creator: run the check with the right to \
             impersonate serviceaccounts, or see dapr_sidecar_injector.allowedServiceAccounts",
        ),
        Probe::Denied(words) if words.contains(GUARD) => Finding::error(
            GROUP,
            id,
            "a new pod gets no sidecar, and the guard refuses it (dry run)",
            reach,
        ),
        Probe::Denied(words) => Finding::error(
            GROUP,
            id,
            format!("a pod with a sidecar is refused (dry run): {words}"),
            "see what refuses it: Pod Security of the namespace, a quota, another policy",
        ),
    })
}

/// Where the injector listens: its own flag, or 4000 (Dapr 1.18.3).
fn webhook_port(facts: &Facts) -> String {
    let flag = facts.argument(names::SERVICE_INJECTOR, "--port");
    flag.unwrap_or_else(|| "4000".to_owned())
}

fn guard(facts: &Facts) -> Finding {
    let id = "guard";
    let remedy = "admissionGuard.enabled=true of the chart; without it a pod may start without its \
                  sidecar while the injector is away";
    about(GROUP, id, &facts.cluster.policies, |policies| match policies.get(GUARD) {
        Some(Some(actions)) if actions.iter().any(|action| action == "Deny") => {
            Finding::ok(GROUP, id, "no pod starts without the sidecar that it asks for (guard)")
        }
        Some(_) => Finding::warning(GROUP, id, "the guard refuses no pod", remedy),
        None => Finding::warning(GROUP, id, "the guard is not installed", remedy),
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
                "a namespaced installation has no policies over resources",
            );
        }
        let missing = POLICIES.iter().filter(|name| !matches!(there.get(**name), Some(Some(_))));
        let missing: Vec<String> = missing.map(|name| (*name).to_owned()).collect();
        if missing.is_empty() {
            return Finding::ok(
                GROUP,
                id,
                "mistakes in custom resources are told when they are applied",
            );
        }
        Finding::warning(
            GROUP,
            id,
            format!("admission policies are missing: {}", some_of(&missing)),
            "global.resourcePolicies.enabled=true of the chart",
        )
    })
}
