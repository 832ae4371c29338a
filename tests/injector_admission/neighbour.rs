//! Mutating webhooks of others, before and after ours in the order of names.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use blackbox::ApiCluster;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use testkit::ca::{Ca, SvidOptions};

/// The change that a webhook makes to each pod.
pub(crate) type Change = fn(&Value) -> Value;

/// Registers a webhook that answers each pod of a namespace with the JSON Patch of `change`.
pub(crate) fn install(api: &ApiCluster, name: &str, namespace: &str, change: Change) -> Result<()> {
    let ca = Ca::new();
    let options = SvidOptions {
        key_kind: identity::KeyKind::EcdsaP256,
        dns_names: vec!["localhost".to_owned()],
        ..SvidOptions::default()
    };
    let svid = ca.svid_with("default", name, &options);
    let chain = svid.chain.certs().iter().map(|c| CertificateDer::from(c.as_ref().to_vec()));
    let key = PrivateKeyDer::try_from(svid.key.pkcs8_der().to_vec()).map_err(anyhow::Error::msg)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain.collect(), key)?;
    let (tls, listener) = (Arc::new(tls), TcpListener::bind("127.0.0.1:0")?);
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let tls = tls.clone();
            thread::spawn(move || serve(stream, tls, change));
        }
    });
    let anchors = ca.anchors();
    let bundle = base64::engine::general_purpose::STANDARD.encode(anchors.pem());
    let registration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [{
            "name": "webhook.example.com",
            "clientConfig": {"url": format!("https://localhost:{port}/"), "caBundle": bundle},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }],
    });
    api.apply(&registration.to_string()).map(drop)
}

fn serve(stream: TcpStream, tls: Arc<ServerConfig>, change: Change) -> Result<()> {
    let mut stream = BufReader::new(StreamOwned::new(ServerConnection::new(tls)?, stream));
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let (name, value) = line.trim_end().split_once(": ").unwrap_or_default();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse()?;
        }
        if line.trim_end().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let review: Value = serde_json::from_slice(&body)?;
    let request = review.get("request").context("no request")?;
    let patch = change(request.get("object").context("no object")?);
    let patch = base64::engine::general_purpose::STANDARD.encode(patch.to_string());
    let answer = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": {
            "uid": request["uid"], "allowed": true, "patchType": "JSONPatch", "patch": patch,
        },
    });
    let answer = answer.to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        answer.len()
    );
    stream.get_mut().write_all(format!("{head}{answer}").as_bytes())?;
    stream.get_mut().flush()?;
    Ok(())
}
