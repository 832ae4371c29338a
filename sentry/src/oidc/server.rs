//! Serves [`super::discovery`] over HTTP or HTTPS.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use runtime::{ListenError, Scope};
use transport::tls::Alpn;

use super::discovery::{Discovery, DiscoveryRequest, DiscoveryResponse, OidcConfig};
use crate::jwt::JwtKeys;

const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

const LOG: &str = "dapr.sentry.server.oidc.http";

/// Serves until the scope is cancelled. Health target: `oidc-server`.
///
/// # Errors
/// [`ListenError`]: the port is in use.
pub(crate) async fn start(
    config: &OidcConfig,
    keys: JwtKeys,
    scope: &Scope,
) -> Result<(), ListenError> {
    let ready = scope.ready("oidc-server");
    let listener = runtime::listen(&config.listen_address, config.port).await?;
    let router = router(config, keys);
    let (config, inner) = (config.clone(), scope.clone());
    scope.spawn("oidc-server", async move {
        let mut server = transport::Server::new("oidc", listener, router);
        if let Some((certificate, key)) = &config.tls {
            let tls =
                transport::file_certificate::server(certificate, key, Alpn::Https, &inner).await?;
            let Some(tls) = tls else { return Ok(()) };
            server = server.tls(tls);
        }
        tracing::info!(target: LOG, tls = config.tls.is_some(), "serving OIDC discovery");
        ready.set_ready();
        server.run(inner).await
    });
    Ok(())
}

fn router(config: &OidcConfig, keys: JwtKeys) -> Router {
    let discovery = Discovery::new(&keys.config, config);
    Router::new().fallback(move |request: Request| {
        let jwks = keys.current();
        let response =
            respond(&discovery, &request, jwks.as_deref().map(|keys| keys.jwks.as_str()));
        std::future::ready(response)
    })
}

fn respond(discovery: &Discovery, request: &Request, jwks: Option<&str>) -> Response {
    let uri = request.uri();
    let text = |name| text(request.headers(), name);
    let request = DiscoveryRequest {
        method: request.method(),
        path: uri.path(),
        host: text(header::HOST)
            .or_else(|| uri.authority().map(axum::http::uri::Authority::as_str))
            .unwrap_or_default(),
        forwarded_host: text(FORWARDED_HOST).filter(|host| !host.is_empty()),
    };
    let response = discovery.respond(request, jwks);
    tracing::debug!(target: LOG, path = request.path, ?response, "responded");
    match response {
        DiscoveryResponse::Json(text) => {
            let headers = [
                (header::CONTENT_TYPE, "application/json"),
                (header::CACHE_CONTROL, "public, max-age=3600"),
            ];
            (headers, text).into_response()
        }
        DiscoveryResponse::NotFound => {
            (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
        }
        DiscoveryResponse::NoKeys(text) => (StatusCode::NOT_FOUND, text).into_response(),
        DiscoveryResponse::Forbidden => {
            (StatusCode::FORBIDDEN, "Forbidden: unauthorized domain\n").into_response()
        }
        DiscoveryResponse::MethodNotAllowed => {
            (StatusCode::METHOD_NOT_ALLOWED, "Method not allowed\n").into_response()
        }
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}
