//! The kinds of `dapr.io`.

use serde::Serialize;

/// The kinds of `dapr.io`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Kind {
    Component,
    Configuration,
    Subscription,
    Resiliency,
    #[serde(rename = "HTTPEndpoint")]
    HttpEndpoint,
    WorkflowAccessPolicy,
    #[serde(rename = "MCPServer")]
    McpServer,
}

impl Kind {
    /// All kinds, in the order of the navigation.
    pub(crate) const ALL: [Self; 7] = [
        Self::Component,
        Self::Subscription,
        Self::Configuration,
        Self::Resiliency,
        Self::HttpEndpoint,
        Self::WorkflowAccessPolicy,
        Self::McpServer,
    ];

    /// The kind in objects.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Component => "Component",
            Self::Configuration => "Configuration",
            Self::Subscription => "Subscription",
            Self::Resiliency => "Resiliency",
            Self::HttpEndpoint => "HTTPEndpoint",
            Self::WorkflowAccessPolicy => "WorkflowAccessPolicy",
            Self::McpServer => "MCPServer",
        }
    }

    /// The plural in URLs of the API server, and of the pages.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Component => "components",
            Self::Configuration => "configurations",
            Self::Subscription => "subscriptions",
            Self::Resiliency => "resiliencies",
            Self::HttpEndpoint => "httpendpoints",
            Self::WorkflowAccessPolicy => "workflowaccesspolicies",
            Self::McpServer => "mcpservers",
        }
    }

    /// The heading of its page.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Component => "Components",
            Self::Configuration => "Configurations",
            Self::Subscription => "Subscriptions",
            Self::Resiliency => "Resiliencies",
            Self::HttpEndpoint => "HTTPEndpoints",
            Self::WorkflowAccessPolicy => "WorkflowAccessPolicies",
            Self::McpServer => "MCPServers",
        }
    }

    /// The version that is watched; the API server converts older Subscriptions.
    pub(crate) fn version(self) -> &'static str {
        if self == Self::Subscription { "v2alpha1" } else { "v1alpha1" }
    }

    /// The kind of this plural.
    pub(crate) fn parse(plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.plural() == plural)
    }
}
