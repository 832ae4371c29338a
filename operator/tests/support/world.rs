//! The operator's API with a throw-away CA and an API server that knows Secrets only.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot set up its world cannot go on"
)]
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Request, Response, StatusCode};
use identity::SpiffeId;
use kube::{Client, client::Body, core::DynamicObject, runtime::watcher::Event};
use operator::{
    api::{Shared, Stores},
    cluster::Cluster,
    metrics::Metrics,
    outage::Outage,
    report::Reports,
};
use proto::operator::{
    ComponentUpdateEvent, ComponentUpdateRequest, ConfigurationUpdateEvent,
    ConfigurationUpdateRequest, ResourceEventType, operator_client::OperatorClient,
};
use runtime::Scope;
use serde_json::{Value, json};
use testkit::ca::{Ca, SvidOptions, TestSvid};
use tokio::sync::watch;
use tonic::{Status, Streaming, transport::Channel};
use transport::{Keepalive, Svid, svid::CertifiedSvid};

type Secrets = Arc<Mutex<BTreeMap<String, Value>>>;

/// One operator and everything around it.
pub(crate) struct World {
    ca: Ca,
    address: String,
    shared: Arc<Shared>,
    scope: Scope,
    secrets: Secrets,
}

impl World {
    /// Starts the API with empty stores that have not been listed.
    pub(crate) async fn start() -> Self {
        Self::start_with(operator::KEEPALIVE).await
    }

    /// The same, with an eye on its peers that is quicker to notice that they are gone.
    pub(crate) async fn start_with(keepalive: Keepalive) -> Self {
        let (ca, scope, secrets) = (Ca::new(), Scope::for_test(), Secrets::default());
        let cluster = Cluster::new(api_server(secrets.clone()), None, "test".to_owned());
        let shared = Arc::new(Shared {
            stores: Stores::default(),
            cluster: cluster.clone(),
            reports: Reports::new(cluster, scope.clone()),
            metrics: Metrics::register(scope.metrics()).unwrap(),
            outage: Outage::default(),
            token: scope.token().clone(),
        });
        let listener = runtime::listen("127.0.0.1", 0).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let own = svid(&ca, &ca.svid("dapr-system", "dapr-operator"));
        operator::serve_api(listener, shared.clone(), &own, keepalive, &scope).unwrap();
        Self { ca, address, shared, scope, secrets }
    }

    /// A sidecar's client.
    pub(crate) fn client(&self, namespace: &str, app: &str) -> OperatorClient<Channel> {
        self.connect(&svid(&self.ca, &self.ca.svid(namespace, app)))
    }

    /// A client with a certificate of our CA for another trust domain.
    pub(crate) fn client_of_trust_domain(&self, domain: &str) -> OperatorClient<Channel> {
        let options = SvidOptions { trust_domain: domain.to_owned(), ..SvidOptions::default() };
        self.connect(&svid(&self.ca, &self.ca.svid_with("shop", "orders", &options)))
    }

    /// A client with TLS that shows no certificate.
    pub(crate) async fn anonymous_client(&self) -> anyhow::Result<OperatorClient<Channel>> {
        let (_, anchors) = watch::channel(Arc::new(self.ca.anchors()));
        let tls = transport::tls::anonymous_client(anchors, operator_id())?;
        Ok(OperatorClient::new(transport::dial(&self.address, tls).await?))
    }

    /// A client whose certificate is of somebody else.
    pub(crate) fn client_of_another_ca(&self) -> OperatorClient<Channel> {
        let other = Ca::new();
        // Trusts us, but we do not trust it.
        let (_, anchors) = watch::channel(Arc::new(self.ca.anchors()));
        let test = other.svid("shop", "orders");
        self.connect(&Svid::fixed(CertifiedSvid::new(test.chain, &test.key).unwrap(), anchors))
    }

    /// A client without TLS.
    pub(crate) fn plaintext_client(&self) -> OperatorClient<Channel> {
        let uri = format!("http://{}", self.address);
        OperatorClient::new(Channel::from_shared(uri).unwrap().connect_lazy())
    }

    /// A client with a certificate of our CA for this id.
    pub(crate) fn client_named(&self, id: &str) -> OperatorClient<Channel> {
        self.connect(&svid(&self.ca, &self.ca.leaf_named(&[id])))
    }

