//! `NO_PROXY`, with the meaning that it has for kubectl (Go, package `httpproxy`).

use std::net::IpAddr;

use kube::Config;
use kube::config::Kubeconfig;

/// Removes a proxy of the environment if `NO_PROXY` exempts the API server. A `proxy-url` of the
/// kubeconfig has precedence, as in kubectl.
pub(super) fn apply_no_proxy(config: &mut Config, kubeconfig_proxies: &[String], no_proxy: &str) {
    let Some(proxy) = &config.proxy_url else { return };
    let is_explicit = kubeconfig_proxies.iter().any(|url| url.parse().ok().as_ref() == Some(proxy));
    let server = &config.cluster_url;
    let port = server.port_u16().unwrap_or(443);
    if !is_explicit && is_exempt(no_proxy, server.host().unwrap_or_default(), port) {
        config.proxy_url = None;
    }
}

/// The `proxy-url` of each cluster.
pub(super) fn proxies_of(kubeconfig: &Kubeconfig) -> Vec<String> {
    let clusters = kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref());
    clusters.filter_map(|cluster| cluster.proxy_url.clone()).collect()
}

/// Whether a host and port match an entry of `NO_PROXY`. The local host always does.
fn is_exempt(no_proxy: &str, host: &str, port: u16) -> bool {
    let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    no_proxy.split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        if entry == "*" {
            return true;
        }
        if let Some((network, bits)) = entry.split_once('/') {
            let network = network.parse().ok().zip(bits.parse().ok()).zip(address);
            return network.is_some_and(|((net, bits), address)| contains(net, bits, address));
        }
        let (name, wanted) = split_port(&entry);
        if wanted.is_some_and(|wanted| wanted != port) {
            return false;
        }
        match name.parse::<IpAddr>() {
            Ok(ip) => address == Some(ip),
            Err(_) => matches_domain(name, &host),
        }
    })
}

/// The name and the port of an entry; the name without brackets.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    if entry.parse::<IpAddr>().is_ok() {
        return (entry, None);
    }
    match entry.rsplit_once(':').map(|(name, port)| (name, port.parse())) {
        Some((name, Ok(port))) => (name.trim_matches(['[', ']']), Some(port)),
        _ => (entry.trim_matches(['[', ']']), None),
    }
}

/// `a.b` matches itself and its subdomains, `.a.b` and `*.a.b` only the subdomains.
fn matches_domain(entry: &str, host: &str) -> bool {
    let domain = entry.trim_start_matches('*').trim_start_matches('.');
    let is_subdomain = host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    !domain.is_empty() && (is_subdomain || (domain == entry && host == domain))
}

fn contains(network: IpAddr, bits: u32, address: IpAddr) -> bool {
    let prefix =
        |value: u128, width: u32| value.checked_shr(width.saturating_sub(bits)).unwrap_or(0);
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) if bits <= 32 => {
            prefix(network.to_bits().into(), 32) == prefix(address.to_bits().into(), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) if bits <= 128 => {
            prefix(network.to_bits(), 128) == prefix(address.to_bits(), 128)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::loopback("", "127.0.0.1", true)]
    #[case::localhost("", "localhost", true)]
    #[case::none("", "10.0.0.1", false)]
    #[case::all("*", "10.0.0.1", true)]
    #[case::address("192.168.0.1, 10.0.0.1", "10.0.0.1", true)]
    #[case::network("10.0.0.0/8", "10.200.3.4", true)]
    #[case::other_network("10.0.0.0/8", "11.0.0.1", false)]
    #[case::whole("0.0.0.0/0", "11.0.0.1", true)]
    #[case::too_long("10.0.0.0/33", "10.0.0.0", false)]
    #[case::network6("fd00::/8", "[fd12::1]", true)]
    #[case::domain("example.com", "example.com", true)]
    #[case::subdomain("example.com", "k8s.Example.com", true)]
    #[case::only_subdomains(".example.com", "example.com", false)]
    #[case::wildcard("*.example.com", "k8s.example.com", true)]
    #[case::suffix("example.com", "notexample.com", false)]
    #[case::svc(".svc", "kubernetes.default.svc", true)]
    #[case::port("example.com:6443", "example.com", true)]
    #[case::other_port("example.com:443", "example.com", false)]
    fn matches_as_kubectl_does(#[case] no_proxy: &str, #[case] host: &str, #[case] want: bool) {
        assert_eq!(is_exempt(no_proxy, host, 6443), want);
    }

    #[rstest]
    #[case::environment(&[], None)]
    #[case::kubeconfig(&["http://proxy.example:3128"], Some("proxy.example"))]
    fn a_proxy_of_the_kubeconfig_has_precedence(
        #[case] explicit: &[&str],
        #[case] want: Option<&str>,
    ) {
        let mut config = Config::new("https://10.0.0.1:6443".parse().unwrap());
        config.proxy_url = Some("http://proxy.example:3128".parse().unwrap());
        let explicit: Vec<String> = explicit.iter().map(ToString::to_string).collect();
        apply_no_proxy(&mut config, &explicit, "10.0.0.0/8");
        assert_eq!(config.proxy_url.as_ref().and_then(|proxy| proxy.host()), want);
    }
}
