//! The server of OIDC discovery: the shell around [`crate::oidc`].

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use runtime::Scope;
use transport::tls::Alpn;

use crate::config::{JwtConfig, OidcConfig};
use crate::jwt_keeper::JwtKeys;
use crate::oidc::{Answer, Asked, Discovery};

const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

const TARGET: &str = "dapr.sentry.server.oidc.http";

/// Serves for as long as the scope lives. Health target: `oidc-server`.
///
/// # Errors
/// The port is taken.
pub async fn start(config: &OidcConfig, keys: JwtKeys, scope: &Scope) -> anyhow::Result<()> {
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
        tracing::info!(target: TARGET, tls = config.tls.is_some(), "serving OIDC discovery");
        ready.set_ready();
        server.run(inner).await
    });
    Ok(())
}

fn router(config: &OidcConfig, keys: JwtKeys) -> Router {
    let jwt: &JwtConfig = &keys.config;
    let discovery = Discovery::new(jwt, config);
    Router::new().fallback(move |request: Request| {
        let jwks = keys.current();
        let answer = answer(&discovery, &request, jwks.as_deref().map(|keys| keys.jwks.as_str()));
        std::future::ready(answer)
    })
}

fn answer(discovery: &Discovery, request: &Request, jwks: Option<&str>) -> Response {
    let uri = request.uri();
    let text = |name| text(request.headers(), name);
    let asked = Asked {
        method: request.method(),
        path: uri.path(),
        host: text(header::HOST)
            .or_else(|| uri.authority().map(axum::http::uri::Authority::as_str))
            .unwrap_or_default(),
        forwarded_host: text(FORWARDED_HOST).filter(|host| !host.is_empty()),
    };
    let answer = discovery.answer(asked, jwks);
    tracing::debug!(target: TARGET, path = asked.path, ?answer, "answered");
    match answer {
        Answer::Json(text) => {
            let headers = [
                (header::CONTENT_TYPE, "application/json"),
                (header::CACHE_CONTROL, "public, max-age=3600"),
            ];
            (headers, text).into_response()
        }
        Answer::NotFound => (StatusCode::NOT_FOUND, "404 page not found\n").into_response(),
        Answer::NoKeys(text) => (StatusCode::NOT_FOUND, text).into_response(),
        Answer::Forbidden => {
            (StatusCode::FORBIDDEN, "Forbidden: unauthorized domain\n").into_response()
        }
        Answer::Method => (StatusCode::METHOD_NOT_ALLOWED, "Method not allowed\n").into_response(),
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}
