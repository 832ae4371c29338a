//! The commands' calls to the API server.
pub(super) mod crd_events;

use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{ApiResource, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use kubernetes::api_text;
use serde_json::{Value, json};

/// Field manager of definitions.
const FIELD_MANAGER: &str = "dapr-crds";
const CALL_LIMIT: Duration = Duration::from_secs(15);

/// Why a call to the API server failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer in time.
    #[error("no answer within {} s", CALL_LIMIT.as_secs())]
    NoAnswer,
    /// The right to read definitions is missing.
    #[error(
        "{0}; grant get on customresourcedefinitions.apiextensions.k8s.io: a definition that cannot be \
         read may be newer and is not written"
    )]
    Forbidden(String),
    /// Any other answer.
    #[error("{0}")]
    Api(String),
}

/// The custom resource definitions of a cluster.
pub(super) struct Definitions(Api<DynamicObject>);

impl Definitions {
    pub(super) fn new(client: Client) -> Self {
        let kind = "CustomResourceDefinition";
        let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", kind);
        Self(Api::all_with(client, &ApiResource::from_gvk(&kind)))
    }

    /// The cluster's definition. Without this read nothing is applied: it may be newer than ours.
    pub(super) async fn read(&self, name: &str) -> Result<Option<DynamicObject>, CallError> {
        within(self.0.get_opt(name)).await?.map_err(|error| match error {
            kube::Error::Api(status) if status.code == 403 => CallError::Forbidden(status.message),
            error => CallError::Api(api_text(&error)),
        })
    }

    pub(super) async fn get(&self, name: &str) -> Result<DynamicObject, CallError> {
        within(self.0.get(name)).await?.map_err(|error| CallError::Api(api_text(&error)))
    }

    /// Applies a definition; returns `false` when the cluster's has another version than `wanted`
    /// names.
    pub(super) async fn write(
        &self,
        name: &str,
        wanted: &DynamicObject,
    ) -> Result<bool, CallError> {
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match within(self.0.patch(name, &params, &Patch::Apply(wanted))).await? {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(false),
            Err(error) => Err(CallError::Api(api_text(&error))),
        }
    }
}

/// The cluster as the self-test and the check of the scheduler see it.
pub(super) struct CommandCluster {
    client: Client,
    /// Namespace of the control plane.
    namespace: String,
}

impl CommandCluster {
    pub(super) fn new(client: Client, namespace: String) -> Self {
        Self { client, namespace }
    }

    /// A StatefulSet of the control plane.
    pub(super) async fn stateful_set(&self, name: &str) -> Result<Option<StatefulSet>, CallError> {
        let api: Api<StatefulSet> = Api::namespaced(self.client.clone(), &self.namespace);
        within(api.get_opt(name)).await?.map_err(|error| CallError::Api(api_text(&error)))
    }

    /// Creates a Subscription of the older version as a dry run; the API server converts it to the
    /// stored version and back. Returns its route.
    pub(super) async fn convert_subscription(&self) -> Result<Option<Value>, CallError> {
        let kind = GroupVersionKind::gvk(resources::GROUP, "v1alpha1", "Subscription");
        let kind = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &kind);
        let mut old = DynamicObject::new("", &kind).data(json!({
            "spec": {"pubsubname": "none", "topic": "none", "route": "/self-test"},
        }));
        old.metadata = ObjectMeta {
            generate_name: Some("dapr-self-test-".to_owned()),
            ..ObjectMeta::default()
        };
        let params = PostParams { dry_run: true, ..PostParams::default() };
        let created = api.create(&params, &old).await;
        let created = created.map_err(|error| CallError::Api(api_text(&error)))?;
        Ok(created.data.pointer("/spec/route").cloned())
    }
}

async fn within<T>(
    call: impl Future<Output = kube::Result<T>>,
) -> Result<kube::Result<T>, CallError> {
    tokio::time::timeout(CALL_LIMIT, call).await.map_err(|_| CallError::NoAnswer)
}
