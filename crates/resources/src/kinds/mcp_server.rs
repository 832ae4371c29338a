//! `MCPServer`: a Model Context Protocol server whose tools workflows call. Optional texts are kept
//! when they are given empty (Dapr 1.18.1, observed from its operator).
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::crd::custom_resource;
use crate::go_duration::GoDuration;
use crate::shared::{NameValuePair, Rest, SecretKeyRef, is_default};

custom_resource! {
    /// A Model Context Protocol server whose tools workflows call.
    scoped MCPServer "v1alpha1" "mcpservers" {
        /// How to reach it, hooks and catalogue entry.
        pub spec: MCPServerSpec,
    }
}

/// How to reach an MCPServer, hooks and catalogue entry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct MCPServerSpec {
    /// Exactly one transport; always printed.
    pub endpoint: McpEndpoint,
    /// Workflows that run around calls.
    #[serde(skip_serializing_if = "is_default")]
    pub middleware: Option<McpMiddleware>,
    /// Descriptive information; sidecars ignore it.
    #[serde(skip_serializing_if = "is_default")]
    pub catalog: Option<McpCatalog>,
    /// The sidecar keeps running when the server cannot be loaded.
    #[serde(skip_serializing_if = "is_default")]
    pub ignore_errors: bool,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Exactly one transport (checked by the API server).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct McpEndpoint {
    /// The streamable HTTP transport of the protocol.
    #[serde(rename = "streamableHTTP", skip_serializing_if = "is_default")]
    pub streamable_http: Option<McpHttp>,
    /// HTTP with server-sent events.
    #[serde(skip_serializing_if = "is_default")]
    pub sse: Option<McpHttp>,
    /// A child process; refused by sidecars in Kubernetes.
    #[serde(skip_serializing_if = "is_default")]
    pub stdio: Option<McpStdio>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A transport over HTTP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct McpHttp {
    /// `http` or `https` URL with a host.
    pub url: String,
    /// Protocol version as a date; an empty one is kept.
    #[serde(skip_serializing_if = "is_default")]
    pub protocol_version: Option<String>,
    /// Go duration: limit of one call.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: Option<GoDuration>,
    /// Headers of every request.
    #[serde(skip_serializing_if = "is_default")]
    pub headers: Vec<NameValuePair>,
    /// Authentication of the sidecar.
    #[serde(skip_serializing_if = "is_default")]
    pub auth: Option<McpAuth>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Authentication of the sidecar at an MCP server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct McpAuth {
    /// Secret store of the headers' references.
    #[serde(skip_serializing_if = "is_default")]
    pub secret_store: Option<String>,
    /// OAuth 2 client credentials.
    #[serde(skip_serializing_if = "is_default")]
    pub oauth2: Option<McpOAuth2>,
    /// SPIFFE identity.
    #[serde(skip_serializing_if = "is_default")]
    pub spiffe: Option<McpSpiffe>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// OAuth 2 client credentials.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct McpOAuth2 {
    /// Token endpoint.
    pub issuer: String,
    /// Audience of the token; an empty one is kept.
    #[serde(skip_serializing_if = "is_default")]
    pub audience: Option<String>,
    /// Client id at the token endpoint.
    #[serde(rename = "clientID", skip_serializing_if = "is_default")]
    pub client_id: Option<String>,
    /// Scopes of the token.
    #[serde(skip_serializing_if = "is_default")]
    pub scopes: Vec<String>,
    /// Client secret; fetched by the sidecar, never by the operator.
    #[serde(skip_serializing_if = "is_default")]
    pub secret_key_ref: Option<SecretKeyRef>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// SPIFFE identity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct McpSpiffe {
    /// JWT in a header.
    #[serde(skip_serializing_if = "is_default")]
    pub jwt: Option<McpJwt>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// JWT in a header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct McpJwt {
    /// Name of the header.
    pub header: String,
    /// Audience of the token.
    pub audience: String,
    /// Text before the token.
    #[serde(skip_serializing_if = "is_default")]
    pub header_value_prefix: Option<String>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A child process that communicates over its standard streams.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct McpStdio {
    /// Path or name of the program.
    pub command: String,
    /// Arguments of the program.
    #[serde(skip_serializing_if = "is_default")]
    pub args: Vec<String>,
    /// Environment variables of the program.
    #[serde(skip_serializing_if = "is_default")]
    pub env: Vec<NameValuePair>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Workflows that run around calls.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct McpMiddleware {
    /// Before a tool is called.
    #[serde(skip_serializing_if = "is_default")]
    pub before_call_tool: Vec<McpHook>,
    /// After a tool was called.
    #[serde(skip_serializing_if = "is_default")]
    pub after_call_tool: Vec<McpHook>,
    /// Before tools are listed; such a hook cannot change anything.
    #[serde(skip_serializing_if = "is_default")]
    pub before_list_tools: Vec<McpListHook>,
    /// After tools were listed.
    #[serde(skip_serializing_if = "is_default")]
    pub after_list_tools: Vec<McpHook>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A workflow that may replace the request or response.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct McpHook {
    /// The workflow; always printed.
    pub workflow: McpHookWorkflow,
    /// Whether its result replaces the request or response; an explicit `false` is kept.
    #[serde(skip_serializing_if = "is_default")]
    pub mutate: Option<bool>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A workflow whose result is ignored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct McpListHook {
    /// The workflow; always printed.
    pub workflow: McpHookWorkflow,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// The workflow of a hook.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct McpHookWorkflow {
    /// Registered name of the workflow.
    pub workflow_name: String,
    /// App that runs it; empty means the caller.
    #[serde(rename = "appID", skip_serializing_if = "is_default")]
    pub app_id: Option<String>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Descriptive information; sidecars ignore it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct McpCatalog {
    /// Name for people; the object's name identifies the server.
    #[serde(skip_serializing_if = "is_default")]
    pub display_name: Option<String>,
    /// Purpose of the server, free text.
    #[serde(skip_serializing_if = "is_default")]
    pub description: Option<String>,
    /// Team and contact.
    #[serde(skip_serializing_if = "is_default")]
    pub owner: Option<McpOwner>,
    /// Free-form tags.
    #[serde(skip_serializing_if = "is_default")]
    pub tags: Vec<String>,
    /// Named links.
    #[serde(skip_serializing_if = "is_default")]
    pub links: BTreeMap<String, String>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Owner of an MCP server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct McpOwner {
    /// Name of the team.
    #[serde(skip_serializing_if = "is_default")]
    pub team: Option<String>,
    /// Contact of the team.
    #[serde(skip_serializing_if = "is_default")]
    pub contact: Option<String>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}
