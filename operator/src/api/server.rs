//! The methods of the gRPC service: each authorizes its caller and delegates to [`Context`].
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use proto::operator as wire;
use resources::CustomResource as _;
use runtime::clock;
use runtime::server::Outgoing;
use tonic::{Request, Response, Status};
use transport::Peer;

use crate::api::access::{Caller, authorize};
use crate::api::context::Context;
use crate::api::error::ApiError;
use crate::api::gated_rules::OutdatedSidecar;
use crate::api::stream::Event;
use crate::cache::store::Store;
use crate::secrets::resolution::ServedKind;

/// The service `dapr.proto.operator.v1.Operator`.
#[derive(Clone)]
pub(crate) struct OperatorApi(Arc<Context>);

type Events<E> = Pin<Box<dyn Stream<Item = Result<E, Status>> + Send>>;
type Reply<T> = Result<Response<T>, Status>;

impl OperatorApi {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self(context)
    }

    fn respond<T>(&self, method: &'static str, result: Result<T, ApiError>) -> Reply<T> {
        let result = result.map_err(Status::from);
        let code = result.as_ref().err().map_or(tonic::Code::Ok, Status::code);
        self.0.metrics.answered(method, code);
        if let Err(status) = &result {
            tracing::debug!(target: "dapr.operator.api", method, ?code, "{}", status.message());
        }
        result.map(Response::new)
    }

    /// Responds with the result of `work` and records its duration.
    async fn timed<T>(
        &self,
        method: &'static str,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Reply<T> {
        let begin = clock::monotonic();
        let result = work.await;
        self.0.metrics.took(method, begin.elapsed());
        self.respond(method, result)
    }

    /// Opens a stream; `wrap` builds its messages.
    fn stream<K: ServedKind, E: 'static>(
        &self,
        method: &'static str,
        caller: Result<Caller, ApiError>,
        store: &Arc<Store<K>>,
        wrap: fn(Event) -> E,
    ) -> Reply<Events<E>> {
        let events = caller.and_then(|caller| -> Result<Events<E>, ApiError> {
            Ok(Box::pin(self.0.stream(store, caller)?.map(move |event| Ok(wrap(event)))))
        });
        self.respond(method, events)
    }
}

/// Authorizes the caller for `namespace`.
fn caller<T>(request: &Request<T>, namespace: &str) -> Result<Caller, ApiError> {
    let peer = request.extensions().get::<Peer>();
    let address = peer.map(|peer| peer.addr.ip());
    let outgoing = request.extensions().get::<Outgoing>().cloned().unwrap_or_default();
    let caller = authorize(peer.and_then(|peer| peer.id.as_ref()), namespace)?;
    Ok(Caller { address, peer: peer.cloned(), outgoing, ..caller })
}

#[tonic::async_trait]
impl wire::operator_server::Operator for OperatorApi {
    type ComponentUpdateStream = Events<wire::ComponentUpdateEvent>;
    type SubscriptionUpdateStream = Events<wire::SubscriptionUpdateEvent>;
    type HTTPEndpointUpdateStream = Events<wire::HttpEndpointUpdateEvent>;
    type MCPServerUpdateStream = Events<wire::McpServerUpdateEvent>;
    type ConfigurationUpdateStream = Events<wire::ConfigurationUpdateEvent>;
    type ResiliencyUpdateStream = Events<wire::ResiliencyUpdateEvent>;
    type WorkflowAccessPolicyUpdateStream = Events<wire::WorkflowAccessPolicyUpdateEvent>;

    async fn list_components(
        &self,
        request: Request<wire::ListComponentsRequest>,
    ) -> Reply<wire::ListComponentResponse> {
        let result = async {
            let caller = caller(&request, &request.get_ref().namespace)?;
            let store = &self.0.stores.components;
            let components = self.0.list(store, &caller, |c| c.in_scope(&caller.app_id)).await?;
            Ok(wire::ListComponentResponse { components })
        };
        self.timed("ListComponents", result).await
    }