    /// A sidecar's client that reaches us by another address.
    pub(crate) fn client_by(&self, address: &str, app: &str) -> OperatorClient<Channel> {
        let own = svid(&self.ca, &self.ca.svid("shop", app));
        OperatorClient::new(transport::channel(&own, address, operator_id()).unwrap())
    }

    fn connect(&self, own: &Svid) -> OperatorClient<Channel> {
        OperatorClient::new(transport::channel(own, &self.address, operator_id()).unwrap())
    }

    /// Where the API is.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// How many streams of Components are open.
    pub(crate) fn open_streams(&self) -> usize {
        self.shared.stores.components.streams().0
    }

    /// An open stream of Components.
    pub(crate) async fn components(&self, app: &str) -> Stream<ComponentUpdateEvent> {
        components_of(self.client("shop", app)).await
    }

    /// An open stream of Configurations.
    pub(crate) async fn configurations(&self, app: &str) -> Stream<ConfigurationUpdateEvent> {
        let request = ConfigurationUpdateRequest { namespace: "shop".to_owned() };
        let answer = self.client("shop", app).configuration_update(request).await;
        Stream(answer.unwrap().into_inner())
    }

    /// The API server has (another version of) an object.
    pub(crate) fn put(&self, object: &Value) {
        self.event(object, Event::Apply);
    }

    /// The API server has lost an object.
    pub(crate) fn delete(&self, object: &Value) {
        self.event(object, Event::Delete);
    }

    fn event(&self, object: &Value, make: fn(DynamicObject) -> Event<DynamicObject>) {
        let stores = &self.shared.stores;
        let event = make(serde_json::from_value(object.clone()).unwrap());
        // An undecodable object is part of some tests.
        let _ = match object["kind"].as_str().unwrap() {
            "Component" => stores.components.apply(event),
            "Configuration" => stores.configurations.apply(event),
            "Resiliency" => stores.resiliencies.apply(event),
            other => panic!("no store for {other}"),
        };
    }

    /// A pod as its metadata shows it.
    pub(crate) fn pod(&self, name: &str, annotations: &[(&str, &str)]) {
        let annotations: BTreeMap<_, _> =
            annotations.iter().map(|(k, v)| (format!("dapr.io/{k}"), *v)).collect();
        let metadata = json!({"name": name, "namespace": "shop", "annotations": annotations});
        let metadata = serde_json::from_value(metadata).unwrap();
        self.shared.stores.assignments.apply(Event::Apply(metadata));
    }

    /// A Secret exists, or has new content.
    pub(crate) fn secret(&self, namespace: &str, name: &str, data: &[(&str, &str)]) {
        let data: BTreeMap<_, _> = data.iter().map(|(k, v)| (*k, STANDARD.encode(v))).collect();
        let secret = json!({"kind": "Secret", "apiVersion": "v1",
            "metadata": {"name": name, "namespace": namespace}, "data": data});
        let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
        self.secrets.lock().unwrap().insert(path, secret);
    }

    /// The first list of every kind is complete.
    pub(crate) fn synced(&self) {
        let stores = &self.shared.stores;
        stores.components.apply(Event::InitDone).unwrap();
        stores.configurations.apply(Event::InitDone).unwrap();
        stores.subscriptions.apply(Event::InitDone).unwrap();
        stores.resiliencies.apply(Event::InitDone).unwrap();
        stores.http_endpoints.apply(Event::InitDone).unwrap();
        stores.mcp_servers.apply(Event::InitDone).unwrap();
        stores.workflow_access_policies.apply(Event::InitDone).unwrap();
        stores.assignments.apply(Event::InitDone);
    }

    /// The API server knows none of the kinds.
    pub(crate) fn no_crds(&self) {
        let stores = &self.shared.stores;
        stores.resiliencies.no_crd();
        stores.mcp_servers.no_crd();
        stores.workflow_access_policies.no_crd();
    }

    /// Stops the operator.
    pub(crate) async fn stop(&self) -> anyhow::Result<()> {
        self.scope.shutdown().await
    }
}

/// An open stream of Components of this client.
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
        let patience = std::time::Duration::from_secs(20);
        let event = tokio::time::timeout(patience, self.0.message()).await;
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

fn api_server(secrets: Secrets) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let found = secrets.lock().unwrap().get(request.uri().path()).cloned();
        async move {
            let (code, body) = match found {
                Some(secret) => (StatusCode::OK, secret),
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
