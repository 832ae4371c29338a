//! JWT SVIDs and OIDC discovery: the same requests to Dapr's sentry and to ours.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blackbox::{
    Deadline, Ports, Process, Scratch, Spawn, Tool, build_binary, environment, soon, until,
};
use identity::{SpiffeId, TrustAnchors};
use proto::sentry::SignCertificateResponse;
use proto::sentry::ca_client::CaClient;
use serde_json::Value;
use tokio::sync::watch;

use crate::fixture::{TRUST_DOMAIN, request, runtime};

/// A standalone sentry that issues JWT SVIDs and serves OIDC discovery.
struct Issuer {
    _process: Process,
    folder: Scratch,
    port: u16,
    oidc: u16,
}

impl Issuer {
    fn start(name: &str, program: &Path, more: &[&str]) -> Result<Self> {
        let folder = Scratch::new(name)?;
        let config = folder.write("config.yaml", "")?;
        let (ports, oidc) = (Ports::free()?, environment::free_port()?);
        let mut process = Spawn::new(name, program, folder.path())
            .args(["--mode", "standalone", "--trust-domain", TRUST_DOMAIN, "--jwt-enabled"])
            .arg("--config")
            .arg(&config)
            .arg("--issuer-credentials")
            .arg(folder.path())
            .service_at(ports)
            .args(["--oidc-enabled", "--oidc-server-tls-enabled=false"])
            .args([format!("--oidc-server-listen-port={oidc}")])
            .args(more.iter().copied())
            .env("NAMESPACE", "dapr-system")
            .start()?;
        process.wait_for_http(ports.healthz, "/healthz", Deadline::seconds(60))?;
        Ok(Self { _process: process, folder, port: ports.main, oidc })
    }

    /// Dapr's and ours, with the same flags.
    fn both(more: &[&str]) -> Result<[Self; 2]> {
        let dapr = Self::start("dapr", &Tool::REFERENCE_SENTRY.path()?, more)?;
        Ok([dapr, Self::start("trilby", &build_binary("sentry")?, more)?])
    }

    /// Status and body of an HTTP/1.1 request. Dapr's sentry closes its ports for a moment after the
    /// first start, so requests are retried.
    fn request(&self, line: &str, headers: &[&str]) -> Result<(String, String)> {
        until(soon(), "an answer", || Ok(self.try_request(line, headers).ok()))
    }

    fn try_request(&self, line: &str, headers: &[&str]) -> Result<(String, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.oidc))?;
        let headers: String = headers.iter().flat_map(|header| [*header, "\r\n"]).collect();
        write!(stream, "{line} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        let status = head.split(' ').nth(1).context("no status")?;
        let port = self.oidc.to_string();
        Ok((status.to_owned(), body.trim_end().replace(&port, "PORT")))
    }

    fn sign(&self, audiences: &[&str]) -> Result<SignCertificateResponse> {
        until(soon(), "a certificate", || Ok(self.try_sign(audiences).ok()))
    }

    fn try_sign(&self, audiences: &[&str]) -> Result<SignCertificateResponse> {
        let anchors = std::fs::read(self.folder.path().join("ca.crt"))?;
        let anchors = watch::channel(Arc::new(TrustAnchors::parse_pem(&anchors)?)).1;
        let id = format!("spiffe://{TRUST_DOMAIN}/ns/dapr-system/dapr-sentry");
        let tls = transport::tls::anonymous_client(anchors, SpiffeId::parse(&id)?)?;
        let mut message = request("shop", "till", "");
        message.token_validator = 0;
        message.jwt_audiences = audiences.iter().map(|audience| (*audience).to_owned()).collect();
        runtime().block_on(async {
            let channel = transport::dial(&format!("127.0.0.1:{}", self.port), tls).await?;
            Ok(CaClient::new(channel).sign_certificate(message).await?.into_inner())
        })
    }
}

