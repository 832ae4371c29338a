//! JWT SVIDs and OIDC discovery, verified with another JWT library. Source of the claims and of the
//! checks of a sidecar: Dapr 1.18.

use std::path::Path;
use std::time::Duration;

use identity::{JwtAlgorithm, KeyKind};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation};
use proto::sentry::SignCertificateRequest;
use rstest::rstest;
use runtime::{Scope, clock};
use sentry::{Config, JwtConfig, OidcConfig};
use serde_json::Value;
use testkit::ca::Ca;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::fixture::{Fixture, request};

fn jwt(dir: &Path, algorithm: JwtAlgorithm) -> JwtConfig {
    JwtConfig {
        key: dir.join("jwt.key"),
        jwks: dir.join("jwks.json"),
        issuer: None,
        algorithm,
        key_id: None,
        ttl: Duration::from_hours(24),
    }
}

/// Enables JWT SVIDs, with files in the folder of the CA.
fn with_jwt(config: &mut Config, change: impl FnOnce(&mut JwtConfig)) {
    let dir = config.bundle.anchors.parent().unwrap().to_owned();
    let mut jwt = jwt(&dir, JwtAlgorithm::Rs256);
    change(&mut jwt);
    config.jwt = Some(jwt);
}

fn with_audiences(audiences: &[&str]) -> SignCertificateRequest {
    let jwt_audiences = audiences.iter().map(|audience| (*audience).to_owned()).collect();
    SignCertificateRequest { jwt_audiences, ..request(KeyKind::Ed25519) }
}

/// Header and claims of a token, verified with the published keys for `audience`.
fn read(fixture: &Fixture, token: &str, audience: &str) -> (jsonwebtoken::Header, Value) {
    let keys: JwkSet = serde_json::from_str(&fixture.read("jwks.json")).unwrap();
    let header = jsonwebtoken::decode_header(token).unwrap();
    let key = keys.find(header.kid.as_ref().unwrap()).unwrap();
    let mut rules = Validation::new(header.alg);
    rules.set_audience(&[audience]);
    rules.validate_nbf = true;
    let read = jsonwebtoken::decode(token, &DecodingKey::from_jwk(key).unwrap(), &rules).unwrap();
    (header, read.claims)
}

#[tokio::test]
async fn a_response_has_a_token_for_all_audiences_and_one_for_each() {
    let fixture = Fixture::start_with("", None, |config| with_jwt(config, |_| ())).await;
    let answer = fixture.sign(with_audiences(&["azure", "public"])).await.unwrap();
    let (header, claims) = read(&fixture, &answer.jwt.unwrap(), "azure");
    assert_eq!(header.typ.as_deref(), Some("JWT"));
    assert_eq!(header.alg, jsonwebtoken::Algorithm::RS256);
    assert_eq!(claims["sub"], "spiffe://public/ns/shop/cart");
    assert_eq!(claims["aud"], serde_json::json!(["public", "azure"]));
    assert_eq!(claims["use"], "sig");
    assert!(claims.get("iss").is_none(), "no issuer unless configured");
    let number = |name: &str| claims[name].as_i64().unwrap();
    assert_eq!(number("exp") - number("iat"), 24 * 3600);
    assert_eq!(number("iat") - number("nbf"), 15 * 60);
    assert!((number("iat") - clock::now().as_second()).abs() < 60);
    let id = claims["jti"].as_str().unwrap();
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");

    assert_eq!(answer.per_audience_jwts.len(), 2);
    for (audience, token) in &answer.per_audience_jwts {
        let (_, claims) = read(&fixture, token, audience);
        assert_eq!(
            claims["aud"],
            serde_json::json!([audience]),
            "sidecars require an array of one"
        );
    }
}

#[rstest]
#[case::ttl_and_issuer(JwtAlgorithm::Ps384, None)]
#[case::key_id(JwtAlgorithm::Es256, Some("mine"))]
#[tokio::test]
async fn tokens_follow_the_configuration_and_keep_their_key_over_a_restart(
    #[case] algorithm: JwtAlgorithm,
    #[case] key_id: Option<&str>,
) {
    let change = |config: &mut Config| {
        with_jwt(config, |jwt| {
            jwt.algorithm = algorithm;
            jwt.key_id = key_id.map(str::to_owned);
            jwt.ttl = Duration::from_mins(10);
            jwt.issuer = Some("https://issuer.example".to_owned());
        });
    };
    let fixture = Fixture::start_with("", None, change).await;
    let answer = fixture.sign(with_audiences(&[])).await.unwrap();
    let (header, claims) = read(&fixture, &answer.jwt.unwrap(), "public");
    assert_eq!(claims["iss"], "https://issuer.example");
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 600);
    assert_eq!(key_id.map_or(header.kid.clone(), |id| Some(id.to_owned())), header.kid);

    let keys = fixture.read("jwks.json");
    let again = fixture.restart(change).await;
    assert_eq!(again.read("jwks.json"), keys);
    let answer = again.sign(with_audiences(&[])).await.unwrap();
    assert_eq!(read(&again, &answer.jwt.unwrap(), "public").0.kid, header.kid);
}