    async fn get_configuration(
        &self,
        request: Request<wire::GetConfigurationRequest>,
    ) -> Reply<wire::GetConfigurationResponse> {
        let result = async {
            let message = request.get_ref();
            let caller = caller(&request, &message.namespace)?;
            let store = &self.0.stores.configurations;
            let configuration = self.0.get(store, &caller, &message.name).await?;
            Ok(wire::GetConfigurationResponse { configuration })
        };
        self.timed("GetConfiguration", result).await
    }

    /// Always rejected: the request contains no namespace (Dapr 1.18).
    async fn list_subscriptions(
        &self,
        request: Request<()>,
    ) -> Reply<wire::ListSubscriptionsResponse> {
        let rejected = caller(&request, "").map(|_| wire::ListSubscriptionsResponse::default());
        self.respond("ListSubscriptions", rejected)
    }

    async fn get_resiliency(
        &self,
        request: Request<wire::GetResiliencyRequest>,
    ) -> Reply<wire::GetResiliencyResponse> {
        let result = async {
            let message = request.get_ref();
            let caller = caller(&request, &message.namespace)?;
            let resiliency =
                self.0.get(&self.0.stores.resiliencies, &caller, &message.name).await?;
            Ok(wire::GetResiliencyResponse { resiliency })
        };
        self.timed("GetResiliency", result).await
    }

    async fn list_resiliency(
        &self,
        request: Request<wire::ListResiliencyRequest>,
    ) -> Reply<wire::ListResiliencyResponse> {
        let result = async {
            let caller = caller(&request, &request.get_ref().namespace)?;
            let resiliencies = self.0.list(&self.0.stores.resiliencies, &caller, |_| true).await?;
            Ok(wire::ListResiliencyResponse { resiliencies })
        };
        self.timed("ListResiliency", result).await
    }

    async fn list_subscriptions_v2(
        &self,
        request: Request<wire::ListSubscriptionsRequest>,
    ) -> Reply<wire::ListSubscriptionsResponse> {
        let result = async {
            let caller = caller(&request, &request.get_ref().namespace)?;
            let subscriptions =
                self.0.list(&self.0.stores.subscriptions, &caller, |_| true).await?;
            Ok(wire::ListSubscriptionsResponse { subscriptions })
        };
        self.timed("ListSubscriptionsV2", result).await
    }

    /// Returns endpoints in scope only. The reference also returns, and resolves Secrets of, endpoints
    /// of other apps; sidecars ignore them.
    async fn list_http_endpoints(
        &self,
        request: Request<wire::ListHttpEndpointsRequest>,
    ) -> Reply<wire::ListHttpEndpointsResponse> {
        let result = async {
            let caller = caller(&request, &request.get_ref().namespace)?;
            let store = &self.0.stores.http_endpoints;
            let http_endpoints =
                self.0.list(store, &caller, |e| e.in_scope(&caller.app_id)).await?;
            Ok(wire::ListHttpEndpointsResponse { http_endpoints })
        };
        self.timed("ListHTTPEndpoints", result).await
    }

    /// Returns servers in scope only, as for HTTPEndpoints.
    async fn list_mcp_servers(
        &self,
        request: Request<wire::ListMcpServersRequest>,
    ) -> Reply<wire::ListMcpServersResponse> {
        let result = async {
            let caller = caller(&request, &request.get_ref().namespace)?;
            let store = &self.0.stores.mcp_servers;
            let mcp_servers = self.0.list(store, &caller, |s| s.in_scope(&caller.app_id)).await?;
            Ok(wire::ListMcpServersResponse { mcp_servers })
        };
        self.timed("ListMCPServers", result).await
    }

