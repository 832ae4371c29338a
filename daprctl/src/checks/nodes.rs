//! Where pods run.

use jiff::Timestamp;
use serde_json::Value;

use crate::facts::{Asked, Facts, named};
use crate::finding::{Finding, Group, about, some_of};
use crate::pods::text;

const GROUP: Group = Group::Nodes;
/// A kubelet renews its Lease every 10 s, and is taken for dead after 40 s (Kubernetes).
const SILENT: i64 = 120;
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut all = vec![usable(facts), clocks(facts)];
    if matches!(facts.asked, Asked::Before(_)) {
        all.push(storage(facts));
    }
    all
}

fn usable(facts: &Facts) -> Finding {
    let id = "nodes-usable";
    about(GROUP, id, &facts.cluster.nodes, |nodes| {
        let usable = nodes.iter().filter(|node| is_usable(node)).count();
        let text = format!("{usable} of {} nodes take pods of the control plane", nodes.len());
        if usable > 0 {
            return Finding::ok(GROUP, id, text);
        }
        Finding::error(
            GROUP,
            id,
            format!("{text}: its pods stay Pending"),
            "add a Linux node, amd64 or arm64, that is Ready and not cordoned (on EKS a node group; \
             with Auto Mode or Karpenter nodes appear when pods wait, so install and look again; on \
             Fargate a profile for the control plane's namespace)",
        )
    })
}

fn is_usable(node: &Value) -> bool {
    let info = |key: &str| text(node.pointer(&format!("/status/nodeInfo/{key}")));
    let cordoned = node.pointer("/spec/unschedulable").and_then(Value::as_bool) == Some(true);
    let tainted = node.pointer("/spec/taints").and_then(Value::as_array).into_iter().flatten();
    let open = !tainted
        .into_iter()
        .any(|taint| matches!(text(taint.get("effect")).as_str(), "NoSchedule" | "NoExecute"));
    let built = matches!(info("architecture").as_str(), "amd64" | "arm64");
    info("operatingSystem") == "linux" && built && !cordoned && open && is_ready(node)
}

fn is_ready(node: &Value) -> bool {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        text(condition.get("type")) == "Ready" && text(condition.get("status")) == "True"
    })
}

/// Compares what kubelets write into their Leases with the API server's clock. Only nodes that are
/// Ready count: the others are late for another reason.
fn clocks(facts: &Facts) -> Finding {
    let id = "nodes-clock";
    let both =
        facts.cluster.nodes.as_ref().and_then(|nodes| {
            facts.cluster.heartbeats.as_ref().map(|heartbeats| (nodes, heartbeats))
        });
    let both = both.map_err(Clone::clone);
    about(GROUP, id, &both, |(nodes, heartbeats)| {
        let off: Vec<String> = nodes
            .iter()
            .filter(|node| is_ready(node))
            .map(|node| text(node.pointer("/metadata/name")))
            .filter_map(|name| {
                let renewed = named(heartbeats, &name)?.pointer("/spec/renewTime")?.as_str()?;
                let renewed: Timestamp = renewed.parse().ok()?;
                let seconds = facts.now().duration_since(renewed).as_secs().abs();
                (seconds > SILENT).then(|| format!("{name} ({seconds} s)"))
            })
            .collect();
        if off.is_empty() {
            return Finding::ok(GROUP, id, "the nodes have the API server's time");
        }
        Finding::warning(
            GROUP,
            id,
            format!("clocks of nodes are off: {}", some_of(&off)),
            "let the nodes follow NTP: certificates that are not valid yet, or not any more, are \
             refused beyond allowedClockSkew (15 m)",
        )
    })
}

/// Nothing of the control plane needs a volume, so this is a hint.
fn storage(facts: &Facts) -> Finding {
    let id = "storage-class";
    about(GROUP, id, &facts.cluster.storage_classes, |classes| {
        let default = classes.iter().find(|class| {
            let annotations = class.pointer("/metadata/annotations");
            text(annotations.and_then(|all| all.get(DEFAULT_CLASS))) == "true"
        });
        match default {
            Some(class) => {
                let name = text(class.pointer("/metadata/name"));
                Finding::ok(GROUP, id, format!("the default storage class is {name}"))
            }
            None => Finding::warning(
                GROUP,
                id,
                "there is no default storage class",
                "the control plane needs none, but Redis of `dapr init -k --dev` does: install a \
                 CSI driver and annotate a class with storageclass.kubernetes.io/is-default-class=true",
            ),
        }
    })
}
