//! The DNS names of the few services that are called by somebody who checks host names: the API
//! server (webhooks) and etcd (scheduler). Source: Dapr 1.18, sentry.

use crate::identify::Proven;

/// Replicas of the scheduler whose names exist.
const SCHEDULERS: u8 = 3;

/// The names for a proven identity; none for anybody outside of the control plane.
///
/// `suffixes` are the possible DNS domains of the cluster: a scheduler that sees another one than
/// we do would not start, so its names are given under all of them.
pub fn dns_names(proven: &Proven, own_namespace: &str, suffixes: &[String]) -> Vec<String> {
    if proven.namespace != own_namespace || !proven.may_have_dns_names {
        return Vec::new();
    }
    let namespace = own_namespace;
    match proven.app_id.as_str() {
        "dapr-injector" => vec![format!("dapr-sidecar-injector.{namespace}.svc")],
        "dapr-operator" => vec![format!("dapr-webhook.{namespace}.svc")],
        "dapr-scheduler" => suffixes
            .iter()
            .flat_map(|suffix| (0..SCHEDULERS).map(move |n| (n, suffix)))
            .map(|(n, suffix)| {
                format!("dapr-scheduler-server-{n}.dapr-scheduler-server.{namespace}.svc.{suffix}")
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// The cluster's DNS domain from a pod's `resolv.conf`: the search entry `svc.<domain>`.
pub fn cluster_domain(resolv_conf: &str) -> Option<String> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("search"))
        .flat_map(str::split_whitespace)
        .find_map(|entry| entry.strip_prefix("svc."))
        .map(|domain| domain.trim_end_matches('.').to_owned())
        .filter(|domain| !domain.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::TrustDomain;
    use rstest::rstest;

    fn proven(app_id: &str, namespace: &str, control_plane: bool) -> Proven {
        Proven {
            app_id: app_id.to_owned(),
            namespace: namespace.to_owned(),
            trust_domain: TrustDomain::public(),
            may_have_dns_names: control_plane,
            pod: None,
        }
    }

    #[rstest]
    #[case("dapr-injector", &["dapr-sidecar-injector.dapr-system.svc"])]
    #[case("dapr-operator", &["dapr-webhook.dapr-system.svc"])]
    #[case("dapr-placement", &[])]
    #[case("dapr-sentry", &[])]
    #[case("dapr-scheduler", &[
        "dapr-scheduler-server-0.dapr-scheduler-server.dapr-system.svc.cluster.local",
        "dapr-scheduler-server-1.dapr-scheduler-server.dapr-system.svc.cluster.local",
        "dapr-scheduler-server-2.dapr-scheduler-server.dapr-system.svc.cluster.local",
    ])]
    fn names_the_control_plane(#[case] app_id: &str, #[case] want: &[&str]) {
        let suffixes = ["cluster.local".to_owned()];
        assert_eq!(dns_names(&proven(app_id, "dapr-system", true), "dapr-system", &suffixes), want);
    }

    #[test]
    fn names_nobody_else() {
        let other_namespace = proven("dapr-operator", "shop", true);
        assert_eq!(dns_names(&other_namespace, "dapr-system", &[]), Vec::<String>::new());
        let impostor = proven("dapr-injector", "dapr-system", false);
        assert_eq!(dns_names(&impostor, "dapr-system", &[]), Vec::<String>::new());
    }

    #[rstest]
    #[case(
        "search shop.svc.cluster.local svc.cluster.local cluster.local\n",
        Some("cluster.local")
    )]
    #[case(
        "nameserver 10.0.0.10\nsearch a.svc.corp.example svc.corp.example.\n",
        Some("corp.example")
    )]
    #[case("search home.lan\n", None)]
    #[case("", None)]
    fn reads_the_cluster_domain(#[case] text: &str, #[case] want: Option<&str>) {
        assert_eq!(cluster_domain(text).as_deref(), want);
    }
}
