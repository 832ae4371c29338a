//! Rights of the caller and of the accounts of the control plane.

use crate::checks::finding::{Finding, Group, some_of};
use crate::facts::{Account, Fact, Facts, Right};

const fn cluster(verb: &'static str, group: &'static str, resource: &'static str) -> Right {
    Right { verb, group, resource, name: "", namespaced: false }
}

const fn own(verb: &'static str, group: &'static str, resource: &'static str) -> Right {
    Right { verb, group, resource, name: "", namespaced: true }
}

const fn one(right: Right, name: &'static str) -> Right {
    let Right { verb, group, resource, namespaced, .. } = right;
    Right { verb, group, resource, name, namespaced }
}

const RBAC: &str = "rbac.authorization.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";
const DAPR: &str = resources::GROUP;

/// Rights for `helm install` and `dapr init -k`.
pub(crate) const INSTALLER: &[Right] = &[
    cluster("create", "", "namespaces"),
    cluster("create", "apiextensions.k8s.io", "customresourcedefinitions"),
    cluster("create", RBAC, "clusterroles"),
    cluster("create", RBAC, "clusterrolebindings"),
    cluster("create", ADMISSION, "mutatingwebhookconfigurations"),
    cluster("create", ADMISSION, "validatingadmissionpolicies"),
    cluster("create", ADMISSION, "validatingadmissionpolicybindings"),
    own("create", "", "serviceaccounts"),
    own("create", "", "services"),
    own("create", "", "secrets"),
    own("create", "", "configmaps"),
    own("create", RBAC, "roles"),
    own("create", RBAC, "rolebindings"),
    own("create", "apps", "deployments"),
    own("create", "apps", "statefulsets"),
    own("create", "policy", "poddisruptionbudgets"),
    own("create", DAPR, "configurations"),
];

/// Rights that each account needs, at least in the control plane's namespace: a namespaced
/// installation grants no others. Both charts grant all.
pub(crate) const ACCOUNTS: &[(&str, &[Right])] = &[
    (
        "dapr-operator",
        &[
            own("list", DAPR, "components"),
            own("watch", DAPR, "components"),
            own("list", DAPR, "configurations"),
            own("list", DAPR, "subscriptions"),
            own("list", DAPR, "resiliencies"),
            own("list", DAPR, "httpendpoints"),
            own("list", "", "pods"),
            own("list", "apps", "deployments"),
            own("list", "apps", "statefulsets"),
            own("create", "", "services"),
            own("update", "", "services"),
            own("delete", "", "services"),
            one(own("update", "coordination.k8s.io", "leases"), "operator.dapr.io"),
            one(
                cluster("patch", "apiextensions.k8s.io", "customresourcedefinitions"),
                "subscriptions.dapr.io",
            ),
        ],
    ),
    (
        "dapr-sentry",
        &[
            cluster("create", "authentication.k8s.io", "tokenreviews"),
            one(own("get", "", "secrets"), resources::names::TRUST_BUNDLE),
            one(own("update", "", "secrets"), resources::names::TRUST_BUNDLE),
            one(own("update", "", "configmaps"), resources::names::TRUST_BUNDLE),
            own("list", DAPR, "configurations"),
            own("list", "", "pods"),
        ],
    ),
    (
        "dapr-injector",
        &[
            one(
                cluster("patch", ADMISSION, "mutatingwebhookconfigurations"),
                resources::names::WEBHOOK_CONFIGURATION,
            ),
            own("list", DAPR, "components"),
            own("get", DAPR, "configurations"),
        ],
    ),
];

/// One finding per right that an installation needs.
pub(super) fn of_the_caller(rights: &[(Right, Fact<bool>)]) -> Vec<Finding> {
    let group = Group::Permissions;
    let finding = |(right, fact): &(Right, Fact<bool>)| match fact {
        Ok(true) => Finding::ok(group, id(right), format!("you can {}", phrase(right))),
        Ok(false) => Finding::error(
            group,
            id(right),
            format!("you cannot {}", phrase(right)),
            "the installation needs the rights of a cluster administrator (ClusterRole \
             cluster-admin; on EKS the access policy AmazonEKSClusterAdminPolicy)",
        ),
        Err(error) => Finding::unknown(group, id(right), error),
    };
    rights.iter().map(finding).collect()
}

/// One finding per account.
pub(super) fn of_accounts(accounts: &[Account], facts: &Facts) -> Vec<Finding> {
    let installed = |account: &&Account| {
        account.name != "dapr-injector" || facts.workload("dapr-sidecar-injector").is_some()
    };
    accounts.iter().filter(installed).map(of_account).collect()
}

fn of_account(account: &Account) -> Finding {
    let group = Group::ControlPlane;
    let id = match account.name {
        "dapr-operator" => "rights-operator",
        "dapr-sentry" => "rights-sentry",
        _ => "rights-injector",
    };
    if let Some(error) = account.rights.iter().find_map(|(_, fact)| fact.as_ref().err()) {
        return Finding::unknown(group, id, error);
    }
    let missing = account.rights.iter().filter(|(_, fact)| *fact == Ok(false));
    let missing: Vec<String> = missing.map(|(right, _)| phrase(right)).collect();
    if missing.is_empty() {
        return Finding::ok(group, id, format!("{} has the rights it needs", account.name));
    }
    Finding::error(
        group,
        id,
        format!("{} cannot {}", account.name, some_of(&missing)),
        "upgrade or reinstall the chart: its roles or bindings were changed or removed",
    )
}

fn id(right: &Right) -> &'static str {
    // The plural is unique among the rights of an installer.
    right.resource
}

fn phrase(right: &Right) -> String {
    let Right { verb, group, resource, name, namespaced } = right;
    let dot = if group.is_empty() { "" } else { "." };
    let slash = if name.is_empty() { "" } else { "/" };
    let place = if *namespaced { " in its namespace" } else { "" };
    format!("{verb} {resource}{dot}{group}{slash}{name}{place}")
}
