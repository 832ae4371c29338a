//! DNS names of the services whose clients verify host names: the API server (webhooks) and etcd
//! (scheduler). Source: Dapr 1.18, sentry.

use super::authenticator::Identity;

/// Number of scheduler replicas in Dapr's chart.
const SCHEDULERS: u8 = 3;

/// The DNS names of an authenticated identity; empty outside the control plane.
///
/// `suffixes` are the possible DNS domains of the cluster. A scheduler does not start with names
/// under another domain than the one it resolves, so it gets names under all of them.
pub(crate) fn dns_names(
    identity: &Identity,
    own_namespace: &str,
    suffixes: &[String],
) -> Vec<String> {
    if identity.namespace != own_namespace || !identity.may_have_dns_names {
        return Vec::new();
    }
    let namespace = own_namespace;
    match identity.app_id.as_str() {
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
pub(crate) fn cluster_domain(resolv_conf: &str) -> Option<String> {
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
    use identity::TrustDomain;
    use rstest::rstest;

    use super::*;

    fn identity(app_id: &str, namespace: &str, control_plane: bool) -> Identity {
        Identity {
            app_id: app_id.to_owned(),
            namespace: namespace.to_owned(),
            trust_domain: TrustDomain::public(),
            may_have_dns_names: control_plane,
            pod: None,
            container_images: None,
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
    fn names_control_plane_services(#[case] app_id: &str, #[case] want: &[&str]) {
        let suffixes = ["cluster.local".to_owned()];
        assert_eq!(
            dns_names(&identity(app_id, "dapr-system", true), "dapr-system", &suffixes),
            want
        );
    }

    #[test]
    fn names_no_other_identity() {
        let other_namespace = identity("dapr-operator", "shop", true);
        assert_eq!(dns_names(&other_namespace, "dapr-system", &[]), Vec::<String>::new());
        let impostor = identity("dapr-injector", "dapr-system", false);
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
