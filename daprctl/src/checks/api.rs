//! Version, API groups and time of the API server.

use resources::images::minor;
use serde_json::Value;

use crate::checks::finding::{Finding, Group, about};
use crate::facts::Facts;

/// The check that precedes all others.
pub(crate) const ANSWERS: &str = "api-answers";

const GROUP: Group = Group::KubernetesApi;
/// Oldest supported Kubernetes version, the first with stable admission policies.
const OLDEST: (u32, u32) = (1, 30);
/// API groups that the control plane uses besides the core group.
const NEEDED: [&str; 6] = [
    "admissionregistration.k8s.io/v1",
    "apiextensions.k8s.io/v1",
    "apps/v1",
    "authentication.k8s.io/v1",
    "coordination.k8s.io/v1",
    "rbac.authorization.k8s.io/v1",
];
/// Default of `allowedClockSkew` (Dapr 1.18), in seconds.
const MAX_SKEW: i64 = 15 * 60;
/// Tolerated difference in seconds.
const TOLERATED: i64 = 60;

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
            "upgrade the cluster to Kubernetes 1.30 or newer",
        ),
        None => Finding::warning(
            GROUP,
            id,
            format!("the API server answers, but its version {named:?} cannot be parsed"),
            "Kubernetes 1.30 and newer are supported",
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
                "the API server serves all required API groups",
            );
        }
        Finding::error(
            GROUP,
            "api-groups",
            format!("the API server does not serve {}", missing.join(", ")),
            "enable them in --runtime-config of the API server",
        )
    })
}

fn clock(facts: &Facts) -> Finding {
    let Some(there) = facts.there else {
        return Finding::warning(
            GROUP,
            "api-clock",
            "the answer of the API server contains no date",
            "the validity of certificates is checked with the clock of this machine",
        );
    };
    let off = facts.here.duration_since(there).as_secs();
    let text =
        format!("the clocks of this machine and of the API server differ by {} s", off.abs());
    let remedy = "synchronise both with NTP; the checks use the clock of the API server";
    match off.abs() {
        MAX_SKEW.. => Finding::error(GROUP, "api-clock", text, remedy),
        TOLERATED.. => Finding::warning(GROUP, "api-clock", text, remedy),
        _ => Finding::ok(
            GROUP,
            "api-clock",
            "the clocks of this machine and of the API server agree",
        ),
    }
}
