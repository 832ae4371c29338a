//! The responses of OIDC discovery. Source: `OpenID` Connect Discovery 1.0; Dapr 1.18, sentry.
//!
//! The `Host` of a request appears only in the response to that request. `X-Forwarded-Host` is
//! trusted only if an allow-list without a wildcard contains it (CWE-346).

use std::path::PathBuf;

use axum::http::{Method, Uri};
use serde_json::json;

use crate::jwt::JwtConfig;

const DISCOVERY: &str = "/.well-known/openid-configuration";
const JWKS: &str = "/jwks.json";
const ANY_HOST: &str = "*";

/// How OIDC discovery is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcConfig {
    /// Address of the server.
    pub listen_address: String,
    /// Port of the server; 0 lets the kernel choose.
    pub port: u16,
    /// Certificate and key file; plain HTTP if `None`.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Overrides `jwks_uri` of the discovery document.
    pub jwks_uri: Option<String>,
    /// Prefix of the paths: empty, or with a leading and without a trailing slash.
    pub path_prefix: String,
    /// The hosts that are served; all if empty.
    pub allowed_hosts: Vec<String>,
}

/// The parts of a request that the response depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DiscoveryRequest<'a> {
    pub(crate) method: &'a Method,
    /// The path, not normalised.
    pub(crate) path: &'a str,
    /// `Host`, or the authority of HTTP/2.
    pub(crate) host: &'a str,
    /// `X-Forwarded-Host`.
    pub(crate) forwarded_host: Option<&'a str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DiscoveryResponse {
    /// 200 with a JSON body.
    Json(String),
    /// 404: unknown path.
    NotFound,
    /// 404: no key set is loaded yet.
    NoKeys(&'static str),
    /// 403: the host is not allowed.
    Forbidden,
    /// 405: the method is not GET.
    MethodNotAllowed,
}

/// The rules of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Discovery {
    /// Claim `iss` of the tokens.
    issuer: Option<String>,
    algorithm: &'static str,
    scheme: &'static str,
    jwks_uri: Option<String>,
    prefix: String,
    allowed_hosts: Vec<String>,
}

impl Discovery {
    /// The rules that the configuration describes.
    pub(crate) fn new(jwt: &JwtConfig, oidc: &OidcConfig) -> Self {
        Self {
            issuer: jwt.issuer.clone().filter(|issuer| !issuer.is_empty()),
            algorithm: jwt.algorithm.name(),
            scheme: if oidc.tls.is_some() { "https" } else { "http" },
            jwks_uri: oidc.jwks_uri.clone(),
            prefix: oidc.path_prefix.clone(),
            allowed_hosts: oidc.allowed_hosts.clone(),
        }
    }

    /// Responds to a request; `jwks` is the current key set. The path is checked first, then the
    /// host, then the method.
    pub(crate) fn respond(
        &self,
        request: DiscoveryRequest<'_>,
        jwks: Option<&str>,
    ) -> DiscoveryResponse {
        let Some(path) = request.path.strip_prefix(self.prefix.as_str()) else {
            return DiscoveryResponse::NotFound;
        };
        let discovery = match path {
            DISCOVERY => true,
            JWKS => false,
            _ => return DiscoveryResponse::NotFound,
        };
        if !self.allows(request) {
            return DiscoveryResponse::Forbidden;
        }
        if request.method != Method::GET {
            return DiscoveryResponse::MethodNotAllowed;
        }
        match (discovery, jwks) {
            (true, Some(_)) => DiscoveryResponse::Json(self.document(request)),
            (false, Some(jwks)) => DiscoveryResponse::Json(jwks.to_owned()),
            (true, None) => DiscoveryResponse::NoKeys("OIDC configuration not available"),
            (false, None) => DiscoveryResponse::NoKeys("JWKS not available"),
        }
    }

    fn allows(&self, request: DiscoveryRequest<'_>) -> bool {
        if self.allowed_hosts.is_empty() {
            return true;
        }
        let host = request.forwarded_host.unwrap_or(request.host);
        let listed = |host: &str| self.allowed_hosts.iter().any(|allowed| allowed == host);
        listed(ANY_HOST) || listed(host) || listed(without_port(host))
    }

