//! Every call to the API server. Decides nothing.
use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use futures::{Stream, StreamExt as _};
use k8s_openapi::{
    api::core::v1::{ObjectReference, Pod, Secret, Service},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource,
    api::{
        ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions,
    },
    core::{ObjectMeta, PartialObjectMeta, Status},
    runtime::{
        events::{Event, EventType, Recorder, Reporter},
        watcher,
    },
};
use kubernetes::{FIELD_MANAGER, api_text};
use resources::{Configuration, CustomResource, GROUP, names};
use runtime::clock;
use serde_json::Value;

use crate::{
    follow::pause_before_watch,
    key::ObjectKey,
    secrets::{
        reads::{Outcome, SecretReads},
        resolution::{FetchError, Fetched},
    },
};

/// Objects per page of a list, where the API server cannot send a list one by one.
const PAGE: u32 = 500;
/// In the query of a watch that begins with the list (Kubernetes, streaming lists).
const STREAMED: &str = "sendInitialEvents=true";

/// The API server.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    /// The only namespace to watch; `None` for all.
    watch_namespace: Option<String>,
    /// Namespace of the control plane.
    namespace: String,
    /// Whether lists come object by object.
    streams: Arc<AtomicBool>,
    recorder: Recorder,
    reads: SecretReads,
}

impl Cluster {
    /// Calls through `client`, watching one namespace or all.
    pub(crate) fn new(
        client: Client,
        watch_namespace: Option<String>,
        namespace: String,
        instance: String,
    ) -> Self {
        let streams = Arc::new(AtomicBool::new(true));
        let client = observed(client, streams.clone());
        let reporter =
            Reporter { controller: "dapr-operator".to_owned(), instance: Some(instance) };
        let recorder = Recorder::new(client.clone(), reporter);
        let reader = client.clone();
        let reads = SecretReads::new(move |key| read_secret(reader.clone(), key));
        Self { client, watch_namespace, namespace, streams, recorder, reads }
    }

    /// The client itself, for the other `cluster` modules.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The only namespace that is watched; `None` for all.
    pub(crate) fn watch_namespace(&self) -> Option<&str> {
        self.watch_namespace.as_deref()
    }

    /// Reads one Configuration, past every cache.
    ///
    /// # Errors
    /// It is forbidden or undecodable.
    pub(crate) async fn configuration(
        &self,
        namespace: &str,
        name: &str,
    ) -> kube::Result<Option<Configuration>> {
        Api::namespaced(self.client.clone(), namespace).get_opt(name).await
    }

    /// Watches a kind as untyped objects, so that each is decoded by itself.
    pub(crate) fn watch_kind<K: CustomResource>(
        &self,
    ) -> impl Stream<Item = watcher::Result<watcher::Event<DynamicObject>>> + use<K> {
        self.watch_untyped(&resource(GROUP, K::VERSION, K::KIND, K::PLURAL))
    }

    /// Watches a kind of workload, keeping of each what `reduce` makes of it.
    pub(crate) fn watch_workloads<T>(
        &self,
        (group, version, kind, plural): (&str, &str, &str, &str),
        reduce: impl Fn(DynamicObject) -> T + Clone,
    ) -> impl Stream<Item = watcher::Result<watcher::Event<T>>> {
        let events = self.watch_untyped(&resource(group, version, kind, plural));
        events.map(move |event| event.map(|event| map_event(event, reduce.clone())))
    }

