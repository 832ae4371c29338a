//! OIDC discovery: what is answered to whom. Source: `OpenID` Connect Discovery 1.0;
//! Dapr 1.18, sentry.
//!
//! The request's host is believed only as far as it goes back to whoever sent it, and
//! `X-Forwarded-Host` only from hosts on an allow-list without a wildcard (CWE-346).

use axum::http::{Method, Uri};
use serde_json::json;

use crate::config::{JwtConfig, OidcConfig};

const DISCOVERY: &str = "/.well-known/openid-configuration";
const JWKS: &str = "/jwks.json";
const ANY_HOST: &str = "*";

/// What of a request matters.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path, as sent.
    pub path: &'a str,
    /// `Host`, or the authority of HTTP/2.
    pub host: &'a str,
    /// `X-Forwarded-Host`.
    pub forwarded_host: Option<&'a str>,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 200 with JSON.
    Json(String),
    /// 404: no such path.
    NotFound,
    /// 404: no keys yet.
    NoKeys(&'static str),
    /// 403: a host that is not allowed.
    Forbidden,
    /// 405.
    Method,
}

/// The rules of a running server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// `iss` of the tokens, if there is one.
    issuer: Option<String>,
    algorithm: &'static str,
    scheme: &'static str,
    jwks_uri: Option<String>,
    prefix: String,
    allowed_hosts: Vec<String>,
}

impl Discovery {
    /// The rules that the flags ask for.
    pub fn new(jwt: &JwtConfig, oidc: &OidcConfig) -> Self {
        Self {
            issuer: jwt.issuer.clone().filter(|issuer| !issuer.is_empty()),
            algorithm: jwt.algorithm.name(),
            scheme: if oidc.tls.is_some() { "https" } else { "http" },
            jwks_uri: oidc.jwks_uri.clone(),
            prefix: oidc.path_prefix.clone(),
            allowed_hosts: oidc.allowed_hosts.clone(),
        }
    }

    /// Answers a request; `jwks` is the key set of the moment. The path is judged first, then the
    /// host, then the method.
    pub fn answer(&self, asked: Asked<'_>, jwks: Option<&str>) -> Answer {
        let Some(path) = asked.path.strip_prefix(self.prefix.as_str()) else {
            return Answer::NotFound;
        };
        let discovery = match path {
            DISCOVERY => true,
            JWKS => false,
            _ => return Answer::NotFound,
        };
        if !self.allows(asked) {
            return Answer::Forbidden;
        }
        if asked.method != Method::GET {
            return Answer::Method;
        }
        match (discovery, jwks) {
            (true, Some(_)) => Answer::Json(self.document(asked)),
            (false, Some(jwks)) => Answer::Json(jwks.to_owned()),
            (true, None) => Answer::NoKeys("OIDC configuration not available"),
            (false, None) => Answer::NoKeys("JWKS not available"),
        }
    }

    fn allows(&self, asked: Asked<'_>) -> bool {
        if self.allowed_hosts.is_empty() {
            return true;
        }
        let host = asked.forwarded_host.unwrap_or(asked.host);
        let listed = |host: &str| self.allowed_hosts.iter().any(|allowed| allowed == host);
        listed(ANY_HOST) || listed(host) || listed(without_port(host))
    }

    /// The host to name in the document: the forwarded one only where it was checked.
    fn host<'a>(&self, asked: Asked<'a>) -> &'a str {
        let checked = !self.allowed_hosts.is_empty()
            && !self.allowed_hosts.iter().any(|allowed| allowed == ANY_HOST);
        asked.forwarded_host.filter(|_| checked).unwrap_or(asked.host)
    }

    fn document(&self, asked: Asked<'_>) -> String {
        let issuer = self
            .issuer
            .clone()
            .unwrap_or_else(|| format!("{}://{}", self.scheme, self.host(asked)));
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

/// Scheme and host of a URL; nothing of what is none.
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
    use super::*;
    use identity::JwtAlgorithm;
    use rstest::rstest;
    use serde_json::Value;
    use std::time::Duration;

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

    fn get<'a>(path: &'a str, host: &'a str, forwarded_host: Option<&'a str>) -> Asked<'a> {
        Asked { method: &Method::GET, path, host, forwarded_host }
    }

    fn document(discovery: &Discovery, asked: Asked<'_>) -> Value {
        let Answer::Json(text) = discovery.answer(asked, Some(SET)) else { panic!() };
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_document_has_dapr_s_members() {
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
    #[case::issuer_is_no_url(Some("trilby"), None, "", "trilby", "/jwks.json")]
    fn names_issuer_and_keys(
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
    fn hosts(
        #[case] allowed: &[&str],
        #[case] host: &str,
        #[case] forwarded: Option<&str>,
        #[case] want: Option<&str>,
    ) {
        let discovery = discovery(|_, oidc| {
            oidc.allowed_hosts = allowed.iter().map(|host| (*host).to_owned()).collect();
        });
        let asked = get(DISCOVERY, host, forwarded);
        match want {
            Some(issuer) => assert_eq!(document(&discovery, asked)["issuer"], issuer),
            None => assert_eq!(discovery.answer(asked, Some(SET)), Answer::Forbidden),
        }
    }

    #[rstest]
    #[case::keys("/p/jwks.json", Method::GET, "a", Answer::Json(SET.to_owned()))]
    #[case::head("/p/jwks.json", Method::HEAD, "a", Answer::Method)]
    #[case::options("/p/jwks.json", Method::OPTIONS, "a", Answer::Method)]
    #[case::host_before_method("/p/jwks.json", Method::POST, "x", Answer::Forbidden)]
    #[case::path_before_host("/p/other", Method::POST, "x", Answer::NotFound)]
    #[case::slash("/p/jwks.json/", Method::GET, "a", Answer::NotFound)]
    #[case::no_prefix("/jwks.json", Method::GET, "a", Answer::NotFound)]
    #[case::root("/", Method::GET, "a", Answer::NotFound)]
    fn judges_path_then_host_then_method(
        #[case] path: &str,
        #[case] method: Method,
        #[case] host: &str,
        #[case] want: Answer,
    ) {
        let discovery = discovery(|_, oidc| {
            oidc.path_prefix = "/p".to_owned();
            oidc.allowed_hosts = vec!["a".to_owned()];
        });
        let asked = Asked { method: &method, path, host, forwarded_host: None };
        assert_eq!(discovery.answer(asked, Some(SET)), want);
    }

    #[test]
    fn without_keys_there_is_nothing_to_discover() {
        let discovery = discovery(|_, _| ());
        let answer = |path| discovery.answer(get(path, "a", None), None);
        assert_eq!(answer(JWKS), Answer::NoKeys("JWKS not available"));
        assert_eq!(answer(DISCOVERY), Answer::NoKeys("OIDC configuration not available"));
    }

    proptest::proptest! {
        /// Whatever hosts are sent: with an allow-list the document names none that is not on it.
        #[test]
        fn no_foreign_host_is_named(host in "[a-z:.\\[\\]0-9]{0,12}", forwarded in proptest::option::of("[a-z:.0-9]{0,12}")) {
            let discovery = discovery(|_, oidc| oidc.allowed_hosts = vec!["good".to_owned()]);
            let asked = get(DISCOVERY, &host, forwarded.as_deref());
            if let Answer::Json(text) = discovery.answer(asked, Some(SET)) {
                let document: Value = serde_json::from_str(&text).unwrap();
                let issuer = document["issuer"].as_str().unwrap().strip_prefix("http://").unwrap();
                proptest::prop_assert_eq!(without_port(issuer), "good");
            }
        }
    }
}
