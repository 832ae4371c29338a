//! Admission of requests and security headers of answers. Requests only read, come from a page of
//! the dashboard or from the user directly, and name a host of the dashboard.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

/// Headers of every answer. Pages load scripts, styles and data only from the dashboard, and are
/// never framed, cached or read by other origins.
const HEADERS: [(HeaderName, &str); 8] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), microphone=(), geolocation=()"),
];

/// The host names of the dashboard.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    /// In lower case, beside `localhost` and loopback addresses.
    pub(crate) allowed_hosts: Vec<String>,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Method,
    Host,
    CrossSite,
}

impl Guard {
    fn admit(
        &self,
        method: &Method,
        host: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(Refusal::Method);
        }
        if !host.is_some_and(|host| self.is_own(host)) {
            return Err(Refusal::Host);
        }
        if is_cross_site(headers) { Err(Refusal::CrossSite) } else { Ok(()) }
    }

    /// Whether a host, with or without port, is the dashboard's. A web page of another host whose
    /// name resolves to 127.0.0.1 sends that other name.
    fn is_own(&self, host: &str) -> bool {
        let Some(name) = without_port(host) else { return false };
        let name = name.to_ascii_lowercase();
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        name == "localhost"
            || address.is_ok_and(|address| address.is_loopback())
            || self.allowed_hosts.contains(&name)
    }
}

fn without_port(host: &str) -> Option<&str> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') => (name, port),
        _ => (host, "0"),
    };
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    (is_port && !name.is_empty()).then_some(name)
}

/// Whether a page of another site makes the request (W3C Fetch Metadata). Users may follow links
/// from anywhere; clients other than browsers send nothing.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap_or("?"));
    let by_person = text("sec-fetch-mode") == "navigate" && text("sec-fetch-dest") == "document";
    !matches!(text("sec-fetch-site"), "" | "same-origin" | "none") && !by_person
}

/// Refuses requests that are not admitted, and adds the headers.
pub(crate) async fn check(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or(request.uri().authority().map(http::uri::Authority::as_str));
    let mut response = match guard.admit(request.method(), host, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refuse(refusal),
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn refuse(refusal: Refusal) -> Response {
    match refusal {
        Refusal::Method => {
            let allow = [(header::ALLOW, "GET, HEAD")];
            (StatusCode::METHOD_NOT_ALLOWED, allow, "the dashboard only reads\n").into_response()
        }
        Refusal::Host => {
            let words = "this host name is not the dashboard's: use localhost, or name it with --allowed-hosts\n";
            (StatusCode::MISDIRECTED_REQUEST, words).into_response()
        }
        Refusal::CrossSite => {
            (StatusCode::FORBIDDEN, "requests by pages of other sites are refused\n")
                .into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn admit(
        method: &Method,
        host: Option<&str>,
        headers: &[(&'static str, &str)],
    ) -> Result<(), Refusal> {
        let guard = Guard { allowed_hosts: vec!["dapr.example.com".to_owned()] };
        let headers = headers.iter().map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        });
        guard.admit(method, host, &headers.collect())
    }

    #[rstest]
    #[case("localhost:8080", true)]
    #[case("LOCALHOST", true)]
    #[case("127.0.0.1:1", true)]
    #[case("[::1]:8080", true)]
    #[case("[::1]", true)]
    #[case("dapr.example.com", true)]
    #[case("evil.example.com:8080", false)]
    #[case("localhost.evil.example", false)]
    #[case("localhost:", false)]
    #[case("localhost:80:80", false)]
    #[case("10.0.0.1", false)]
    #[case("", false)]
    fn a_rebound_host_is_refused(#[case] host: &str, #[case] want: bool) {
        assert_eq!(admit(&Method::GET, Some(host), &[]).is_ok(), want, "{host}");
    }

    #[test]
    fn a_request_without_host_is_refused() {
        assert_eq!(admit(&Method::GET, None, &[]), Err(Refusal::Host));
    }

    #[rstest]
    #[case(Method::POST)]
    #[case(Method::DELETE)]
    #[case(Method::PUT)]
    #[case(Method::PATCH)]
    #[case(Method::OPTIONS)]
    fn only_reading_is_admitted(#[case] method: Method) {
        assert_eq!(admit(&method, Some("localhost"), &[]), Err(Refusal::Method));
    }

    #[rstest]
    #[case(&[("sec-fetch-site", "same-origin")], true)]
    #[case(&[("sec-fetch-site", "none")], true)]
    #[case(&[("sec-fetch-site", "cross-site")], false)]
    #[case(&[("sec-fetch-site", "same-site")], false)]
    #[case(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], false)]
    #[case(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")], false)]
    #[case(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")], true)]
    fn pages_of_other_sites_are_refused(
        #[case] headers: &[(&'static str, &str)],
        #[case] want: bool,
    ) {
        assert_eq!(admit(&Method::GET, Some("localhost"), headers).is_ok(), want);
    }
}
