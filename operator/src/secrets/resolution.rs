//! Which Secrets an object references, and where their values go.
//!
//! Pure: the caller reads the Secrets. Cached objects are not modified; a resolved copy exists for one
//! response. The rules and texts are those of Dapr 1.18, operator API.
use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use resources::{
    Component, Configuration, CustomResource, HTTPEndpoint, MCPServer, McpEndpoint, McpHttp,
    NameValuePair, Resiliency, SecretKeyRef, Subscription, TlsDocument, WorkflowAccessPolicy,
    is_kubernetes_store,
};
use serde_json::Value;

/// The data of one Secret: values by key.
pub(crate) type SecretData = BTreeMap<String, Vec<u8>>;

/// The Secrets of a namespace that were read, by name.
pub(crate) type Fetched = BTreeMap<String, Result<Arc<SecretData>, FetchError>>;

/// Why a Secret could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("Secret {0:?} not found")]
    NotFound(String),
    /// The Secret belongs to the control plane.
    #[error("Secret {0:?} contains the private key of the CA and is not resolved")]
    Reserved(String),
    /// The API server rejected the request or did not respond.
    #[error("read Secret {name:?}: {reason}")]
    Failed { name: String, reason: String },
}

/// Why the Secrets of an object cannot be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FillError {
    /// A Secret of a Component or HTTPEndpoint could not be read.
    #[error(transparent)]
    Secret(FetchError),
    #[error("error resolving {place} secret for MCPServer {server:?}: {cause}")]
    McpServer { place: &'static str, server: String, cause: FetchError },
    /// A Secret of an OpenTelemetry header in a Configuration could not be read.
    #[error(
        "error processing configuration secrets: failed to get secret {secret} for header {header}: {cause}"
    )]
    Header { secret: String, header: String, cause: FetchError },
    #[error("error processing configuration secrets: secret key is required for header {0}")]
    KeyRequired(String),
    #[error("error processing configuration secrets: key {key} not found in secret {secret}")]
    KeyNotFound { secret: String, key: String },
    /// With its Secrets the object is larger than a sidecar can read.
    #[error(
        "{kind} {name:?} needs more than 4 MiB (4194304 bytes) with its Secrets, and a sidecar reads no larger message: reference fewer or smaller Secrets"
    )]
    TooLarge { kind: &'static str, name: String },
    /// The object cannot be serialized; the cause is in the log.
    #[error("object cannot be serialized")]
    Unserializable,
}

impl FillError {
    /// Whether the Secret exists but has no such key.
    pub(crate) fn is_key(&self) -> bool {
        matches!(self, Self::KeyRequired(_) | Self::KeyNotFound { .. })
    }

    /// Whether a retry may succeed without a change of the objects.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Secret(cause) | Self::McpServer { cause, .. } | Self::Header { cause, .. } => {
                matches!(cause, FetchError::Failed { .. })
            }
            Self::KeyRequired(_)
            | Self::KeyNotFound { .. }
            | Self::TooLarge { .. }
            | Self::Unserializable => false,
        }
    }
}

/// A kind that the API serves.
pub(crate) trait ServedKind: CustomResource {
    /// The kind in log messages and errors: `sidecar connected for <what> updates`.
    const WHAT: &'static str;
    /// Whether a list is empty, and not an error, while the CRD is not installed.
    const EMPTY_WITHOUT_CRD: bool = false;
    /// Whether recent updates are sent again after a restart of the operator, because a sidecar does
    /// not list the kind after a reconnect (Dapr 1.18). It does not list HTTPEndpoints either, but one
    /// with Secrets would always restart it.
    const RESEND_AFTER_RESTART: bool = false;

    /// Whether a reference without a key means the key with the name of the Secret, and is not an
    /// error.
    const KEY_IS_OPTIONAL: bool = true;

    /// The secret store that sidecars resolve the references with; `None` for Kubernetes Secrets,
    /// which the operator resolves.
    fn other_store(&self) -> Option<&str> {
        None
    }

    /// The references to values of the secret store; may contain references without a name.
    fn references(&self) -> Vec<&SecretKeyRef> {
        Vec::new()
    }

    /// The references to Secrets, which are resolved; may contain references without a name.
    fn secret_references(&self) -> Vec<&SecretKeyRef> {
        if self.other_store().is_none() { self.references() } else { Vec::new() }
    }

    /// Names of the Secrets that the object references; may contain duplicates.
    fn needed_secrets(&self) -> Vec<&str> {
        self.secret_references().into_iter().filter_map(named).collect()
    }

    /// Bytes of the values that [`Self::fill`] adds. A small object can name a large Secret often.
    fn filled_bytes(&self, fetched: &Fetched) -> usize {
        let length = |reference: &&SecretKeyRef| {
            let secret = fetched.get(named(reference)?)?.as_ref().ok()?;
            let bytes = secret.get(key_of(reference))?;
            base64::encoded_len(bytes.len(), true)
        };
        self.secret_references().iter().filter_map(length).fold(0, usize::saturating_add)
    }

    /// Sets the values of the referenced Secrets.
    ///
    /// # Errors
    /// [`FillError`]: a Secret could not be read or has no such key.
    fn fill(&mut self, _fetched: &Fetched) -> Result<(), FillError> {
        Ok(())
    }

    /// Whether the object is served without values when its Secrets cannot be resolved.
    fn serve_unfilled(&self) -> bool {
        false
    }
}

impl ServedKind for Component {
    const WHAT: &'static str = "component";

