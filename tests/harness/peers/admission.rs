//! Admission reviews sent to a webhook as kube-apiserver sends them: over HTTPS, the server's name
//! verified.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use crate::http::{self, Response};

/// A client of one webhook.
#[derive(Clone, Debug)]
pub struct AdmissionClient {
    address: SocketAddr,
    name: String,
    tls: Arc<ClientConfig>,
}

/// A webhook's decision about an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Whether the object may be stored.
    pub allowed: bool,
    /// The JSON Patch; empty when nothing changes.
    pub patch: Value,
    /// The reason of a denial.
    pub message: String,
    /// Warnings that kubectl shows.
    pub warnings: Vec<String>,
}

/// A client without a certificate, which verifies servers with these roots (PEM).
///
/// # Errors
/// When the roots are no certificates.
pub fn tls(roots: &str) -> Result<Arc<ClientConfig>> {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        store.add(root?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(Arc::new(tls))
}

impl AdmissionClient {
    /// A client of the webhook at that port of this machine, whose certificate has that name and
    /// chains to these roots (PEM).
    ///
    /// # Errors
    /// When the roots are no certificates.
    pub fn new(port: u16, name: &str, roots: &str) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Ok(Self { address, name: name.to_owned(), tls: tls(roots)? })
    }

    /// The webhook's own certificate (DER), after its chain and name were verified.
    ///
    /// # Errors
    /// When they are invalid, or the port is closed.
    pub fn certificate(&self) -> Result<Vec<u8>> {
        let name = ServerName::try_from(self.name.clone())?;
        let mut tls = ClientConnection::new(self.tls.clone(), name)?;
        let mut stream = http::connect(self.address)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut stream)?;
        }
        let leaf = tls.peer_certificates().and_then(<[_]>::first).context("no certificate")?;
        Ok(leaf.to_vec())
    }

    /// One POST to `/mutate`, on a connection of its own.
    ///
    /// # Errors
    /// When there is no connection or no HTTP answer.
    pub fn post(&self, content_type: &str, body: &str) -> Result<Response> {
        let name = ServerName::try_from(self.name.clone())?;
        let tls = ClientConnection::new(self.tls.clone(), name)?;
        let mut stream = StreamOwned::new(tls, http::connect(self.address)?);
        let headers = [("Content-Type", content_type)];
        http::over(&mut stream, &self.name, "POST", "/mutate?timeout=10s", &headers, Some(body))
            .with_context(|| format!("POST to the webhook at {}", self.address))
    }

    /// Requests a decision. `request` is the review's; its `uid` is set here.
    ///
    /// # Errors
    /// When the answer is not a review of this request.
    pub fn decide(&self, request: &Value) -> Result<Decision> {
        const UID: &str = "705ab4f5-6393-11e8-b7cc-42010a800002";
        let mut request = request.clone();
        if let Some(members) = request.as_object_mut() {
            members.insert("uid".to_owned(), json!(UID));
        }
        let kind = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"});
        let mut review = kind.clone();
        if let Some(members) = review.as_object_mut() {
            members.insert("request".to_owned(), request);
        }
        let answer = self.post("application/json", &review.to_string())?;
        ensure!(answer.status == 200, "HTTP {}: {}", answer.status, answer.body);
        let answer = answer.json()?;
        for member in ["apiVersion", "kind"] {
            ensure!(answer.get(member) == kind.get(member), "{member} is not echoed: {answer}");
        }
        let Some(response) = answer.get("response") else { bail!("no response in {answer}") };
        ensure!(response.get("uid") == Some(&json!(UID)), "uid is not echoed: {answer}");
        decision(response)
    }
}

fn decision(response: &Value) -> Result<Decision> {
    let patch = match (response.get("patch").and_then(Value::as_str), response.get("patchType")) {
        (None, None) => json!([]),
        (Some(patch), Some(kind)) if kind == "JSONPatch" => {
            serde_json::from_slice(&base64::engine::general_purpose::STANDARD.decode(patch)?)?
        }
        _ => bail!("patch and patchType do not go together: {response}"),
    };
    let message = response.pointer("/status/message").and_then(Value::as_str);
    let warnings = response.get("warnings").and_then(Value::as_array).into_iter().flatten();
    Ok(Decision {
        allowed: response.get("allowed").and_then(Value::as_bool).context("no member allowed")?,
        patch,
        message: message.unwrap_or_default().to_owned(),
        warnings: warnings.filter_map(Value::as_str).map(str::to_owned).collect(),
    })
}
