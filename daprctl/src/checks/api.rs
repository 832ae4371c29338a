//! The API server: does it answer, is it new enough, does its clock agree with ours.

use serde_json::Value;

use crate::facts::Facts;
use crate::finding::{Finding, Group, about};
use crate::pods::minor;

/// The check without which there is no other.
pub const ANSWERS: &str = "api-answers";

const GROUP: Group = Group::KubernetesApi;
/// The oldest Kubernetes that is supported: admission policies are stable from it on.
const OLDEST: (u32, u32) = (1, 30);
/// Groups that the control plane calls, beside the core.
const NEEDED: [&str; 6] = [
    "admissionregistration.k8s.io/v1",
    "apiextensions.k8s.io/v1",
    "apps/v1",
    "authentication.k8s.io/v1",
    "coordination.k8s.io/v1",
    "rbac.authorization.k8s.io/v1",
];
/// Certificates are valid from a quarter of an hour before they are made (Dapr 1.18, default of
/// `allowedClockSkew`).
const FAR_OFF: i64 = 15 * 60;
const OFF: i64 = 60;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    vec![version(facts), groups(facts), clock(facts)]
}

fn version(facts: &Facts) -> Finding {
    let id = "api-version";
    let named = facts.version.get("gitVersion").and_then(Value::as_str).unwrap_or_default();
    match minor(named) {
        Some(version) if version >= OLDEST => {
            Finding::ok(GROUP, id, format!("the API server answers, Kubernetes {named}"))
        }
        Some(_) => Finding::error(
            GROUP,
            id,
            format!("Kubernetes {named} is older than 1.30"),
            "upgrade the cluster: the oldest Kubernetes that is supported is 1.30",
        ),
        None => Finding::warning(
            GROUP,
            id,
            format!("the API server answers, but its version {named:?} cannot be read"),
            "Kubernetes 1.30 and newer is supported",
        ),
    }
}

fn groups(facts: &Facts) -> Finding {
    about(GROUP, "api-groups", &facts.cluster.groups, |served| {
        let missing: Vec<&str> =
            NEEDED.into_iter().filter(|group| !served.iter().any(|name| name == group)).collect();
        if missing.is_empty() {
            return Finding::ok(
                GROUP,
                "api-groups",
                "every API that the control plane calls is served",
            );
        }
        Finding::error(
            GROUP,
            "api-groups",
            format!("the API server does not serve {}", missing.join(", ")),
            "look for them in --runtime-config of the API server",
        )
    })
}

fn clock(facts: &Facts) -> Finding {
    let Some(there) = facts.there else {
        return Finding::warning(
            GROUP,
            "api-clock",
            "the API server does not say what time it is",
            "certificates are judged by the clock of this machine",
        );
    };
    let off = facts.here.duration_since(there).as_secs();
    let text =
        format!("the clocks of this machine and of the API server are {} s apart", off.abs());
    let remedy = "let both follow NTP; certificates are judged by the API server's clock here";
    match off.abs() {
        FAR_OFF.. => Finding::error(GROUP, "api-clock", text, remedy),
        OFF.. => Finding::warning(GROUP, "api-clock", text, remedy),
        _ => Finding::ok(GROUP, "api-clock", "this machine and the API server have the same time"),
    }
}
