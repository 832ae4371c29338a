//! The operator's API with a temporary CA and an API server that serves Secrets and pods only.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the test fails when its fixture cannot be set up"
)]
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use identity::SpiffeId;
use kube::Client;
use kube::client::Body;
use kube::core::DynamicObject;
use kubernetes::WatchEvent;
use operator::{ApiLimits, InProcessApi};
use proto::operator::operator_client::OperatorClient;
use proto::operator::{
    ComponentUpdateEvent, ComponentUpdateRequest, ConfigurationUpdateEvent,
    ConfigurationUpdateRequest, ResourceEventType,
};
use runtime::{Scope, TaskError};
use serde_json::{Value, json};
use testkit::ca::{Ca, SvidOptions, TestSvid};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use transport::svid::CertifiedSvid;
use transport::{DialError, Keepalive, Svid};

/// The kinds that the API serves.
pub(crate) const KINDS: [&str; 7] = [
    "Component",
    "Configuration",
    "Subscription",
    "Resiliency",
    "HTTPEndpoint",
    "MCPServer",
    "WorkflowAccessPolicy",
];

/// Responses of the API server, by path; anything else is not found.
type Answers = Arc<Mutex<BTreeMap<String, Value>>>;

/// Path of the pods of namespace `shop`.
const PODS: &str = "/api/v1/namespaces/shop/pods";

/// An operator, its CA and its API server.
pub(crate) struct Fixture {
    ca: Ca,
    address: String,
    api: InProcessApi,
    scope: Scope,
    answers: Answers,
}

impl Fixture {
    /// Starts the API with empty caches; no kind is listed.
    pub(crate) async fn start() -> Self {
        Self::start_with(operator::KEEPALIVE, ApiLimits::DEFAULT).await
    }

    /// Starts the API with another keepalive and other limits.
    pub(crate) async fn start_with(keepalive: Keepalive, limits: ApiLimits) -> Self {
        let (ca, scope, answers) = (Ca::new(), Scope::for_test(), Answers::default());
        let api =
            InProcessApi::new(api_server(answers.clone()), "dapr-system", limits, &scope).unwrap();
        let listener = runtime::listen("127.0.0.1", 0).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let own = svid(&ca, &ca.svid("dapr-system", "dapr-operator"));
        api.serve(listener, &own, keepalive, &scope).unwrap();
        let fixture = Self { ca, address, api, scope, answers };
        fixture.sidecars(&[]);
        fixture
    }

    /// A client of a sidecar.
    pub(crate) fn client(&self, namespace: &str, app: &str) -> OperatorClient<Channel> {
        self.connect(&svid(&self.ca, &self.ca.svid(namespace, app)))
    }

    /// A client with a certificate for another trust domain.
    pub(crate) fn client_of_trust_domain(&self, domain: &str) -> OperatorClient<Channel> {
        let options = SvidOptions { trust_domain: domain.to_owned(), ..SvidOptions::default() };
        self.connect(&svid(&self.ca, &self.ca.svid_with("shop", "orders", &options)))
    }

    /// A TLS client without a certificate.
    pub(crate) async fn anonymous_client(&self) -> Result<OperatorClient<Channel>, DialError> {
        let (_, anchors) = watch::channel(Arc::new(self.ca.anchors()));
        let tls = transport::tls::anonymous_client(anchors, operator_id())?;
        Ok(OperatorClient::new(transport::dial(&self.address, tls).await?))
    }

    /// A client with a certificate of another CA.
    pub(crate) fn client_of_another_ca(&self) -> OperatorClient<Channel> {
        let other = Ca::new();
        // The client trusts the operator, but not vice versa.
        let (_, anchors) = watch::channel(Arc::new(self.ca.anchors()));
        let test = other.svid("shop", "orders");
        self.connect(&Svid::fixed(CertifiedSvid::new(test.chain, &test.key).unwrap(), anchors))
    }

    /// A client without TLS.
    pub(crate) fn plaintext_client(&self) -> OperatorClient<Channel> {
        let uri = format!("http://{}", self.address);
        OperatorClient::new(Channel::from_shared(uri).unwrap().connect_lazy())
    }

    /// A client with a certificate for this SPIFFE id.
    pub(crate) fn client_named(&self, id: &str) -> OperatorClient<Channel> {
        self.connect(&svid(&self.ca, &self.ca.leaf_named(&[id])))
    }

