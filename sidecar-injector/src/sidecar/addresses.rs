//! Addresses of the control plane for sidecars.
//! Source: Dapr 1.18.3, injector.

use resources::{names, ports};

/// DNS names of the Services of the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlane {
    namespace: String,
    cluster_domain: String,
}

impl ControlPlane {
    /// `cluster_domain` is the DNS suffix of the cluster, for example `cluster.local`.
    pub fn new(namespace: impl Into<String>, cluster_domain: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), cluster_domain: cluster_domain.into() }
    }

    /// `host:port` of a Service.
    pub fn service(&self, name: &str, port: u16) -> String {
        format!("{name}.{}.svc.{}:{port}", self.namespace, self.cluster_domain)
    }

    /// `host:port` of the operator's API.
    pub fn operator(&self) -> String {
        self.service(names::SERVICE_OPERATOR, ports::OPERATOR_SERVICE)
    }

    /// `host:port` of sentry.
    pub fn sentry(&self) -> String {
        self.service(names::SERVICE_SENTRY, ports::SENTRY_SERVICE)
    }

    /// `host:port` of the scheduler.
    pub fn scheduler(&self) -> String {
        self.service(names::SERVICE_SCHEDULER, ports::SCHEDULER_SERVICE)
    }
}

/// Headless Service and StatefulSet of the scheduler. Source: Dapr 1.18, chart.
const SCHEDULER_PODS: &str = "dapr-scheduler-server";
/// Port of the scheduler pods. Source: Dapr 1.18, chart.
const SCHEDULER_POD_PORT: u16 = 50006;

impl ControlPlane {
    /// `host:port` of each scheduler pod, separated by commas, for sidecars before 1.15: they do not
    /// discover the other pods.
    pub(crate) fn scheduler_pods(&self, replicas: u32) -> String {
        let pod =
            |n| self.service(&format!("{SCHEDULER_PODS}-{n}.{SCHEDULER_PODS}"), SCHEDULER_POD_PORT);
        (0..replicas).map(pod).collect::<Vec<_>>().join(",")
    }
}

/// The actor service of sidecars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actors {
    /// Actors are disabled.
    Off,
    /// Value of `--placement-host-address`.
    Placement(String),
    /// Value of `--actors-service`: `name:address`.
    Service(String),
}

/// A Service address that is not `<service>:<port>`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not <service>:<port> with a port from 1 to 65535")]
pub struct BadServiceAddress(String);

impl Actors {
    /// Parses `ACTORS_ENABLED`, `ACTORS_SERVICE_NAME` and `ACTORS_SERVICE_ADDRESS`.
    ///
    /// # Errors
    /// A name is set and the address is not `<service>:<port>`.
    pub fn from_settings(
        enabled: bool,
        name: &str,
        address: &str,
        control_plane: &ControlPlane,
    ) -> Result<Self, BadServiceAddress> {
        let address = match name {
            "" => control_plane.service(names::SERVICE_PLACEMENT, ports::PLACEMENT_SERVICE),
            _ => named_service(address, control_plane)?,
        };
        Ok(match (enabled, name) {
            (false, _) => Self::Off,
            (true, "" | "placement") => Self::Placement(address),
            (true, other) => Self::Service(format!("{other}:{address}")),
        })
    }
}

/// Value of `--reminders-service` from `REMINDERS_SERVICE_NAME` and `REMINDERS_SERVICE_ADDRESS`.
/// `None` without a name and for `default`, which daprd reads as an address without a host.
///
/// # Errors
/// A name other than `default` is set and the address is not `<service>:<port>`.
pub(crate) fn reminders(
    name: &str,
    address: &str,
    control_plane: &ControlPlane,
) -> Result<Option<String>, BadServiceAddress> {
    match name {
        "" | "default" => Ok(None),
        _ => Ok(Some(format!("{name}:{}", named_service(address, control_plane)?))),
    }
}

fn named_service(address: &str, control_plane: &ControlPlane) -> Result<String, BadServiceAddress> {
    let bad = || BadServiceAddress(address.to_owned());
    let (service, port) = address.split_once(':').ok_or_else(bad)?;
    let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(bad)?;
    if service.is_empty() { Err(bad()) } else { Ok(control_plane.service(service, port)) }
}

/// The DNS suffix of the cluster from the content of `/etc/resolv.conf`: the first search domain
/// that starts with `svc.`, without this prefix. Default `cluster.local`.
pub(crate) fn cluster_domain(resolv_conf: &str) -> String {
    let line = |line: &str| {
        let text = line.split('#').next().unwrap_or_default().to_owned();
        text.trim_start().strip_prefix("search").map(str::to_owned)
    };
    let search = resolv_conf.lines().filter_map(line).next_back().unwrap_or_default();
    let domain = search.split_whitespace().find_map(|word| word.strip_prefix("svc."));
    domain
        .map(|d| d.trim_end_matches('.'))
        .filter(|d| !d.is_empty())
        .unwrap_or("cluster.local")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn here() -> ControlPlane {
        ControlPlane::new("ns", "example.org")
    }

    #[test]
    fn builds_service_addresses() {
        assert_eq!(here().operator(), "dapr-api.ns.svc.example.org:443");
        assert_eq!(here().sentry(), "dapr-sentry.ns.svc.example.org:443");
        assert_eq!(here().scheduler(), "dapr-scheduler-server-a.ns.svc.example.org:443");
    }

    #[rstest]
    #[case(false, "", "", Ok(Actors::Off))]
    #[case(true, "", "", Ok(Actors::Placement("dapr-placement-server.ns.svc.example.org:50005".into())))]
    #[case(true, "placement", "p:1", Ok(Actors::Placement("p.ns.svc.example.org:1".into())))]
    #[case(true, "other", "o:2", Ok(Actors::Service("other:o.ns.svc.example.org:2".into())))]
    #[case(true, "other", "", Err(BadServiceAddress(String::new())))]
    #[case(false, "other", "o:0", Err(BadServiceAddress("o:0".into())))]
    #[case(true, "other", "o:x", Err(BadServiceAddress("o:x".into())))]
    fn actors_follow_the_settings(
        #[case] on: bool,
        #[case] name: &str,
        #[case] address: &str,
        #[case] want: Result<Actors, BadServiceAddress>,
    ) {
        assert_eq!(Actors::from_settings(on, name, address, &here()), want);
    }

    #[rstest]
    #[case("", "", Ok(None))]
    #[case("default", "", Ok(None))]
    #[case("r", "s:9", Ok(Some("r:s.ns.svc.example.org:9".to_owned())))]
    #[case("r", ":9", Err(BadServiceAddress(":9".into())))]
    fn reminders_follow_the_settings(
        #[case] name: &str,
        #[case] address: &str,
        #[case] want: Result<Option<String>, BadServiceAddress>,
    ) {
        assert_eq!(reminders(name, address, &here()), want);
    }

    #[rstest]
    #[case(
        "nameserver 10.0.0.1\nsearch abc.svc.k8s.example svc.k8s.example k8s.example ec2.internal\n",
        "k8s.example"
    )]
    #[case("search a.svc.one svc.one\nsearch b.svc.two svc.two # svc.three", "two")]
    #[case("search lan\n", "cluster.local")]
    #[case("#search svc.x\n", "cluster.local")]
    #[case("", "cluster.local")]
    fn finds_the_cluster_domain(#[case] text: &str, #[case] want: &str) {
        assert_eq!(cluster_domain(text), want);
    }
}
