//! The gRPC API without watches and the conversion webhook without TLS, for tests in process.
use std::sync::Arc;

use kube::Client;
use kube::core::{DynamicObject, ObjectMeta};
use kubernetes::{FailureKind, Recorder, WatchEvent, WatchFailure};
use resources::{
    Component, Configuration, CustomResource as _, HTTPEndpoint, MCPServer, Resiliency,
    Subscription, WorkflowAccessPolicy,
};
use runtime::Scope;
use tokio::net::TcpListener;
use transport::tls::TlsError;
use transport::{Keepalive, Svid};

use crate::api::context::{Context, Stores};
use crate::api::gated_rules::GatedRules;
use crate::api::limits::ApiLimits;
use crate::api::missed_updates::MissedUpdates;
use crate::cluster::Cluster;
use crate::cluster::report::Reports;
use crate::definitions::subscriptions::webhook;
use crate::metrics::Metrics;
use crate::wiring::{budget, requests, serve_api, streams, too_large};

/// The HTTP routes of the conversion webhook.
pub fn conversion_webhook() -> axum::Router {
    webhook::router()
}

/// The gRPC API whose caches are filled by [`InProcessApi::apply`] instead of watches.
pub struct InProcessApi(Arc<Context>);

impl InProcessApi {
    /// Reads Secrets and records Events through `client`. No kind is listed yet. `namespace` is that of
    /// the control plane.
    ///
    /// # Errors
    /// The metrics are registered in `scope` already.
    pub fn new(
        client: Client,
        namespace: &str,
        limits: ApiLimits,
        scope: &Scope,
    ) -> prometheus::Result<Self> {
        let cluster = Cluster::new(client.clone(), None, namespace.to_owned());
        let recorder = Recorder::new(client, "dapr-operator", "in-process".to_owned());
        let reports = Reports::new(recorder, scope.clone());
        Ok(Self(Arc::new(Context {
            stores: Stores::default(),
            cluster: cluster.clone(),
            reports: reports.clone(),
            metrics: Metrics::register(scope.metrics())?,
            missed_updates: MissedUpdates::default(),
            gated_rules: GatedRules::new(true, cluster, reports),
            budget: budget(limits, scope),
            requests: requests(limits, scope),
            streams: streams(limits, scope),
            too_large: too_large(scope),
            token: scope.token().clone(),
        })))
    }

    /// Serves the API on `listener` until the scope ends.
    ///
    /// # Errors
    /// [`TlsError`]: the certificate cannot be used for TLS.
    pub fn serve(
        &self,
        listener: TcpListener,
        svid: &Svid,
        keepalive: Keepalive,
        scope: &Scope,
    ) -> Result<(), TlsError> {
        serve_api(listener, self.0.clone(), svid, keepalive, scope)
    }

    /// Applies a watch event of a kind. An undecodable object is skipped, as in the operator.
    ///
    /// # Panics
    /// The kind is not served.
    pub fn apply(&self, kind: &str, event: WatchEvent<DynamicObject>) {
        let stores = &self.0.stores;
        let outcome = match kind {
            Component::KIND => stores.components.apply(event),
            Configuration::KIND => stores.configurations.apply(event),
            Subscription::KIND => stores.subscriptions.apply(event),
            Resiliency::KIND => stores.resiliencies.apply(event),
            HTTPEndpoint::KIND => stores.http_endpoints.apply(event),
            MCPServer::KIND => stores.mcp_servers.apply(event),
            WorkflowAccessPolicy::KIND => stores.workflow_access_policies.apply(event),
            other => unreachable!("kind {other} is not served"),
        };
        if let Err(bad) = outcome {
            self.0.report_undecodable(&bad);
        }
    }

    /// Applies a watch event of a pod's metadata.
    pub fn apply_pod(&self, event: WatchEvent<ObjectMeta>) {
        self.0.stores.assignments.apply(event);
    }

    /// The CRDs of Resiliencies, MCPServers and WorkflowAccessPolicies are not installed.
    pub fn remove_optional_crds(&self) {
        for kind in [Resiliency::KIND, MCPServer::KIND, WorkflowAccessPolicy::KIND] {
            let failure =
                WatchFailure { kind: FailureKind::NotServed, message: "not found".to_owned() };
            self.apply(kind, WatchEvent::Failed(failure));
        }
    }

    /// Number of open streams of Components.
    pub fn open_component_streams(&self) -> usize {
        self.0.stores.components.streams().0
    }
}
