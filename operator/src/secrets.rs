//! Which secrets an object needs, and the object with their values filled in.
//!
//! Pure: the caller fetches. Objects in the caches are never changed; a filled copy lives for one
//! answer. Source of every rule and text: Dapr 1.18, operator API.
use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use resources::{
    Component, Configuration, CustomResource, HTTPEndpoint, MCPServer, NameValuePair, Resiliency,
    SecretKeyRef, Subscription, TlsDocument, WorkflowAccessPolicy, is_kubernetes_store,
};
use serde_json::Value;

/// The entries of one Secret.
pub type SecretData = BTreeMap<String, Vec<u8>>;

/// What fetching the secrets of an object gave, by name of the Secret.
pub type Fetched = BTreeMap<String, Result<Arc<SecretData>, FetchError>>;

/// Why a Secret could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// There is none of that name.
    #[error("Secret {0:?} not found")]
    NotFound(String),
    /// The API server did not answer, or refused.
    #[error("read Secret {name:?}: {reason}")]
    Failed {
        /// Name of the Secret.
        name: String,
        /// What the API server said.
        reason: String,
    },
}

/// Why an object cannot be filled in; the texts are those of the reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    /// A Component or HTTPEndpoint names a Secret that cannot be read.
    #[error(transparent)]
    Secret(FetchError),
    /// An MCPServer does.
    #[error("error resolving {place} secret for MCPServer {server:?}: {cause}")]
    McpServer {
        /// Which list the reference is in.
        place: &'static str,
        /// Name of the MCPServer.
        server: String,
        /// Why the Secret cannot be read.
        cause: FetchError,
    },
    /// A header of a Configuration does.
    #[error(
        "error processing configuration secrets: failed to get secret {secret} for header {header}: {cause}"
    )]
    Header {
        /// Name of the Secret.
        secret: String,
        /// Name of the header.
        header: String,
        /// Why the Secret cannot be read.
        cause: FetchError,
    },
    /// A header of a Configuration names no key.
    #[error("error processing configuration secrets: secret key is required for header {0}")]
    KeyRequired(String),
    /// A header of a Configuration names a key that the Secret lacks.
    #[error("error processing configuration secrets: key {key} not found in secret {secret}")]
    KeyNotFound {
        /// Name of the Secret.
        secret: String,
        /// The key.
        key: String,
    },
    /// The object cannot be printed; the cause is in the log.
    #[error("object cannot be printed")]
    Unprintable,
}

impl FillError {
    /// Whether the Secret is there but lacks the key.
    pub fn is_key(&self) -> bool {
        matches!(self, Self::KeyRequired(_) | Self::KeyNotFound { .. })
    }

    /// Whether trying again may help without anybody changing anything.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Secret(cause) | Self::McpServer { cause, .. } | Self::Header { cause, .. } => {
                matches!(cause, FetchError::Failed { .. })
            }
            Self::KeyRequired(_) | Self::KeyNotFound { .. } | Self::Unprintable => false,
        }
    }
}

/// A kind that the API serves.
pub trait Served: CustomResource {
    /// The kind in log lines: `sidecar connected for <what> updates`.
    const WHAT: &'static str;
    /// An empty list instead of an error while the CRD is not installed.
    const EMPTY_WITHOUT_CRD: bool = false;
    /// Whether a sidecar that has lost its stream does not ask what it missed (Dapr 1.18). Of
    /// HTTPEndpoints it does not either, but one with secrets always looks changed to it.
    const MISSED_IN_AN_OUTAGE: bool = false;

    /// Names of the Kubernetes Secrets whose values belong into the object; may repeat.
    fn needed_secrets(&self) -> Vec<&str> {
        Vec::new()
    }

    /// Puts the fetched values in.
    ///
    /// # Errors
    /// [`FillError`]: a needed Secret could not be read, or lacks a key that must be there.
    fn fill(&mut self, _fetched: &Fetched) -> Result<(), FillError> {
        Ok(())
    }

    /// Whether sidecars shall get the object as it is when it cannot be filled in.
    fn serve_unfilled(&self) -> bool {
        false
    }
}

impl Served for Component {
    const WHAT: &'static str = "component";