    /// A client of a sidecar that connects to another address.
    pub(crate) fn client_by(&self, address: &str, app: &str) -> OperatorClient<Channel> {
        let own = svid(&self.ca, &self.ca.svid("shop", app));
        OperatorClient::new(transport::channel(&own, address, operator_id()).unwrap())
    }

    /// A channel of a sidecar with an HTTP/2 window of one byte for each stream.
    pub(crate) fn channel_with_window_of_one(&self, namespace: &str, app: &str) -> Channel {
        let own = svid(&self.ca, &self.ca.svid(namespace, app));
        let tls = TlsConnector::from(transport::tls::client(&own, operator_id()).unwrap());
        let address = self.address.clone();
        let connector = tower::service_fn(move |_: http::Uri| {
            let (tls, address) = (tls.clone(), address.clone());
            async move {
                let tcp = TcpStream::connect(address).await?;
                let name = "localhost".try_into().unwrap(); // not checked by clients of the control plane
                Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, tcp).await?))
            }
        });
        let endpoint = Endpoint::from_static("https://operator").initial_stream_window_size(1);
        endpoint.connect_with_connector_lazy(connector)
    }

    /// Number of hits of a limit.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    pub(crate) fn hits(&self, limit: &str) -> u64 {
        let families = self.scope.metrics().gather();
        let hits = families.iter().filter(|f| f.name() == "trilby_server_limit_hits_total");
        let series = hits.flat_map(prometheus::proto::MetricFamily::get_metric);
        let of_limit = series.filter(|m| m.get_label().iter().any(|l| l.value() == limit));
        of_limit.map(|m| m.get_counter().get_value().round() as u64).sum()
    }

    fn connect(&self, own: &Svid) -> OperatorClient<Channel> {
        OperatorClient::new(transport::channel(own, &self.address, operator_id()).unwrap())
    }

    /// Address of the API.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Number of open streams of Components.
    pub(crate) fn open_streams(&self) -> usize {
        self.api.open_component_streams()
    }

    /// Opens a stream of Components.
    pub(crate) async fn components(&self, app: &str) -> Stream<ComponentUpdateEvent> {
        components_of(self.client("shop", app)).await
    }

    /// Opens a stream of Configurations.
    pub(crate) async fn configurations(&self, app: &str) -> Stream<ConfigurationUpdateEvent> {
        let request = ConfigurationUpdateRequest { namespace: "shop".to_owned() };
        let answer = self.client("shop", app).configuration_update(request).await;
        Stream(answer.unwrap().into_inner())
    }

    /// Gives the API server an object, or another version of it.
    pub(crate) fn put(&self, object: &Value) {
        self.event(object, WatchEvent::Apply);
    }

    /// Deletes the object.
    pub(crate) fn delete(&self, object: &Value) {
        self.event(object, WatchEvent::Delete);
    }

    fn event(&self, object: &Value, make: fn(DynamicObject) -> WatchEvent<DynamicObject>) {
        let event = make(serde_json::from_value(object.clone()).unwrap());
        self.api.apply(object["kind"].as_str().unwrap(), event);
    }

    /// A pod with these `dapr.io/` annotations.
    pub(crate) fn pod(&self, name: &str, annotations: &[(&str, &str)]) {
        let annotations: BTreeMap<_, _> =
            annotations.iter().map(|(k, v)| (format!("dapr.io/{k}"), *v)).collect();
        let metadata = json!({"name": name, "namespace": "shop", "annotations": annotations});
        let metadata = serde_json::from_value(metadata).unwrap();
        self.api.apply_pod(WatchEvent::Apply(metadata));
    }

    /// Gives the API server these pods in namespace `shop`: app id and image of the sidecar.
    pub(crate) fn sidecars(&self, sidecars: &[(&str, &str)]) {
        let pods = sidecars.iter().map(|(app, image)| {
            json!({"metadata": {"name": app, "namespace": "shop",
                    "annotations": {"dapr.io/app-id": app}},
                "spec": {"containers": [{"name": "app", "image": "app:1.0.0"},
                    {"name": "daprd", "image": image}]}})
        });
        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {},
            "items": pods.collect::<Vec<_>>()});
        self.answers.lock().unwrap().insert(PODS.to_owned(), list);
    }

    /// Makes the API server fail for pods.
    pub(crate) fn no_pods(&self) {
        self.answers.lock().unwrap().remove(PODS);
    }

    /// Creates or updates a Secret.
    pub(crate) fn secret(&self, namespace: &str, name: &str, data: &[(&str, &str)]) {
        let data: BTreeMap<_, _> = data.iter().map(|(k, v)| (*k, STANDARD.encode(v))).collect();
        let secret = json!({"kind": "Secret", "apiVersion": "v1",
            "metadata": {"name": name, "namespace": namespace}, "data": data});
        let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
        self.answers.lock().unwrap().insert(path, secret);
    }

    /// Completes the first list of every kind.
    pub(crate) fn synced(&self) {
        for kind in KINDS {
            self.api.apply(kind, WatchEvent::InitDone);
        }
        self.api.apply_pod(WatchEvent::InitDone);
    }

    /// Removes the optional kinds from the API server.
    pub(crate) fn no_crds(&self) {
        self.api.remove_optional_crds();
    }

    /// Stops the operator.
    pub(crate) async fn stop(&self) -> Result<(), TaskError> {
        self.scope.shutdown().await
    }
}

