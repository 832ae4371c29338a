//! Parts that several kinds use.
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Unknown members of an object, by name.
pub type Rest = BTreeMap<String, Value>;

/// Whether a member has the value that Go's encoder leaves out.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A named setting: component metadata, a header, an environment variable.
///
/// `value` may hold a secret, so `Debug` leaves it out.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct NameValuePair {
    /// Name of the setting.
    pub name: String,
    /// Literal: string, number, boolean, object or array; `null` when unset.
    pub value: Value,
    /// Source of the value; wins over `value`. Always printed (Dapr 1.18).
    pub secret_key_ref: SecretKeyRef,
    /// Variable of the sidecar's process, used when there is no value.
    #[serde(skip_serializing_if = "is_default")]
    pub env_ref: String,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

impl fmt::Debug for NameValuePair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameValuePair")
            .field("name", &self.name)
            .field("secret_key_ref", &self.secret_key_ref)
            .field("env_ref", &self.env_ref)
            .finish_non_exhaustive()
    }
}

/// One entry of a secret of a secret store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct SecretKeyRef {
    /// Name of the secret; empty means no reference.
    pub name: String,
    /// Entry of the secret; empty means the same as `name`, where the kind allows it.
    pub key: String,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// The secret store of an object's references.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Auth {
    /// Empty or `kubernetes`: Kubernetes Secrets; else the name of a secret-store Component.
    pub secret_store: String,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// The name of the built-in store for Kubernetes Secrets (Dapr 1.18).
pub const SECRET_STORE_KUBERNETES: &str = "kubernetes";

/// Whether references to `secret_store` mean Kubernetes Secrets, which the operator resolves.
pub fn is_kubernetes_store(secret_store: &str) -> bool {
    secret_store.is_empty() || secret_store == SECRET_STORE_KUBERNETES
}

/// A PEM text, given directly or by reference.
///
/// `value` may hold a private key, so `Debug` leaves it out.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct TlsDocument {
    /// The text itself. `Some(null)` is printed as `null`: the secret lacks the key (Dapr 1.18).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// Source of the text; wins over `value`.
    #[serde(skip_serializing_if = "is_default")]
    pub secret_key_ref: Option<SecretKeyRef>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

impl fmt::Debug for TlsDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsDocument")
            .field("secret_key_ref", &self.secret_key_ref)
            .finish_non_exhaustive()
    }
}
