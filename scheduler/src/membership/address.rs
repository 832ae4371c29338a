//! The address that sidecars are told to dial. Source: Dapr 1.18.

use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Overrides the discovery of the host's address.
pub(crate) const HOST_IP: &str = "DAPR_HOST_IP";

/// Names of this host alone.
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
    discover: impl FnOnce() -> IpAddr,
) -> String {
    if let Some(address) = override_ {
        return address.to_owned();
    }
    if LOOPBACK.contains(&listen) {
        let host = listen.trim_start_matches('[').trim_end_matches(']');
        return if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
    }
    SocketAddr::new(discover(), port).to_string()
}

/// The address of this host: the one that is set, else the source address towards other hosts, else
/// loopback, because a host without routes is reached from itself alone.
pub(crate) fn host_ip(set: Option<&str>) -> anyhow::Result<IpAddr> {
    use anyhow::Context as _;
    if let Some(text) = set.filter(|text| !text.is_empty()) {
        return text.parse().with_context(|| format!("{HOST_IP}={text:?} is not an IP address"));
    }
    let found = PROBES.iter().find_map(|probe| source_towards(probe));
    Ok(found.unwrap_or_else(|| {
        tracing::warn!(target: "dapr.scheduler",
            "This host has no route to others; sidecars are told to dial loopback. Set {HOST_IP} or --override-broadcast-host-port");
        IpAddr::from([127, 0, 0, 1])
    }))
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
    use super::*;
    use rstest::rstest;

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
        let found = || IpAddr::from([10, 9, 9, 9]);
        assert_eq!(broadcast(over, listen, 50006, found), want);
    }

    #[test]
    fn addresses_of_version_6_are_bracketed() {
        let found = || "fd00::1".parse().unwrap();
        assert_eq!(broadcast(None, "", 1, found), "[fd00::1]:1");
    }

    #[test]
    fn an_address_that_is_set_wins_and_must_be_one() {
        assert_eq!(host_ip(Some("10.0.0.7")).unwrap(), IpAddr::from([10, 0, 0, 7]));
        let text = host_ip(Some("x")).unwrap_err().to_string();
        assert_eq!(text, r#"DAPR_HOST_IP="x" is not an IP address"#);
        assert!(!host_ip(Some("")).unwrap().is_unspecified());
    }

    #[rstest]
    #[case([192, 0, 0, 7], true)]
    #[case([192, 0, 0, 8], false)]
    #[case([192, 0, 2, 1], false)]
    fn transition_addresses_are_skipped(#[case] ip: [u8; 4], #[case] want: bool) {
        assert_eq!(is_transition(IpAddr::from(ip)), want);
    }
}