    /// The host in the document: the forwarded one only if an allow-list was applied.
    fn host<'a>(&self, request: DiscoveryRequest<'a>) -> &'a str {
        let checked = !self.allowed_hosts.is_empty()
            && !self.allowed_hosts.iter().any(|allowed| allowed == ANY_HOST);
        request.forwarded_host.filter(|_| checked).unwrap_or(request.host)
    }

    fn document(&self, request: DiscoveryRequest<'_>) -> String {
        let issuer = self
            .issuer
            .clone()
            .unwrap_or_else(|| format!("{}://{}", self.scheme, self.host(request)));
        let jwks_uri = self
            .jwks_uri
            .clone()
            .unwrap_or_else(|| format!("{}{}{JWKS}", origin(&issuer), self.prefix));
        json!({
            "issuer": issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [self.algorithm],
            "scopes_supported": ["openid"],
            "claims_supported": ["sub", "iss", "aud", "exp", "iat", "nbf", "use"],
        })
        .to_string()
    }
}

/// Scheme and host of a URL; empty if it is not a URL.
fn origin(url: &str) -> String {
    let uri = url.parse::<Uri>().ok();
    let parts = uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.authority()?)));
    parts.map_or_else(String::new, |(scheme, host)| format!("{scheme}://{host}"))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
            name.trim_start_matches('[').trim_end_matches(']')
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use identity::JwtAlgorithm;
    use rstest::rstest;
    use serde_json::Value;

    use super::*;

    const SET: &str = "{\"keys\":[]}";

    fn discovery(change: impl FnOnce(&mut JwtConfig, &mut OidcConfig)) -> Discovery {
        let mut jwt = JwtConfig {
            key: "k".into(),
            jwks: "j".into(),
            issuer: None,
            algorithm: JwtAlgorithm::Es256,
            key_id: None,
            ttl: Duration::from_hours(1),
        };
        let mut oidc = OidcConfig {
            listen_address: String::new(),
            port: 0,
            tls: None,
            jwks_uri: None,
            path_prefix: String::new(),
            allowed_hosts: Vec::new(),
        };
        change(&mut jwt, &mut oidc);
        Discovery::new(&jwt, &oidc)
    }

    fn get<'a>(
        path: &'a str,
        host: &'a str,
        forwarded_host: Option<&'a str>,
    ) -> DiscoveryRequest<'a> {
        DiscoveryRequest { method: &Method::GET, path, host, forwarded_host }
    }

    fn document(discovery: &Discovery, request: DiscoveryRequest<'_>) -> Value {
        let DiscoveryResponse::Json(text) = discovery.respond(request, Some(SET)) else { panic!() };
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_document_has_the_members_of_dapr() {
        let document = document(&discovery(|_, _| ()), get(DISCOVERY, "sentry:9080", None));
        insta::assert_json_snapshot!(document, @r#"
        {
          "issuer": "http://sentry:9080",
          "jwks_uri": "http://sentry:9080/jwks.json",
          "response_types_supported": [
            "id_token"
          ],
          "subject_types_supported": [
            "public"
          ],
          "id_token_signing_alg_values_supported": [
            "ES256"
          ],
          "scopes_supported": [
            "openid"
          ],
          "claims_supported": [
            "sub",
            "iss",
            "aud",
            "exp",
            "iat",
            "nbf",
            "use"
          ]
        }
        "#);
    }

    #[rstest]
    #[case::issuer(
        Some("https://issuer.example/tenant"),
        None,
        "",
        "https://issuer.example/tenant",
        "https://issuer.example/jwks.json"
    )]
    #[case::prefix(
        Some("https://issuer.example"),
        None,
        "/p",
        "https://issuer.example",
        "https://issuer.example/p/jwks.json"
    )]
    #[case::jwks_uri(
        None,
        Some("https://keys.example/k"),
        "",
        "http://h",
        "https://keys.example/k"
    )]
    #[case::issuer_is_not_a_url(Some("trilby"), None, "", "trilby", "/jwks.json")]
    fn computes_issuer_and_jwks_uri(
        #[case] issuer: Option<&str>,
        #[case] jwks_uri: Option<&str>,
        #[case] prefix: &str,
        #[case] want_issuer: &str,
        #[case] want_keys: &str,
    ) {
        let discovery = discovery(|jwt, oidc| {
            jwt.issuer = issuer.map(str::to_owned);
            oidc.jwks_uri = jwks_uri.map(str::to_owned);
            oidc.path_prefix = prefix.to_owned();
        });
        let path = format!("{prefix}{DISCOVERY}");
        let document = document(&discovery, get(&path, "h", Some("evil")));
        assert_eq!(document["issuer"], want_issuer);
        assert_eq!(document["jwks_uri"], want_keys);
    }

    #[rstest]
    #[case::no_list(&[], "a", Some("evil"), Some("http://a"))]
    #[case::wildcard(&["*"], "a", Some("evil"), Some("http://a"))]
    #[case::wildcard_and_name(&["*", "a"], "a", Some("b"), Some("http://a"))]
    #[case::listed(&["a"], "a", None, Some("http://a"))]
    #[case::listed_without_its_port(&["a"], "a:9080", None, Some("http://a:9080"))]
    #[case::listed_with_its_port(&["a:9080"], "a:9080", None, Some("http://a:9080"))]
    #[case::another_port(&["a:1"], "a:9080", None, None)]
    #[case::case_counts(&["a"], "A", None, None)]
    #[case::not_listed(&["a"], "evil", None, None)]
    #[case::forwarded_listed(&["a"], "inner", Some("a"), Some("http://a"))]
    #[case::forwarded_not_listed(&["a"], "a", Some("evil"), None)]
    fn checks_hosts(
        #[case] allowed: &[&str],
        #[case] host: &str,
        #[case] forwarded: Option<&str>,
        #[case] want: Option<&str>,
    ) {
        let discovery = discovery(|_, oidc| {
            oidc.allowed_hosts = allowed.iter().map(|host| (*host).to_owned()).collect();
        });
        let request = get(DISCOVERY, host, forwarded);
        match want {
            Some(issuer) => assert_eq!(document(&discovery, request)["issuer"], issuer),
            None => assert_eq!(discovery.respond(request, Some(SET)), DiscoveryResponse::Forbidden),
        }
    }

    #[rstest]
    #[case::keys("/p/jwks.json", Method::GET, "a", DiscoveryResponse::Json(SET.to_owned()))]
    #[case::head("/p/jwks.json", Method::HEAD, "a", DiscoveryResponse::MethodNotAllowed)]
    #[case::options("/p/jwks.json", Method::OPTIONS, "a", DiscoveryResponse::MethodNotAllowed)]
    #[case::host_before_method("/p/jwks.json", Method::POST, "x", DiscoveryResponse::Forbidden)]
    #[case::path_before_host("/p/other", Method::POST, "x", DiscoveryResponse::NotFound)]
    #[case::slash("/p/jwks.json/", Method::GET, "a", DiscoveryResponse::NotFound)]
    #[case::no_prefix("/jwks.json", Method::GET, "a", DiscoveryResponse::NotFound)]
    #[case::root("/", Method::GET, "a", DiscoveryResponse::NotFound)]
    fn checks_path_then_host_then_method(
        #[case] path: &str,
        #[case] method: Method,
        #[case] host: &str,
        #[case] want: DiscoveryResponse,
    ) {
        let discovery = discovery(|_, oidc| {
            oidc.path_prefix = "/p".to_owned();
            oidc.allowed_hosts = vec!["a".to_owned()];
        });
        let request = DiscoveryRequest { method: &method, path, host, forwarded_host: None };
        assert_eq!(discovery.respond(request, Some(SET)), want);
    }

    #[test]
    fn without_keys_responds_not_found() {
        let discovery = discovery(|_, _| ());
        let respond = |path| discovery.respond(get(path, "a", None), None);
        assert_eq!(respond(JWKS), DiscoveryResponse::NoKeys("JWKS not available"));
        assert_eq!(
            respond(DISCOVERY),
            DiscoveryResponse::NoKeys("OIDC configuration not available")
        );
    }

    proptest::proptest! {
        /// With an allow-list the document contains no other host, whatever the request contains.
        #[test]
        fn the_document_contains_allowed_hosts_only(host in "[a-z:.\\[\\]0-9]{0,12}", forwarded in proptest::option::of("[a-z:.0-9]{0,12}")) {
            let discovery = discovery(|_, oidc| oidc.allowed_hosts = vec!["good".to_owned()]);
            let request = get(DISCOVERY, &host, forwarded.as_deref());
            if let DiscoveryResponse::Json(text) = discovery.respond(request, Some(SET)) {
                let document: Value = serde_json::from_str(&text).unwrap();
                let issuer = document["issuer"].as_str().unwrap().strip_prefix("http://").unwrap();
                proptest::prop_assert_eq!(without_port(issuer), "good");
            }
        }
    }
}