    fn needed_secrets(&self) -> Vec<&str> {
        if !is_kubernetes_store(&self.auth.secret_store) {
            return Vec::new();
        }
        self.spec.metadata.iter().flatten().filter_map(|item| named(&item.secret_key_ref)).collect()
    }

    fn fill(&mut self, fetched: &Fetched) -> Result<(), FillError> {
        if !is_kubernetes_store(&self.auth.secret_store) {
            return Ok(());
        }
        for item in self.spec.metadata.iter_mut().flatten() {
            // Unlike elsewhere a missing key leaves the literal value.
            let found = entry(&item.secret_key_ref, fetched).map_err(FillError::Secret)?;
            if let Found::Value(text) = found {
                item.value = text;
            }
        }
        Ok(())
    }

    fn serve_unfilled(&self) -> bool {
        self.spec.ignore_errors
    }
}

impl Served for HTTPEndpoint {
    const WHAT: &'static str = "http endpoint";

    fn needed_secrets(&self) -> Vec<&str> {
        if !is_kubernetes_store(&self.auth.secret_store) {
            return Vec::new();
        }
        let headers = self.spec.headers.iter().flatten().map(|h| &h.secret_key_ref);
        let tls = self.spec.client_tls.iter().flat_map(|tls| {
            [&tls.root_ca, &tls.certificate, &tls.private_key]
                .into_iter()
                .filter_map(|document| document.as_ref()?.secret_key_ref.as_ref())
        });
        headers.chain(tls).filter_map(named).collect()
    }

    fn fill(&mut self, fetched: &Fetched) -> Result<(), FillError> {
        if !is_kubernetes_store(&self.auth.secret_store) {
            return Ok(());
        }
        for header in self.spec.headers.iter_mut().flatten() {
            fill_pair(header, fetched).map_err(FillError::Secret)?;
        }
        if let Some(tls) = self.spec.client_tls.as_mut() {
            let documents = [&mut tls.root_ca, &mut tls.certificate, &mut tls.private_key];
            for document in documents.into_iter().flatten() {
                fill_document(document, fetched).map_err(FillError::Secret)?;
            }
        }
        Ok(())
    }
}

impl Served for MCPServer {
    const WHAT: &'static str = "mcp server";
    const EMPTY_WITHOUT_CRD: bool = true;

    fn needed_secrets(&self) -> Vec<&str> {
        let Some((_, pairs)) = mcp_pairs(self) else { return Vec::new() };
        pairs.iter().filter_map(|pair| named(&pair.secret_key_ref)).collect()
    }

    fn fill(&mut self, fetched: &Fetched) -> Result<(), FillError> {
        let server = self.metadata.name.clone().unwrap_or_default();
        let Some((place, pairs)) = mcp_pairs_mut(self) else { return Ok(()) };
        for pair in pairs {
            fill_pair(pair, fetched).map_err(|cause| FillError::McpServer {
                place,
                server: server.clone(),
                cause,
            })?;
        }
        Ok(())
    }

    fn serve_unfilled(&self) -> bool {
        self.spec.ignore_errors
    }
}

impl Served for Configuration {
    const WHAT: &'static str = "configuration";
    const MISSED_IN_AN_OUTAGE: bool = true;

    fn needed_secrets(&self) -> Vec<&str> {
        let otel = self.spec.tracing.as_ref().and_then(|tracing| tracing.otel.as_ref());
        let headers = otel.map(|otel| otel.headers.as_slice()).unwrap_or_default();
        headers.iter().filter_map(|header| named(&header.secret_key_ref)).collect()
    }

    fn fill(&mut self, fetched: &Fetched) -> Result<(), FillError> {
        let otel = self.spec.tracing.as_mut().and_then(|tracing| tracing.otel.as_mut());
        for header in otel.into_iter().flat_map(|otel| otel.headers.iter_mut()) {
            fill_header(header, fetched)?;
        }
        Ok(())
    }
}

impl Served for Subscription {
    const WHAT: &'static str = "subscription";
}

impl Served for Resiliency {
    const WHAT: &'static str = "resiliency";
    const MISSED_IN_AN_OUTAGE: bool = true;
}

impl Served for WorkflowAccessPolicy {
    const WHAT: &'static str = "workflow access policy";
    const EMPTY_WITHOUT_CRD: bool = true;
}