/// Opens a stream of Components with this client.
pub(crate) async fn components_of(
    mut client: OperatorClient<Channel>,
) -> Stream<ComponentUpdateEvent> {
    let request = ComponentUpdateRequest { namespace: "shop".to_owned() };
    Stream(client.component_update(request).await.unwrap().into_inner())
}

/// An open stream.
pub(crate) struct Stream<E>(Streaming<E>);

impl<E: Named> Stream<E> {
    /// The next event and the name of its object.
    pub(crate) async fn next(&mut self) -> (ResourceEventType, String) {
        let timeout = std::time::Duration::from_secs(20);
        let event = tokio::time::timeout(timeout, self.0.message()).await;
        let (body, kind) = event.expect("no event came").unwrap().expect("stream ended").parts();
        let object: Value = serde_json::from_slice(&body).unwrap();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        (ResourceEventType::try_from(kind).unwrap(), name)
    }

    /// Waits for the end of the stream.
    pub(crate) async fn end(&mut self) -> Result<(), Status> {
        while self.0.message().await?.is_some() {}
        Ok(())
    }
}

/// An event of some kind.
pub(crate) trait Named {
    /// The JSON and the type.
    fn parts(self) -> (bytes::Bytes, i32);
}

impl Named for ComponentUpdateEvent {
    fn parts(self) -> (bytes::Bytes, i32) {
        (self.component, self.r#type)
    }
}

impl Named for ConfigurationUpdateEvent {
    fn parts(self) -> (bytes::Bytes, i32) {
        (self.configuration, self.r#type)
    }
}

/// A Component of namespace `shop`.
pub(crate) fn component(name: &str, version: &str, metadata: &Value, scopes: &[&str]) -> Value {
    let spec = json!({"type": "state.redis", "version": "v1", "metadata": metadata});
    object("Component", name, version, &json!({"spec": spec, "scopes": scopes}))
}

/// An object of namespace `shop`.
pub(crate) fn object(kind: &str, name: &str, version: &str, members: &Value) -> Value {
    let mut object = members.clone();
    object["kind"] = json!(kind);
    object["apiVersion"] = json!("dapr.io/v1alpha1");
    object["metadata"] = json!({"name": name, "namespace": "shop", "resourceVersion": version,
        "uid": name, "creationTimestamp": "2026-01-02T03:04:05Z"});
    object
}

fn operator_id() -> SpiffeId {
    SpiffeId::parse("spiffe://cluster.local/ns/dapr-system/dapr-operator").unwrap()
}

fn svid(ca: &Ca, test: &TestSvid) -> Svid {
    let (_, anchors) = watch::channel(Arc::new(ca.anchors()));
    Svid::fixed(CertifiedSvid::new(test.chain.clone(), &test.key).unwrap(), anchors)
}

fn api_server(answers: Answers) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let found = answers.lock().unwrap().get(request.uri().path()).cloned();
        async move {
            let (code, body) = match found {
                Some(answer) => (StatusCode::OK, answer),
                None => (
                    StatusCode::NOT_FOUND,
                    json!({"kind": "Status", "apiVersion": "v1",
                    "status": "Failure", "reason": "NotFound", "code": 404, "message": "not found"}),
                ),
            };
            let body = Body::from(serde_json::to_vec(&body).unwrap());
            Ok::<_, std::convert::Infallible>(Response::builder().status(code).body(body).unwrap())
        }
    });
    Client::new(service, "default")
}
