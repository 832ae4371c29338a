//! Every call to the API server. Decides nothing.
//!
//! [`watch`] passes on the events of a watch, [`report`] records Events and
//! [`leader`] runs what only the leader does, [`pauses`] times what is repeated.
pub(crate) mod leader;
pub(crate) mod pauses;
pub(crate) mod report;
mod templates;
pub(crate) mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
    Preconditions,
};
use kube::core::{NamespaceResourceScope, ObjectMeta, PartialObjectMeta};
use kube::{Api, Client, Resource};
use kubernetes::{FIELD_MANAGER, ObjectKey, WatchEvent, WatchOptions, Watcher, api_text};
use resources::{Configuration, CustomResource, GROUP, names};
use serde_json::Value;

use crate::metrics::CrdCheck;
use crate::secrets::reads::{Outcome, SecretReads};
use crate::secrets::resolution::{FetchError, Fetched};

/// Objects of one page of a list: a workload has some kilobytes.
const LIST_PAGE: u32 = 500;

/// The API server.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    /// The only namespace to watch; `None` for all.
    watch_namespace: Option<String>,
    /// Namespace of the control plane.
    namespace: String,
    watcher: Watcher,
    reads: SecretReads,
}

impl Cluster {
    /// Calls through `client`, watching one namespace or all.
    pub(crate) fn new(client: Client, watch_namespace: Option<String>, namespace: String) -> Self {
        let reader = client.clone();
        let reads = SecretReads::new(move |key| read_secret(reader.clone(), key));
        let watcher = Watcher::new(client.clone());
        Self { client, watch_namespace, namespace, watcher, reads }
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

    /// Watches a kind as untyped objects, so that each is decoded separately.
    pub(crate) fn watch_kind<K: CustomResource>(
        &self,
    ) -> impl Stream<Item = WatchEvent<DynamicObject>> + use<K> {
        self.watch_untyped(K::KIND, resource(GROUP, K::VERSION, K::KIND, K::PLURAL))
    }

    /// Watches a kind of workload as untyped objects.
    pub(crate) fn watch_workloads(
        &self,
        (group, version, kind, plural): (&str, &str, &'static str, &str),
    ) -> impl Stream<Item = WatchEvent<DynamicObject>> + use<> {
        self.watch_untyped(kind, resource(group, version, kind, plural))
    }

    fn watch_untyped(
        &self,
        kind: &'static str,
        resource: ApiResource,
    ) -> impl Stream<Item = WatchEvent<DynamicObject>> + use<> {
        let namespace = self.watch_namespace.clone();
        self.watcher.watch(WatchOptions::new(kind), move |client| match &namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        })
    }

    /// The app ids of the pods and pod templates of a namespace. A kind that is not installed has none.
    ///
    /// # Errors
    /// An error of the API server, for example a kind that may not be listed.
    pub(crate) async fn template_apps(&self, namespace: &str) -> kube::Result<BTreeSet<String>> {
        let mut apps = BTreeSet::new();
        for (group, version, kind, plural) in templates::KINDS {
            let resource = resource(group, version, kind, plural);
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), namespace, &resource);
            let mut page = ListParams::default().limit(LIST_PAGE);
            loop {
                let list = match api.list(&page).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => break,
                    list => list?,
                };
                apps.extend(list.items.iter().flat_map(templates::app_ids));
                match list.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => page = page.continue_token(&token),
                    None => break,
                }
            }
        }
        Ok(apps)
    }

    /// Watches the metadata of all pods.
    pub(crate) fn watch_pods(&self) -> impl Stream<Item = WatchEvent<ObjectMeta>> + use<> {
        self.watch::<PartialObjectMeta<Pod>>("Pod").map(WatchEvent::metadata)
    }

    /// Watches the metadata of all Secrets.
    pub(crate) fn watch_secrets(&self) -> impl Stream<Item = WatchEvent<ObjectMeta>> + use<> {
        self.watch::<PartialObjectMeta<Secret>>("Secret").map(WatchEvent::metadata)
    }

    pub(crate) fn watch_services(&self) -> impl Stream<Item = WatchEvent<Service>> + use<> {
        self.watch::<Service>("Service")
    }

    fn watch<K>(&self, kind: &'static str) -> impl Stream<Item = WatchEvent<K>> + use<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + Send
            + 'static,
    {
        let namespace = self.watch_namespace.clone();
        self.watcher.watch(WatchOptions::new(kind), move |client| match &namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        })
    }

    /// Reads Secrets of a namespace. A failed read does not affect the others. The Secret with the
    /// key of the CA is never read: a user who may create a Component in the control plane's
    /// namespace would obtain it.
    pub(crate) async fn secrets(&self, namespace: &str, mut wanted: BTreeSet<String>) -> Fetched {
        let reserved = namespace == self.namespace && wanted.remove(names::TRUST_BUNDLE);
        let mut fetched = self.reads.all(namespace, wanted).await;
        if reserved {
            let name = names::TRUST_BUNDLE.to_owned();
            fetched.insert(name.clone(), Err(FetchError::Reserved(name)));
        }
        fetched
    }

    /// Creates a Service.
    ///
    /// # Errors
    /// An error of the API server; so for all writes.
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

    /// Deletes the Service with this UID, and no other of the same name.
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

    /// Reads a CRD and applies the JSON Patch (RFC 6902) that `plan` returns for it, unless it is empty.
    ///
    /// # Errors
    /// An error of the API server.
    pub(crate) async fn reconcile_crd(
        &self,
        name: &str,
        plan: impl FnOnce(&Value) -> Vec<Value>,
    ) -> kube::Result<CrdCheck> {
        let operations = plan(&self.crd(name).await?);
        if operations.is_empty() {
            return Ok(CrdCheck::UpToDate);
        }
        self.patch_crd(name, operations).await?;
        Ok(CrdCheck::Patched)
    }

    /// Reads a CRD as untyped JSON: its typed form requires members that may be absent.
    ///
    /// # Errors
    /// An error of the API server.
    pub(crate) async fn crd(&self, name: &str) -> kube::Result<Value> {
        let object = self.crds().get(name).await?;
        serde_json::to_value(object).map_err(kube::Error::SerdeError)
    }

    /// Changes a CRD by JSON Patch (RFC 6902).
    ///
    /// # Errors
    /// An error of the API server.
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
    ) -> impl Stream<Item = WatchEvent<ObjectMeta>> + use<> {
        // A right that is limited to this name is sufficient.
        let options = WatchOptions::new("CustomResourceDefinition").name(name);
        let events = self.watcher.watch(options, |client| {
            Api::<PartialObjectMeta<CustomResourceDefinition>>::all(client)
        });
        events.map(WatchEvent::metadata)
    }

    /// Writes the status of an object with our field manager; fails for another object of the same
    /// name.
    ///
    /// # Errors
    /// An error of the API server.
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
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: format!("{group}/{version}").trim_start_matches('/').to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
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
