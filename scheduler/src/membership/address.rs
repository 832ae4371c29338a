//! The address that sidecars dial. Source: Dapr 1.18.

use std::net::{IpAddr, Ipv6Addr, UdpSocket};

/// Overrides the discovery of the host's address.
pub(crate) const HOST_IP: &str = "DAPR_HOST_IP";

/// Loopback names.
const LOOPBACK: [&str; 4] = ["localhost", "127.0.0.1", "::1", "[::1]"];

/// Addresses of documentation networks: connecting a datagram socket to them sends nothing, and
/// chooses the address that this host would send from.
const PROBES: [&str; 2] = ["192.0.2.1:80", "[2001:db8::1]:80"];

/// The address for one scheduler. `override_` wins even when it is empty; then comes a loopback
/// `listen` address; then what `discover` finds.
pub(crate) fn broadcast(
    override_: Option<&str>,
    listen: &str,
    port: u16,
    discover: impl FnOnce() -> String,
) -> String {
    if let Some(address) = override_ {
        return address.to_owned();
    }
    if LOOPBACK.contains(&listen) {
        return join(listen.trim_start_matches('[').trim_end_matches(']'), port);
    }
    join(&discover(), port)
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The address of this host: the one that is set, which may be a name, else the source address
/// towards other hosts, else the best of its interfaces, else loopback, because a host without any
/// is reachable from itself only.
pub(crate) fn host(set: Option<&str>) -> String {
    if let Some(text) = set.filter(|text| !text.is_empty()) {
        return text.to_owned();
    }
    let found = PROBES.iter().find_map(|probe| source_towards(probe));
    let found = found.or_else(|| best(interfaces())).unwrap_or_else(|| {
        tracing::warn!(target: "dapr.scheduler",
            "No address of this host is reachable from other hosts; sidecars receive a loopback address. Set {HOST_IP} or --override-broadcast-host-port");
        IpAddr::from([127, 0, 0, 1])
    });
    found.to_string()
}

/// The addresses of all interfaces, in their order.
fn interfaces() -> Vec<IpAddr> {
    let found = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(target: "dapr.scheduler", "Cannot list the addresses of this host: {error}");
        Vec::new()
    });
    found.iter().map(if_addrs::Interface::ip).collect()
}

/// The first address of the best rank.
fn best(addresses: impl IntoIterator<Item = IpAddr>) -> Option<IpAddr> {
    let ranked = addresses.into_iter().filter_map(|ip| Some((rank(ip)?, ip)));
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, ip)| ip)
}

/// Rank by how far an address reaches, the farthest first; `None` for one that no other host
/// dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    PublicV4,
    PublicV6,
    PrivateV4,
    PrivateV6,
    LinkLocal,
}

fn rank(ip: IpAddr) -> Option<Rank> {
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || is_transition(ip) {
        return None;
    }
    Some(match ip {
        IpAddr::V4(ip) if ip.is_link_local() => Rank::LinkLocal,
        IpAddr::V4(ip) if ip.is_private() => Rank::PrivateV4,
        IpAddr::V4(_) => Rank::PublicV4,
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Rank::LinkLocal,
        IpAddr::V6(ip) if Ipv6Addr::is_unique_local(&ip) => Rank::PrivateV6,
        IpAddr::V6(_) => Rank::PublicV6,
    })
}

fn source_towards(probe: &str) -> Option<IpAddr> {
    let any = if probe.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(probe).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !is_transition(ip)).then_some(ip)
}

/// 192.0.0.0/29: the client side of IPv4 over IPv6, which is the same on every host.
fn is_transition(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.octets().starts_with(&[192, 0, 0]) && ip.octets()[3] < 8)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(Some("a:1"), "", "a:1")]
    #[case(Some(""), "", "")]
    #[case(None, "localhost", "localhost:50006")]
    #[case(None, "127.0.0.1", "127.0.0.1:50006")]
    #[case(None, "::1", "[::1]:50006")]
    #[case(None, "[::1]", "[::1]:50006")]
    #[case(None, "10.1.2.3", "10.9.9.9:50006")]
    #[case(None, "0.0.0.0", "10.9.9.9:50006")]
    #[case(None, "", "10.9.9.9:50006")]
    fn order_of_sources(#[case] over: Option<&str>, #[case] listen: &str, #[case] want: &str) {
        let found = || "10.9.9.9".to_owned();
        assert_eq!(broadcast(over, listen, 50006, found), want);
    }

    #[test]
    fn addresses_of_version_6_are_bracketed() {
        let found = || "fd00::1".to_owned();
        assert_eq!(broadcast(None, "", 1, found), "[fd00::1]:1");
    }

    /// As with Dapr 1.18.3, which takes names too.
    #[rstest]
    #[case("10.0.0.7", "10.0.0.7:1")]
    #[case("scheduler.local", "scheduler.local:1")]
    #[case("fd00::9", "[fd00::9]:1")]
    fn an_address_that_is_set_wins(#[case] set: &str, #[case] want: &str) {
        assert_eq!(broadcast(None, "", 1, || host(Some(set))), want);
    }

    #[test]
    fn an_empty_setting_is_none() {
        assert_eq!(host(Some("")), host(None));
        assert!(host(None).parse::<IpAddr>().is_ok());
    }

    /// What the scheduler of Dapr 1.18.3 announced on a host with these addresses and no route.
    #[rstest]
    #[case(&["10.1.2.3"], "10.1.2.3")]
    #[case(&["10.1.2.3", "8.8.4.4"], "8.8.4.4")]
    #[case(&["10.1.2.3", "2001:db8:5::1"], "2001:db8:5::1")]
    #[case(&["fe80::1", "fd00:1::2"], "fd00:1::2")]
    #[case(&["169.254.3.3", "fd00:1::2"], "fd00:1::2")]
    #[case(&["169.254.3.3", "fe80::1"], "169.254.3.3")]
    #[case(&["100.64.1.1", "10.1.2.3"], "100.64.1.1")]
    #[case(&["192.0.0.2", "10.1.2.3"], "10.1.2.3")]
    #[case(&["127.0.0.1", "::1", "fe80::1"], "fe80::1")]
    // Ours: two of one rank.
    #[case(&["10.0.0.2", "192.168.0.1", "10.0.0.1"], "10.0.0.2")]
    fn the_address_that_reaches_farthest_is_announced(#[case] found: &[&str], #[case] want: &str) {
        let found = found.iter().map(|ip| ip.parse::<IpAddr>().unwrap());
        assert_eq!(best(found), Some(want.parse().unwrap()));
    }

    #[test]
    fn a_host_of_loopback_alone_has_no_address_for_others() {
        assert_eq!(best([[127, 0, 0, 1].into(), Ipv6Addr::LOCALHOST.into()]), None);
    }

    #[rstest]
    #[case([192, 0, 0, 7], true)]
    #[case([192, 0, 0, 8], false)]
    #[case([192, 0, 2, 1], false)]
    fn transition_addresses_are_skipped(#[case] ip: [u8; 4], #[case] want: bool) {
        assert_eq!(is_transition(IpAddr::from(ip)), want);
    }
}