    async fn list_workflow_access_policy(
        &self,
        request: Request<wire::ListWorkflowAccessPolicyRequest>,
    ) -> Reply<wire::ListWorkflowAccessPolicyResponse> {
        let result = async {
            let caller = caller(&request, &request.get_ref().namespace)?;
            let store = &self.0.stores.workflow_access_policies;
            let mut policies = self.0.list(store, &caller, |_| true).await?;
            let outdated = OutdatedSidecar::new();
            for policy in &mut policies {
                let body = std::mem::take(policy);
                *policy = self.0.gated_rules.withhold(&caller, &outdated, body).await?;
            }
            Ok(wire::ListWorkflowAccessPolicyResponse { policies })
        };
        self.timed("ListWorkflowAccessPolicy", result).await
    }

    async fn component_update(
        &self,
        request: Request<wire::ComponentUpdateRequest>,
    ) -> Reply<Self::ComponentUpdateStream> {
        let caller = caller(&request, &request.get_ref().namespace);
        let wrap = |(component, event): Event| wire::ComponentUpdateEvent {
            component,
            r#type: event.into(),
        };
        self.stream("ComponentUpdate", caller, &self.0.stores.components, wrap)
    }

    async fn subscription_update(
        &self,
        request: Request<wire::SubscriptionUpdateRequest>,
    ) -> Reply<Self::SubscriptionUpdateStream> {
        let caller = caller(&request, &request.get_ref().namespace);
        let wrap = |(subscription, event): Event| wire::SubscriptionUpdateEvent {
            subscription,
            r#type: event.into(),
        };
        self.stream("SubscriptionUpdate", caller, &self.0.stores.subscriptions, wrap)
    }

    async fn http_endpoint_update(
        &self,
        request: Request<wire::HttpEndpointUpdateRequest>,
    ) -> Reply<Self::HTTPEndpointUpdateStream> {
        let caller = caller(&request, &request.get_ref().namespace);
        let wrap = |(http_endpoints, event): Event| wire::HttpEndpointUpdateEvent {
            http_endpoints,
            r#type: event.into(),
        };
        self.stream("HTTPEndpointUpdate", caller, &self.0.stores.http_endpoints, wrap)
    }

    async fn mcp_server_update(
        &self,
        request: Request<wire::McpServerUpdateRequest>,
    ) -> Reply<Self::MCPServerUpdateStream> {
        let caller = caller(&request, &request.get_ref().namespace);
        let wrap = |(mcp_server, event): Event| wire::McpServerUpdateEvent {
            mcp_server,
            r#type: event.into(),
        };
        self.stream("MCPServerUpdate", caller, &self.0.stores.mcp_servers, wrap)
    }

    async fn configuration_update(
        &self,
        request: Request<wire::ConfigurationUpdateRequest>,
    ) -> Reply<Self::ConfigurationUpdateStream> {
        let caller = caller(&request, &request.get_ref().namespace)
            .map_err(|error| ApiError::ConfigurationStream(Box::new(error)));
        let wrap = |(configuration, event): Event| wire::ConfigurationUpdateEvent {
            configuration,
            r#type: event.into(),
        };
        self.stream("ConfigurationUpdate", caller, &self.0.stores.configurations, wrap)
    }

    async fn resiliency_update(
        &self,
        request: Request<wire::ResiliencyUpdateRequest>,
    ) -> Reply<Self::ResiliencyUpdateStream> {
        let caller = caller(&request, &request.get_ref().namespace);
        let wrap = |(resiliency, event): Event| wire::ResiliencyUpdateEvent {
            resiliency,
            r#type: event.into(),
        };
        self.stream("ResiliencyUpdate", caller, &self.0.stores.resiliencies, wrap)
    }

    async fn workflow_access_policy_update(
        &self,
        request: Request<wire::WorkflowAccessPolicyUpdateRequest>,
    ) -> Reply<Self::WorkflowAccessPolicyUpdateStream> {
        let caller = caller(&request, &request.get_ref().namespace);
        let wrap = |(policy, event): Event| wire::WorkflowAccessPolicyUpdateEvent {
            policy,
            r#type: event.into(),
        };
        let store = &self.0.stores.workflow_access_policies;
        self.stream("WorkflowAccessPolicyUpdate", caller, store, wrap)
    }
}
