//! Nodes and storage classes.

use jiff::Timestamp;
use serde_json::Value;

use crate::checks::finding::{Finding, Group, about, some_of};
use crate::facts::{Facts, Queries, named};
use crate::pods::text;

const GROUP: Group = Group::Nodes;
/// Tolerated age of a kubelet's Lease in seconds. A kubelet renews it every 10 s (Kubernetes).
const MAX_AGE: i64 = 120;
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut all = vec![usable(facts), clocks(facts)];
    if matches!(facts.queries, Queries::PreInstall(_)) {
        all.push(storage(facts));
    }
    all
}

fn usable(facts: &Facts) -> Finding {
    let id = "nodes-usable";
    about(GROUP, id, &facts.cluster.nodes, |nodes| {
        let usable = nodes.iter().filter(|node| is_usable(node)).count();
        let text = format!("{usable} of {} nodes can run pods of the control plane", nodes.len());
        if usable > 0 {
            return Finding::ok(GROUP, id, text);
        }
        Finding::error(
            GROUP,
            id,
            format!("{text}; its pods stay Pending"),
            "add a Linux node (amd64 or arm64) that is Ready and not cordoned. On EKS add a node group; \
             with Auto Mode or Karpenter, install and run the check again, because pending pods add \
             nodes; on Fargate add a profile for the control plane's namespace",
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

/// Compares the renewal times of kubelet Leases with the time of the API server. Only nodes that are
/// Ready count.
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
                (seconds > MAX_AGE).then(|| format!("{name} ({seconds} s)"))
            })
            .collect();
        if off.is_empty() {
            return Finding::ok(GROUP, id, "the clocks of the nodes and of the API server agree");
        }
        Finding::warning(
            GROUP,
            id,
            format!("clocks of nodes differ: {}", some_of(&off)),
            "synchronise the nodes with NTP: peers reject certificates outside their validity plus \
             allowedClockSkew (15 m)",
        )
    })
}

/// A warning only: values of the chart can name another class, or go without a volume.
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
                "the scheduler and Redis of `dapr init -k --dev` need one: install a CSI driver and \
                 annotate a class with storageclass.kubernetes.io/is-default-class=true; or set \
                 dapr_scheduler.cluster.storageClassName, or inMemoryStorage=true beside it",
            ),
        }
    })
}