#[rstest]
#[case::empty_file("", "the JWKS cannot be used")]
#[case::empty_set("{\"keys\":[]}", "the JWKS holds no key")]
#[case::other_key(
    "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}",
    "the JWKS does not hold the public half of the signing key"
)]
#[tokio::test]
async fn an_invalid_key_set_fails_the_start_and_is_not_changed(
    #[case] jwks: &str,
    #[case] want: &str,
) {
    let fixture = Fixture::start_with("", None, |config| with_jwt(config, |_| ())).await;
    fixture.scope.shutdown().await.unwrap();
    std::fs::write(fixture.dir.path().join("jwks.json"), jwks).unwrap();
    let mut config = crate::fixture::config(fixture.dir.path());
    with_jwt(&mut config, |_| ());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = sentry::run_on(listener, config, Scope::for_test()).await.unwrap_err();
    assert!(format!("{error:#}").starts_with(want), "{error:#}");
    assert_eq!(fixture.read("jwks.json"), jwks);
}

#[tokio::test]
async fn uses_a_new_key_without_a_restart_and_rejects_an_invalid_one() {
    let fixture = Fixture::start_with("", None, |config| with_jwt(config, |_| ())).await;
    let other = Fixture::start_with("", None, |config| with_jwt(config, |_| ())).await;
    let key_id = async || {
        let token = fixture.sign(with_audiences(&[])).await.unwrap().jwt.unwrap();
        jsonwebtoken::decode_header(token).unwrap().kid.unwrap()
    };
    let first = key_id().await;
    std::fs::write(fixture.dir.path().join("jwt.key"), other.read("jwt.key")).unwrap();
    assert_eq!(key_id().await, first, "the key is not in the key set");
    std::fs::write(fixture.dir.path().join("jwks.json"), other.read("jwks.json")).unwrap();
    testkit::until("the new key signs", async || key_id().await != first).await;
    assert!(fixture.scope.is_ready());
}

/// Sends an HTTP/1.1 request line with headers, and returns the response.
async fn http(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(format!("{request}\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn oidc(port: u16) -> OidcConfig {
    OidcConfig {
        listen_address: "127.0.0.1".to_owned(),
        port,
        tls: None,
        jwks_uri: None,
        path_prefix: "/oidc".to_owned(),
        allowed_hosts: vec!["issuer.example".to_owned()],
    }
}

#[tokio::test]
async fn serves_discovery_to_relying_parties() {
    let port = testkit::free_port().unwrap();
    let fixture = Fixture::start_with("", None, |config| {
        with_jwt(config, |_| ());
        config.oidc = Some(oidc(port));
    })
    .await;
    let discovery = "GET /oidc/.well-known/openid-configuration HTTP/1.1\r\nHost: issuer.example:1";
    let answer = http(port, discovery).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: application/json\r\n"), "{answer}");
    assert!(answer.contains("cache-control: public, max-age=3600\r\n"), "{answer}");
    let document: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(document["jwks_uri"], "http://issuer.example:1/oidc/jwks.json");

    let keys = http(port, "GET /oidc/jwks.json HTTP/1.1\r\nHost: issuer.example").await;
    assert!(keys.ends_with(&fixture.read("jwks.json")), "{keys}");

    for (request, status) in [
        ("GET /oidc/jwks.json HTTP/1.1\r\nHost: evil", "403"),
        ("GET /oidc/jwks.json HTTP/1.1\r\nHost: issuer.example\r\nX-Forwarded-Host: evil", "403"),
        ("GET /oidc/jwks.json HTTP/1.1\r\nHost: evil\r\nX-Forwarded-Host: issuer.example", "200"),
        ("POST /oidc/jwks.json HTTP/1.1\r\nHost: issuer.example\r\nContent-Length: 0", "405"),
        ("GET /jwks.json HTTP/1.1\r\nHost: issuer.example", "404"),
    ] {
        let answer = http(port, request).await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{request}");
    }
}

#[tokio::test]
async fn discovery_waits_for_its_certificate_and_serves_tls() {
    let port = testkit::free_port().unwrap();
    let files = tempfile::tempdir().unwrap();
    let paths = (files.path().join("tls.crt"), files.path().join("tls.key"));
    let web = Ca::new();
    std::fs::write(&paths.0, &web.pem().issuer_chain).unwrap();
    std::fs::write(&paths.1, web.pem().issuer_key.as_bytes()).unwrap();
    let fixture = Fixture::start_with("", None, |config| {
        with_jwt(config, |_| ());
        config.oidc = Some(OidcConfig { tls: Some(paths), ..oidc(port) });
    })
    .await;
    let plain = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut plain = plain;
    plain.write_all(b"GET /oidc/jwks.json HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // The server sends an alert or a reset.
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "plain HTTP gets no response");
    assert!(fixture.scope.shutdown().await.is_ok());
}
