//! The proxy in front of the API server, selected as kubectl selects it (Go, package `httpproxy`).
//! `kube` applies `NO_PROXY` to the address of the proxy, rejects a proxy without a scheme, and fails
//! for a `NO_PROXY` with an entry that it does not understand, such as an empty one.

use std::net::IpAddr;

use http::Uri;
use kube::Config;
use kube::config::{Cluster, Context, ExecAuthCluster, Kubeconfig};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::ClientError;

/// The proxies of the environment. Empty variables are absent.
#[derive(Debug, Default)]
pub(super) struct Environment {
    /// `HTTPS_PROXY`, for `https://` API servers.
    pub(super) https: Option<String>,
    /// `HTTP_PROXY`, for `http://` API servers.
    pub(super) http: Option<String>,
    /// `NO_PROXY`.
    pub(super) exempt: String,
}

impl Environment {
    /// The proxy for a server.
    fn proxy_of(&self, server: &Uri) -> Option<&str> {
        let (proxy, port) = match server.scheme_str() {
            Some("http") => (&self.http, 80),
            _ => (&self.https, 443),
        };
        let (host, port) = (server.host().unwrap_or_default(), server.port_u16().unwrap_or(port));
        proxy.as_deref().filter(|_| !is_exempt(&self.exempt, host, port))
    }
}

/// Sets the proxy: `explicit`, the `proxy-url` of the kubeconfig, or that of the environment.
///
/// # Errors
/// [`ClientError::Proxy`] for a proxy of another kind than HTTP and HTTPS.
pub(super) fn apply(
    config: &mut Config,
    explicit: Option<&str>,
    environment: &Environment,
) -> Result<(), ClientError> {
    let proxy = match (explicit, environment.proxy_of(&config.cluster_url)) {
        (Some(url), _) => Some(url.to_owned()),
        (None, Some(url)) if url.contains("://") => Some(url.to_owned()),
        (None, Some(address)) => Some(format!("http://{address}")),
        (None, None) => None,
    };
    config.proxy_url = proxy.map(|url| parse(&url)).transpose()?;
    Ok(())
}

fn parse(url: &str) -> Result<Uri, ClientError> {
    // The user info may be a password.
    let unusable = |host: &str| ClientError::Proxy(host.to_owned());
    let proxy: Uri = url.parse().map_err(|_| unusable(""))?;
    match proxy.scheme_str() {
        Some("http" | "https") => Ok(proxy),
        _ => Err(unusable(proxy.host().unwrap_or_default())),
    }
}

/// The `proxy-url` of the cluster of a context, or of the current context.
pub(super) fn proxy_of(kubeconfig: &Kubeconfig, context: Option<&str>) -> Option<String> {
    let (_, cluster) = selected(kubeconfig, context)?;
    cluster.proxy_url.clone().filter(|url| !url.is_empty())
}

/// The configuration of a context, or of the current context, as `kube` reads it, but for the proxy.
/// `None` where `kube` fails; certificates that it rejects are left out.
pub(super) fn without_proxy(kubeconfig: &Kubeconfig, context: Option<&str>) -> Option<Config> {
    let (context, cluster) = selected(kubeconfig, context)?;
    let mut config = Config::new(cluster.server.as_deref()?.parse().ok()?);
    let named =
        kubeconfig.auth_infos.iter().find(|named| Some(&named.name) == context.user.as_ref());
    config.auth_info = named.and_then(|named| named.auth_info.clone()).unwrap_or_default();
    let for_plugin = ExecAuthCluster::try_from(cluster).ok()?;
    config.root_cert = for_plugin
        .certificate_authority_data
        .as_deref()
        .map(|pem| CertificateDer::pem_slice_iter(pem).flatten().map(|der| der.to_vec()).collect());
    if let Some(plugin) = config.auth_info.exec.as_mut().filter(|exec| exec.provide_cluster_info) {
        plugin.cluster = Some(for_plugin);
    }
    config.default_namespace = context.namespace.clone().unwrap_or(config.default_namespace);
    config.accept_invalid_certs = cluster.insecure_skip_tls_verify.unwrap_or_default();
    config.disable_compression = cluster.disable_compression.unwrap_or_default();
    config.tls_server_name.clone_from(&cluster.tls_server_name);
    Some(config)
}