    fn other_store(&self) -> Option<&str> {
        other(&self.auth.secret_store)
    }

    fn references(&self) -> Vec<&SecretKeyRef> {
        self.spec.metadata.iter().flatten().map(|item| &item.secret_key_ref).collect()
    }

    fn fill(&mut self, fetched: &Fetched) -> Result<(), FillError> {
        if self.other_store().is_some() {
            return Ok(());
        }
        for item in self.spec.metadata.iter_mut().flatten() {
            // Unlike in other kinds, a missing key keeps the literal value.
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

impl ServedKind for HTTPEndpoint {
    const WHAT: &'static str = "http endpoint";

    fn other_store(&self) -> Option<&str> {
        other(&self.auth.secret_store)
    }

    fn references(&self) -> Vec<&SecretKeyRef> {
        let headers = self.spec.headers.iter().flatten().map(|h| &h.secret_key_ref);
        let tls = self.spec.client_tls.iter().flat_map(|tls| {
            [&tls.root_ca, &tls.certificate, &tls.private_key]
                .into_iter()
                .filter_map(|document| document.as_ref()?.secret_key_ref.as_ref())
        });
        headers.chain(tls).collect()
    }

    fn fill(&mut self, fetched: &Fetched) -> Result<(), FillError> {
        if self.other_store().is_some() {
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

impl ServedKind for MCPServer {
    const WHAT: &'static str = "mcp server";
    const EMPTY_WITHOUT_CRD: bool = true;

    fn other_store(&self) -> Option<&str> {
        let (_, http) = mcp_http(&self.spec.endpoint)?;
        other(http.auth.as_ref()?.secret_store.as_deref()?)
    }

    fn references(&self) -> Vec<&SecretKeyRef> {
        let endpoint = &self.spec.endpoint;
        let pairs = match mcp_http(endpoint) {
            Some((_, http)) => http.headers.as_slice(),
            None => endpoint.stdio.as_ref().map_or(&[][..], |stdio| &stdio.env),
        };
        pairs.iter().map(|pair| &pair.secret_key_ref).collect()
    }

    fn fill(&mut self, fetched: &Fetched) -> Result<(), FillError> {
        if self.other_store().is_some() {
            return Ok(());
        }
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

impl ServedKind for Configuration {
    const WHAT: &'static str = "configuration";
    const RESEND_AFTER_RESTART: bool = true;
    const KEY_IS_OPTIONAL: bool = false;

    fn references(&self) -> Vec<&SecretKeyRef> {
        let otel = self.spec.tracing.as_ref().and_then(|tracing| tracing.otel.as_ref());
        let headers = otel.map(|otel| otel.headers.as_slice()).unwrap_or_default();
        headers.iter().map(|header| &header.secret_key_ref).collect()
    }

    fn fill(&mut self, fetched: &Fetched) -> Result<(), FillError> {
        let otel = self.spec.tracing.as_mut().and_then(|tracing| tracing.otel.as_mut());
        for header in otel.into_iter().flat_map(|otel| otel.headers.iter_mut()) {
            fill_header(header, fetched)?;
        }
        Ok(())
    }
}

impl ServedKind for Subscription {
    const WHAT: &'static str = "subscription";
}

impl ServedKind for Resiliency {
    const WHAT: &'static str = "resiliency";
    const RESEND_AFTER_RESTART: bool = true;
}

impl ServedKind for WorkflowAccessPolicy {
    const WHAT: &'static str = "workflow access policy";
    const EMPTY_WITHOUT_CRD: bool = true;
}

fn other(store: &str) -> Option<&str> {
    (!is_kubernetes_store(store)).then_some(store)
}

fn named(reference: &SecretKeyRef) -> Option<&str> {
    (!reference.name.is_empty()).then_some(reference.name.as_str())
}

/// The key of a reference: by default the name of its Secret.
pub(crate) fn key_of(reference: &SecretKeyRef) -> &str {
    if reference.key.is_empty() { &reference.name } else { &reference.key }
}

/// The result of looking up a reference.
enum Found {
    NoReference,
    NoKey,
    /// The bytes in base64, which sidecars decode.
    Value(Value),
}

fn entry(reference: &SecretKeyRef, fetched: &Fetched) -> Result<Found, FetchError> {
    let Some(secret) = named(reference) else { return Ok(Found::NoReference) };
    let bytes = data(secret, fetched)?.get(key_of(reference));
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

/// Header values are plain text; sidecars do not decode them.
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

/// The configured HTTP transport and its place in errors; `stdio` has an effect only without one.
fn mcp_http(endpoint: &McpEndpoint) -> Option<(&'static str, &McpHttp)> {
    let streamable = endpoint.streamable_http.as_ref().map(|http| (STREAMABLE, http));
    streamable.or_else(|| endpoint.sse.as_ref().map(|http| (SSE, http)))
}

fn mcp_pairs_mut(server: &mut MCPServer) -> Option<(&'static str, &mut [NameValuePair])> {
    let endpoint = &mut server.spec.endpoint;
    let place = mcp_http(endpoint).map_or(STDIO, |(place, _)| place);
    let pairs = match place {
        STREAMABLE => &mut endpoint.streamable_http.as_mut()?.headers,
        SSE => &mut endpoint.sse.as_mut()?.headers,
        _ => &mut endpoint.stdio.as_mut()?.env,
    };
    Some((place, pairs))
}

#[cfg(test)]
mod tests;