    fn watch_untyped(
        &self,
        resource: &ApiResource,
    ) -> impl Stream<Item = watcher::Result<watcher::Event<DynamicObject>>> + use<> {
        let api: Api<DynamicObject> = match &self.watch_namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        };
        watcher(api, self.watch_config())
    }

    /// Watches the metadata of all pods.
    pub(crate) fn watch_pods(
        &self,
    ) -> impl Stream<Item = watcher::Result<watcher::Event<ObjectMeta>>> + use<> {
        let events = watcher(self.api::<PartialObjectMeta<Pod>>(), self.watch_config());
        events.map(|event| event.map(|event| map_event(event, |pod| pod.metadata)))
    }

    /// Watches the metadata of all Secrets.
    pub(crate) fn watch_secrets(
        &self,
    ) -> impl Stream<Item = watcher::Result<watcher::Event<ObjectMeta>>> + use<> {
        let events = watcher(self.api::<PartialObjectMeta<Secret>>(), self.watch_config());
        events.map(|event| event.map(|event| map_event(event, |secret| secret.metadata)))
    }

    /// Watches a kind of Kubernetes, keeping of each object what `reduce` makes of it.
    pub(crate) fn watch_reduced<K, T>(
        &self,
        reduce: impl Fn(K) -> T + Clone,
    ) -> impl Stream<Item = watcher::Result<watcher::Event<T>>>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + Send
            + 'static,
    {
        let events = watcher(self.api::<K>(), self.watch_config());
        events.map(move |event| event.map(|event| map_event(event, reduce.clone())))
    }

    /// Reads Secrets of a namespace. A failed read does not affect the others. The Secret with the key
    /// of the CA is never read: whoever may create a Component in the control plane's namespace would
    /// obtain it.
    pub(crate) async fn secrets(&self, namespace: &str, mut wanted: BTreeSet<String>) -> Fetched {
        let reserved = namespace == self.namespace && wanted.remove(names::TRUST_BUNDLE);
        let mut fetched = self.reads.all(namespace, wanted).await;
        if reserved {
            let name = names::TRUST_BUNDLE.to_owned();
            fetched.insert(name.clone(), Err(FetchError::Reserved(name)));
        }
        fetched
    }

    /// Records a Warning Event on an object.
    ///
    /// # Errors
    /// What the API server says; nothing depends on it.
    pub(crate) async fn warn(
        &self,
        about: &ObjectReference,
        reason: &str,
        note: &str,
    ) -> kube::Result<()> {
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(note.to_owned()),
            action: "Serve".to_owned(),
            secondary: None,
        };
        self.recorder.publish(&event, about).await
    }

    /// Makes a Service.
    ///
    /// # Errors
    /// What the API server says; so for all writes.
    pub(crate) async fn create_service(&self, service: &Service) -> kube::Result<()> {
        let api = self.services(service.metadata.namespace.as_deref());
        api.create(&PostParams::default(), service).await.map(drop)
    }

    /// Replaces a Service of the same resource version.
    pub(crate) async fn replace_service(&self, service: &Service) -> kube::Result<()> {
        let api = self.services(service.metadata.namespace.as_deref());
        let name = service.metadata.name.as_deref().unwrap_or_default();
        api.replace(name, &PostParams::default(), service).await.map(drop)
    }

    /// Removes the Service with this unique id, and no other of the same name.
    pub(crate) async fn delete_service(&self, key: &ObjectKey, uid: &str) -> kube::Result<()> {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.services(Some(&key.namespace)).delete(&key.name, &params).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(drop),
        }
    }

    fn services(&self, namespace: Option<&str>) -> Api<Service> {
        Api::namespaced(self.client.clone(), namespace.unwrap_or_default())
    }

    /// Reads a CRD as untyped JSON: its typed form has members that must be there but may not be.
    ///
    /// # Errors
    /// What the API server says.
    pub(crate) async fn crd(&self, name: &str) -> kube::Result<Value> {
        let object = self.crds().get(name).await?;
        serde_json::to_value(object).map_err(kube::Error::SerdeError)
    }

    /// Changes a CRD by JSON Patch (RFC 6902).
    ///
    /// # Errors
    /// What the API server says.
    pub(crate) async fn patch_crd(&self, name: &str, operations: Vec<Value>) -> kube::Result<()> {
        let operations = serde_json::from_value(Value::Array(operations));
        let operations = operations.map_err(kube::Error::SerdeError)?;
        let patch = Patch::Json::<()>(operations);
        self.crds().patch(name, &PatchParams::default(), &patch).await.map(drop)
    }

    /// Watches the metadata of one CRD.
    pub(crate) fn watch_crd(
        &self,
        name: &str,
    ) -> impl Stream<Item = watcher::Result<watcher::Event<ObjectMeta>>> + use<> {
        let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(self.client.clone());
        // A right to this one by its name is enough for that.
        let config = self.watch_config().fields(&format!("metadata.name={name}"));
        watcher(api, config).map(|event| event.map(|event| map_event(event, |crd| crd.metadata)))
    }

    /// Writes the status of an object as ours; fails for another object of the same name.
    ///
    /// # Errors
    /// What the API server says.
    pub(crate) async fn apply_status<K: CustomResource>(
        &self,
        object: &K,
        status: &Value,
    ) -> kube::Result<()> {
        let metadata = object.meta();
        let name = metadata.name.as_deref().unwrap_or_default();
        let resource = resource(GROUP, K::VERSION, K::KIND, K::PLURAL);
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &resource);
        let body = serde_json::json!({"apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": {"name": name, "uid": metadata.uid}, "status": status});
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch_status(name, &params, &Patch::Apply(body)).await.map(drop)
    }

    fn crds(&self) -> Api<DynamicObject> {
        let kind = "CustomResourceDefinition";
        let resource = resource("apiextensions.k8s.io", "v1", kind, "customresourcedefinitions");
        Api::all_with(self.client.clone(), &resource)
    }

    /// One object at a time, or else one page: a list in one body is as large as the cluster, and
    /// lists from the API server's own cache have no pages.
    fn watch_config(&self) -> watcher::Config {
        if self.streams.load(Ordering::Relaxed) {
            watcher::Config::default().streaming_lists()
        } else {
            watcher::Config::default().page_size(PAGE)
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        match &self.watch_namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: format!("{group}/{version}"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

fn map_event<A, B>(event: watcher::Event<A>, map: impl Fn(A) -> B) -> watcher::Event<B> {
    use watcher::Event;
    match event {
        Event::Apply(object) => Event::Apply(map(object)),
        Event::Delete(object) => Event::Delete(map(object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(map(object)),
        Event::InitDone => Event::InitDone,
    }
}

async fn read_secret(client: Client, ObjectKey { namespace, name }: ObjectKey) -> Outcome {
    let api: Api<Secret> = Api::namespaced(client, &namespace);
    let failed = |reason: String| FetchError::Failed { name: name.clone(), reason };
    match api.get_opt(&name).await {
        Ok(Some(secret)) => {
            let data = secret.data.unwrap_or_default();
            Ok(Arc::new(data.into_iter().map(|(key, bytes)| (key, bytes.0)).collect()))
        }
        Ok(None) => Err(FetchError::NotFound(name)),
        // A decoding error could quote the Secret, so its text stays here.
        Err(kube::Error::SerdeError(_)) => Err(failed("unreadable answer".to_owned())),
        Err(error) => Err(failed(api_text(&error))),
    }
}

/// The client, which answers a watch whose predecessor ended at once by itself, after a pause: its
/// place is lost. So a new list shows what such watches do not. And it has an eye on whether the API
/// server refuses streamed lists, as it does up to Kubernetes 1.33.
fn observed(client: Client, streams: Arc<AtomicBool>) -> Client {
    let namespace = client.default_namespace().to_owned();
    let starts: Arc<Mutex<HashMap<String, Instant>>> = Arc::default();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (client, starts, streams) = (client.clone(), starts.clone(), streams.clone());
        async move {
            let query = request.uri().query().unwrap_or_default();
            if !query.contains("watch=true") {
                return client.send(request).await;
            }
            let (path, streamed) = (request.uri().path().to_owned(), query.contains(STREAMED));
            let lock = || starts.lock().unwrap_or_else(PoisonError::into_inner);
            let last = lock().remove(&path);
            let pause = pause_before_watch(last, clock::monotonic());
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
                return gone();
            }
            let answer = client.send(request).await?;
            if answer.status().is_success() {
                lock().insert(path, clock::monotonic());
            } else if streamed && answer.status() == http::StatusCode::UNPROCESSABLE_ENTITY {
                streams.store(false, Ordering::Relaxed);
            }
            Ok(answer)
        }
    });
    Client::new(service, namespace)
}

/// The answer to a watch from a version that the API server has forgotten.
fn gone() -> kube::Result<http::Response<kube::client::Body>> {
    let status = Status::failure("the last watch ended at once", "Expired").with_code(410);
    let body = serde_json::to_vec(&status).map_err(kube::Error::SerdeError)?;
    let answer = http::Response::builder().status(http::StatusCode::GONE);
    answer.body(body.into()).map_err(kube::Error::HttpError)
}