/// A context, or the current context, and its cluster.
fn selected<'a>(
    kubeconfig: &'a Kubeconfig,
    context: Option<&'a str>,
) -> Option<(&'a Context, &'a Cluster)> {
    let context = context.or(kubeconfig.current_context.as_deref())?;
    let context =
        kubeconfig.contexts.iter().find(|named| named.name == context)?.context.as_ref()?;
    let cluster = kubeconfig.clusters.iter().find(|named| named.name == context.cluster)?;
    Some((context, cluster.cluster.as_ref()?))
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
    use rstest::rstest;

    use super::*;

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

    const PROXY: &str = "http://10.0.0.9:3128";

    fn applied(
        explicit: Option<&str>,
        https: Option<&str>,
        no_proxy: &str,
    ) -> Result<Option<String>, ClientError> {
        let https = https.map(str::to_owned);
        let environment = Environment { https, exempt: no_proxy.to_owned(), ..Default::default() };
        let mut config = Config::new("https://10.0.0.1:6443".parse().unwrap());
        // What kube makes of the environment does not matter.
        config.proxy_url = Some("http://other.example".parse().unwrap());
        apply(&mut config, explicit, &environment)?;
        Ok(config.proxy_url.map(|proxy| proxy.to_string()))
    }

    #[rstest]
    #[case::none(None, None, "", None)]
    #[case::environment(None, Some(PROXY), "", Some("http://10.0.0.9:3128/"))]
    #[case::exempt_server(None, Some(PROXY), "10.0.0.1", None)]
    #[case::exempt_proxy(None, Some(PROXY), "10.0.0.9", Some("http://10.0.0.9:3128/"))]
    #[case::explicit(Some(PROXY), Some("http://a.example"), "*", Some("http://10.0.0.9:3128/"))]
    #[case::tls(None, Some("https://a.example:8443"), "", Some("https://a.example:8443/"))]
    #[case::no_scheme(None, Some("10.0.0.9:3128"), "", Some("http://10.0.0.9:3128/"))]
    #[case::host_alone(None, Some("proxy.example"), "", Some("http://proxy.example/"))]
    #[case::user(None, Some("me:secret@a.example:1"), "", Some("http://me:secret@a.example:1/"))]
    fn the_proxy_is_that_of_kubectl(
        #[case] explicit: Option<&str>,
        #[case] environment: Option<&str>,
        #[case] no_proxy: &str,
        #[case] want: Option<&str>,
    ) {
        assert_eq!(applied(explicit, environment, no_proxy).unwrap().as_deref(), want);
    }

    #[rstest]
    #[case::https("https://10.0.0.1", "", Some("http://s.example/"))]
    #[case::http("http://10.0.0.1", "", Some("http://p.example/"))]
    #[case::https_port("https://10.0.0.1", "10.0.0.1:443", None)]
    #[case::http_port("http://10.0.0.1", "10.0.0.1:80", None)]
    #[case::other_port("http://10.0.0.1", "10.0.0.1:443", Some("http://p.example/"))]
    fn the_scheme_of_the_server_selects_proxy_and_port(
        #[case] server: &str,
        #[case] exempt: &str,
        #[case] want: Option<&str>,
    ) {
        let environment = Environment {
            https: Some("s.example".to_owned()),
            http: Some("p.example".to_owned()),
            exempt: exempt.to_owned(),
        };
        let mut config = Config::new(server.parse().unwrap());
        apply(&mut config, None, &environment).unwrap();
        assert_eq!(config.proxy_url.map(|proxy| proxy.to_string()).as_deref(), want);
    }

    #[rstest]
    #[case::socks(None, Some("socks5://me:secret@a.example:1080"))]
    #[case::explicit_without_scheme(Some("me:secret@a.example:3128"), None)]
    #[case::no_url(None, Some("http://me:secret@"))]
    fn other_proxies_are_rejected_without_their_password(
        #[case] explicit: Option<&str>,
        #[case] environment: Option<&str>,
    ) {
        let error = applied(explicit, environment, "").unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains("proxy") && !text.contains("secret"), "{text}");
    }

    /// Its certificate is three bytes, which nothing parses.
    const FULL: &str = "{current-context: a, contexts: [{name: a, context: {cluster: x, user: u}},
        {name: b, context: {cluster: y, user: v, namespace: n}},
        {name: c, context: {cluster: x, user: missing}}],
        users: [{name: u, user: {token: t}}, {name: v, user: {username: me, exec: {command: p,
        apiVersion: client.authentication.k8s.io/v1, provideClusterInfo: true}}}],
        clusters: [{name: x, cluster: {server: 'https://x.example'}},
        {name: y, cluster: {server: 'https://y.example:6443', insecure-skip-tls-verify: true,
        disable-compression: true, tls-server-name: z, certificate-authority-data:
        LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCkFBRUMKLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=}}]}";

    #[tokio::test]
    async fn everything_but_the_proxy_is_read_as_by_kube() {
        for context in [None, Some("b"), Some("c")] {
            let file = Kubeconfig::from_yaml(FULL).unwrap();
            let own = without_proxy(&file, context).unwrap();
            let options = kube::config::KubeConfigOptions {
                context: context.map(str::to_owned),
                ..Default::default()
            };
            let mut theirs = Config::from_custom_kubeconfig(file, &options).await.unwrap();
            theirs.proxy_url = None;
            assert_eq!(format!("{own:#?}"), format!("{theirs:#?}"));
        }
        assert!(without_proxy(&Kubeconfig::from_yaml(FULL).unwrap(), Some("d")).is_none());
    }

    #[test]
    fn the_proxy_url_is_that_of_the_cluster_of_the_context() {
        let text = "{current-context: a, contexts: [{name: a, context: {cluster: x, user: u}},
            {name: b, context: {cluster: y, user: u}}, {name: c, context: {cluster: z, user: u}}],
            clusters: [{name: x, cluster: {server: 's'}},
            {name: y, cluster: {server: 's', proxy-url: 'http://y.example'}},
            {name: z, cluster: {server: 's', proxy-url: ''}}]}";
        let file = Kubeconfig::from_yaml(text).unwrap();
        assert_eq!(proxy_of(&file, None), None);
        assert_eq!(proxy_of(&file, Some("b")).as_deref(), Some("http://y.example"));
        assert_eq!(proxy_of(&file, Some("c")), None);
        assert_eq!(proxy_of(&file, Some("missing")), None);
    }
}