#[test]
fn discovery_responds_like_dapr() -> Result<()> {
    const DISCOVERY: &str = "GET /p/.well-known/openid-configuration";
    let listed = ["--oidc-path-prefix=/p", "--oidc-allowed-hosts=a,b:1"];
    let open = ["--oidc-path-prefix=/p/"];
    let issuer = ["--oidc-path-prefix=/p", "--jwt-issuer=https://i.example/tenant"];
    let no_url = ["--oidc-path-prefix=/p", "--jwt-issuer=trilby", "--oidc-allowed-hosts=*"];
    for flags in [&listed[..], &open, &issuer, &no_url] {
        let [dapr, trilby] = Issuer::both(flags)?;
        for line in [
            DISCOVERY,
            "HEAD /p/.well-known/openid-configuration",
            "OPTIONS /p/jwks.json",
            "POST /p/jwks.json",
            "GET /p/jwks.json/",
            "GET /.well-known/openid-configuration",
            "GET /other",
        ] {
            for headers in [
                &["Host: a"][..],
                &["Host: a:PORT"],
                &["Host: A"],
                &["Host: b"],
                &["Host: b:1"],
                &["Host: c"],
                &["Host: c", "X-Forwarded-Host: a"],
                &["Host: a", "X-Forwarded-Host: c"],
                &["Host: a", "X-Forwarded-Host: b:1"],
            ] {
                let call = |who: &Issuer| {
                    let port = who.oidc.to_string();
                    let headers: Vec<String> =
                        headers.iter().map(|header| header.replace("PORT", &port)).collect();
                    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
                    who.request(line, &headers)
                };
                assert_eq!(call(&trilby)?, call(&dapr)?, "{flags:?} {line} {headers:?}");
            }
        }
        assert_eq!(trilby.request("GET /p/jwks.json", &["Host: a"])?.0, "200");
    }
    Ok(())
}

fn claims(token: &str) -> Result<(Value, Value)> {
    let mut parts = token
        .split('.')
        .map(|part| anyhow::Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?));
    let mut next = || parts.next().context("no such part")?;
    Ok((next()?, next()?))
}

/// A token without the members that differ between tokens.
fn shape(token: &str) -> Result<Value> {
    let (mut header, mut claims) = claims(token)?;
    let number = |name: &str| claims.get(name).and_then(Value::as_i64).context("no number");
    let (issued, begins, ends) = (number("iat")?, number("nbf")?, number("exp")?);
    let id = claims.get("jti").and_then(Value::as_str).map(str::len);
    let kid = header.get("kid").and_then(Value::as_str).map(str::len);
    for (object, names) in
        [(&mut claims, &["iat", "nbf", "exp", "jti"][..]), (&mut header, &["kid"])]
    {
        let object = object.as_object_mut().context("no object")?;
        object.retain(|name, _| !names.contains(&name.as_str()));
    }
    Ok(serde_json::json!({
        "header": header, "claims": claims, "jti": id, "kid": kid,
        "before": issued - begins, "life": ends - issued,
    }))
}

#[test]
fn tokens_have_the_shape_of_dapr() -> Result<()> {
    for flags in [&[][..], &["--jwt-issuer=https://i.example", "--jwt-ttl=10m"]] {
        let [dapr, trilby] = Issuer::both(flags)?;
        let (theirs, ours) = (dapr.sign(&["x", "y"])?, trilby.sign(&["x", "y"])?);
        let token =
            |answer: &SignCertificateResponse| shape(answer.jwt.as_deref().context("no token")?);
        assert_eq!(token(&ours)?, token(&theirs)?);
        assert_eq!(ours.per_audience_jwts.len(), theirs.per_audience_jwts.len());
        for (audience, token) in &theirs.per_audience_jwts {
            let own = ours.per_audience_jwts.get(audience).context("no token for an audience")?;
            assert_eq!(shape(own)?, shape(token)?);
        }
    }
    Ok(())
}

#[test]
fn each_sentry_uses_the_key_that_the_other_generated() -> Result<()> {
    let [dapr, trilby] = Issuer::both(&[])?;
    for (first, second) in
        [(&dapr, build_binary("sentry")?), (&trilby, Tool::REFERENCE_SENTRY.path()?)]
    {
        let made = first.sign(&[])?;
        let folder = Scratch::new("second")?;
        for name in ["ca.crt", "issuer.crt", "issuer.key", "jwt.key", "jwks.json"] {
            std::fs::copy(first.folder.path().join(name), folder.path().join(name))?;
        }
        let kept = Issuer::start(
            "second",
            &second,
            &["--issuer-credentials", &folder.path().to_string_lossy()],
        )?;
        std::fs::copy(folder.path().join("ca.crt"), kept.folder.path().join("ca.crt"))?;
        let again = kept.sign(&[])?;
        let kid = |answer: &SignCertificateResponse| {
            let (header, _) = claims(answer.jwt.as_deref().context("no token")?)?;
            anyhow::Ok(header.get("kid").cloned())
        };
        assert_eq!(kid(&again)?, kid(&made)?);
    }
    Ok(())
}
