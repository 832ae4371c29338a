//! `HTTPEndpoint`: a service outside of Dapr that apps invoke by name.
use serde::{Deserialize, Serialize};

use crate::crd::custom_resource;
use crate::shared::{Auth, NameValuePair, Rest, TlsDocument, is_default};

custom_resource! {
    /// A service outside of Dapr that apps invoke by name.
    scoped HTTPEndpoint "v1alpha1" "httpendpoints" {
        /// Address, headers and TLS.
        pub spec: HTTPEndpointSpec,
        /// The secret store of the references in `spec`. Always printed (Dapr 1.18).
        pub auth: Auth,
    }
}

/// Address, headers and TLS of an HTTPEndpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct HTTPEndpointSpec {
    /// `https://host[:port][/path]`.
    pub base_url: String,
    /// Headers of every request; `None` is printed as `null`.
    pub headers: Option<Vec<NameValuePair>>,
    /// Client certificate and trusted roots.
    #[serde(rename = "clientTLS", skip_serializing_if = "is_default")]
    pub client_tls: Option<ClientTls>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Client certificate and trusted roots; all four members are always printed (Dapr 1.18).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ClientTls {
    /// Roots that the endpoint's certificate must chain to.
    #[serde(rename = "rootCA")]
    pub root_ca: Option<TlsDocument>,
    /// Client certificate chain.
    pub certificate: Option<TlsDocument>,
    /// Key of the client certificate.
    pub private_key: Option<TlsDocument>,
    /// `Never`, `OnceAsClient` or `FreelyAsClient`.
    pub renegotiation: Option<String>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}