fn named(reference: &SecretKeyRef) -> Option<&str> {
    (!reference.name.is_empty()).then_some(reference.name.as_str())
}

/// What a reference leads to.
enum Found {
    /// There is no reference.
    NoReference,
    /// The Secret lacks the key.
    NoKey,
    /// The bytes as base64, which sidecars decode.
    Value(Value),
}

fn entry(reference: &SecretKeyRef, fetched: &Fetched) -> Result<Found, FetchError> {
    let Some(secret) = named(reference) else { return Ok(Found::NoReference) };
    let key = if reference.key.is_empty() { secret } else { reference.key.as_str() };
    let bytes = data(secret, fetched)?.get(key);
    Ok(bytes.map_or(Found::NoKey, |bytes| Found::Value(Value::String(STANDARD.encode(bytes)))))
}

fn data<'a>(secret: &str, fetched: &'a Fetched) -> Result<&'a SecretData, FetchError> {
    match fetched.get(secret) {
        Some(Ok(data)) => Ok(data),
        Some(Err(error)) => Err(error.clone()),
        None => Err(FetchError::NotFound(secret.to_owned())),
    }
}

fn fill_pair(pair: &mut NameValuePair, fetched: &Fetched) -> Result<(), FetchError> {
    match entry(&pair.secret_key_ref, fetched)? {
        Found::NoReference => {}
        Found::NoKey => pair.value = Value::Null,
        Found::Value(text) => pair.value = text,
    }
    Ok(())
}

fn fill_document(document: &mut TlsDocument, fetched: &Fetched) -> Result<(), FetchError> {
    let Some(reference) = document.secret_key_ref.as_ref() else { return Ok(()) };
    match entry(reference, fetched)? {
        Found::NoReference => {}
        Found::NoKey => document.value = Some(Value::Null),
        Found::Value(text) => document.value = Some(text),
    }
    Ok(())
}

/// Header values go in as plain text; sidecars do not decode them.
fn fill_header(header: &mut NameValuePair, fetched: &Fetched) -> Result<(), FillError> {
    let Some(secret) = named(&header.secret_key_ref) else { return Ok(()) };
    let key = header.secret_key_ref.key.as_str();
    if key.is_empty() {
        return Err(FillError::KeyRequired(header.name.clone()));
    }
    let entries = data(secret, fetched).map_err(|cause| FillError::Header {
        secret: secret.to_owned(),
        header: header.name.clone(),
        cause,
    })?;
    let bytes = entries
        .get(key)
        .ok_or_else(|| FillError::KeyNotFound { secret: secret.to_owned(), key: key.to_owned() })?;
    header.value = Value::String(String::from_utf8_lossy(bytes).into_owned());
    Ok(())
}

const STREAMABLE: &str = "streamableHTTP header";
const SSE: &str = "sse header";
const STDIO: &str = "stdio env";

/// The list of the chosen transport, unless another secret store resolves it.
fn mcp_pairs(server: &MCPServer) -> Option<(&'static str, &[NameValuePair])> {
    let endpoint = &server.spec.endpoint;
    let http = endpoint
        .streamable_http
        .as_ref()
        .map(|http| (STREAMABLE, http))
        .or_else(|| endpoint.sse.as_ref().map(|http| (SSE, http)));
    match http {
        Some((place, http)) => {
            let store = http
                .auth
                .as_ref()
                .and_then(|auth| auth.secret_store.as_deref())
                .unwrap_or_default();
            is_kubernetes_store(store).then_some((place, http.headers.as_slice()))
        }
        None => endpoint.stdio.as_ref().map(|stdio| (STDIO, stdio.env.as_slice())),
    }
}

fn mcp_pairs_mut(server: &mut MCPServer) -> Option<(&'static str, &mut [NameValuePair])> {
    let (place, _) = mcp_pairs(server)?;
    let endpoint = &mut server.spec.endpoint;
    let pairs = match place {
        STREAMABLE => &mut endpoint.streamable_http.as_mut()?.headers,
        SSE => &mut endpoint.sse.as_mut()?.headers,
        _ => &mut endpoint.stdio.as_mut()?.env,
    };
    Some((place, pairs))
}

#[cfg(test)]
#[path = "secrets_tests.rs"]
mod tests;
