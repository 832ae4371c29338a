//! The calls to the Kubernetes API that prove who a pod is: token reviews, and pods and
//! Configurations from a watch.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use kube::core::object::NotUsed;
use kube::core::{ApiResource, DynamicObject, DynamicResourceScope, Object, ObjectMeta, Resource};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use kubernetes::{Precedence, api_text};
use resources::Mtls;
use runtime::{ReadyGuard, Scope};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::authority::Authority;
use crate::cache::{self, Cache, Step};
use crate::config::{BundleNames, JwtConfig};
use crate::error::SignError;
use crate::pod_identity::{PodView, Refusal, TokenOwner};
use crate::settings::{self, Settings};
use crate::token_reviews::{self, ReviewFailure, TokenReviews};
use crate::{
    bundle_objects::BundleObjects, bundle_record::Keys, census::Census, events::Events,
    jwt_store::JwtStore,
};

/// How long a request waits for the caches to fill after a start.
const SYNC_WAIT: Duration = Duration::from_secs(1);

const FORBIDDEN: u16 = 403;
const NOT_FOUND: u16 = 404;

/// What matters of a pod's specification; the rest is not even kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpecView {
    service_account_name: String,
}

type PodObject = Object<PodSpecView, NotUsed>;

/// The Kubernetes API as sentry uses it. Cheap to clone.
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
    pods: Cache<PodView>,
    reviews: Arc<TokenReviews>,
    /// The trust domain that each Configuration names.
    configurations: Cache<Option<String>>,
}

impl Kubernetes {
    /// Connects; nothing is asked yet.
    ///
    /// # Errors
    /// There are no credentials.
    pub async fn connect(kubeconfig: Option<&Path>) -> anyhow::Result<Self> {
        // A TokenReview for each certificate.
        let client = kubernetes::client_for_short_calls(kubeconfig, Precedence::InCluster).await?;
        Ok(Self {
            client,
            pods: Cache::default(),
            reviews: Arc::default(),
            configurations: Cache::default(),
        })
    }

    /// Follows pods and Configurations for as long as the scope lives. Health target:
    /// `sentry-kubernetes-validator`.
    pub fn follow(&self, own_namespace: &str, scope: &Scope) {
        let ready = scope.ready("sentry-kubernetes-validator");
        let (pods, configurations) = (self.pods.clone(), self.configurations.clone());
        let (client, namespace) = (self.client.clone(), own_namespace.to_owned());
        spawn(scope, "pods", async move {
            watch::<PodObject, _>(client, pod_resource(), namespace, &pods, pod_view).await;
        });
        let (client, namespace) = (self.client.clone(), own_namespace.to_owned());
        spawn(scope, "configurations", async move {
            let view = |object: &DynamicObject| trust_domain_of(object);
            watch(client, configuration_resource(), namespace, &configurations, view).await;
        });
        self.spawn_readiness(ready, scope);
    }

    fn spawn_readiness(&self, ready: ReadyGuard, scope: &Scope) {
        let (this, token) = (self.clone(), scope.token().clone());
        scope.spawn_detached("validator-readiness", async move {
            let caches = async {
                this.pods.synced().await;
                this.configurations.synced().await;
                ready.set_ready();
            };
            token.run_until_cancelled(caches).await;
        });
    }

    /// Waits a moment for the caches.
    ///
    /// # Errors
    /// [`SignError::ValidatorNotReady`] if they are not filled by then.
    pub async fn synced(&self) -> Result<(), SignError> {
        let both = async {
            self.pods.synced().await;
            self.configurations.synced().await;
        };
        tokio::time::timeout(SYNC_WAIT, both).await.map_err(|_| SignError::ValidatorNotReady)
    }

    /// Asks the API server about a token; the same question under way or just answered is not asked
    /// again.
    ///
    /// # Errors
    /// [`SignError::Refused`] if it says no, [`SignError::ApiUnavailable`] if it cannot answer.
    pub async fn owner(
        &self,
        token: &str,
        audiences: &[String; 2],
    ) -> Result<Arc<TokenOwner>, SignError> {
        let answer = self.reviews.review(token, || {
            let (this, token, audiences) = (self.clone(), token.to_owned(), audiences.to_vec());
            async move { this.review(token, audiences).await }.boxed()
        });
        answer.await.map_err(|failure| match failure {
            ReviewFailure::Refused(refusal) => SignError::Refused(refusal),
            ReviewFailure::Unavailable(cause) => SignError::ApiUnavailable(cause),
        })
    }

    async fn review(&self, token: String, audiences: Vec<String>) -> token_reviews::Answer {
        let spec = TokenReviewSpec { token: Some(token), audiences: Some(audiences) };
        let mut review = TokenReview { spec, ..TokenReview::default() };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &review).await {
            Ok(answer) => {
                let token = review.spec.token.take().unwrap_or_default();
                TokenOwner::from_review(&answer.status.unwrap_or_default(), &token)
                    .map(Arc::new)
                    .map_err(ReviewFailure::Refused)
            }
            // The question itself is bad, an empty token for instance.
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 413 | 422) => {
                Err(ReviewFailure::Refused(Refusal::ReviewFailed(status.message.clone())))
            }
            Err(e) => Err(ReviewFailure::Unavailable(format!("token review: {}", api_text(&e)))),
        }
    }

    /// The pod of a token: from the watch, or asked for when the watch has not seen it yet.
    ///
    /// # Errors
    /// [`Refusal::NoPod`] if it does not exist, [`SignError::ApiUnavailable`] if nobody knows.
    pub async fn pod(&self, owner: &TokenOwner) -> Result<PodView, SignError> {
        let seen = self.pods.get(&owner.namespace, &owner.pod).filter(|pod| owner.is_of(pod));
        if let Some(pod) = seen {
            return Ok(pod);
        }
        let api: Api<PodObject> =
            Api::namespaced_with(self.client.clone(), &owner.namespace, &pod_resource());
        let asked = live(&api, &owner.pod).await?.map(|object| pod_view(&object));
        asked.filter(|pod| owner.is_of(pod)).ok_or(SignError::Refused(Refusal::NoPod))
    }

    /// The trust domain that a Configuration names, if any.
    ///
    /// # Errors
    /// [`Refusal::NoConfiguration`] if it does not exist, [`SignError::ApiUnavailable`] if nobody
    /// knows.
    pub async fn trust_domain(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<String>, SignError> {
        if let Some(seen) = self.configurations.get(namespace, name) {
            return Ok(seen);
        }
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &configuration_resource());
        let asked = live(&api, name).await?.map(|object| trust_domain_of(&object));
        asked.ok_or(SignError::Refused(Refusal::NoConfiguration))
    }

    /// Reads `spec.mtls` of the control plane's Configuration.
    ///
    /// # Errors
    /// It does not exist, cannot be read or holds illegal values.
    pub async fn mtls(&self, namespace: &str, name: &str) -> anyhow::Result<Mtls> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &configuration_resource());
        let object = kubernetes::wait_until_found(|| api.get_opt(name)).await;
        let object = object.map_err(|e| anyhow!("{}", api_text(&e)))?;
        let object = object.context("config CRD not found")?;
        mtls_of(&object)
    }

    /// Follows the control plane's Configuration: another lifetime or clock skew counts from the
    /// next certificate on. One that cannot be used, or is gone, changes nothing.
    pub fn follow_settings(
        &self,
        namespace: &str,
        name: &str,
        authority: &Authority,
        scope: &Scope,
    ) {
        let resource = configuration_resource();
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &resource);
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let authority = authority.clone();
        spawn(scope, "settings", async move {
            let mut events = watcher(api, only).default_backoff().boxed();
            while let Some(event) = events.next().await {
                match event {
                    Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                        settings::follow(settings_of(&object), &authority);
                    }
                    Ok(_) => {}
                    Err(e) => tracing::debug!(target: "dapr.sentry", error = runtime::chain(&e),
                        "watch of the Configuration failed; trying again"),
                }
            }
        });
    }

    /// The objects that hold the JWT key: those of the CA.
    pub fn jwt_store(&self, namespace: &str, config: &JwtConfig) -> JwtStore {
        JwtStore::objects(
            Api::namespaced(self.client.clone(), namespace),
            Api::namespaced(self.client.clone(), namespace),
            config,
        )
    }

    /// The objects that hold the CA.
    pub fn bundle_objects(&self, namespace: &str, names: &BundleNames) -> BundleObjects {
        BundleObjects::new(
            Api::namespaced(self.client.clone(), namespace),
            Api::namespaced(self.client.clone(), namespace),
            Keys::new(names),
            Events::new(&self.client, namespace),
            Census::new(&self.client, namespace),
        )
    }
}

fn settings_of(configuration: &DynamicObject) -> anyhow::Result<Settings> {
    Ok(Settings::from_mtls(&mtls_of(configuration)?)?)
}

fn mtls_of(configuration: &DynamicObject) -> anyhow::Result<Mtls> {
    let mtls = configuration.data.pointer("/spec/mtls").cloned().unwrap_or_default();
    let mtls: Option<Mtls> = serde_json::from_value(mtls).context("read spec.mtls")?;
    Ok(mtls.unwrap_or_default())
}

fn spawn(scope: &Scope, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    let token = scope.token().clone();
    scope.spawn(name, async move {
        token.run_until_cancelled(work).await;
        Ok(())
    });
}

fn pod_resource() -> ApiResource {
    ApiResource::erase::<Pod>(&())
}

fn configuration_resource() -> ApiResource {
    ApiResource::erase::<resources::Configuration>(&())
}

fn pod_view(pod: &PodObject) -> PodView {
    let none = std::collections::BTreeMap::new();
    PodView::new(
        pod.metadata.uid.as_deref().unwrap_or_default(),
        &pod.spec.service_account_name,
        pod.metadata.annotations.as_ref().unwrap_or(&none),
    )
}

fn trust_domain_of(configuration: &DynamicObject) -> Option<String> {
    let named = configuration.data.pointer("/spec/accessControl/trustDomain")?.as_str()?;
    (!named.is_empty()).then(|| named.to_owned())
}

/// Asks for one object; one that we may not see counts as none.
async fn live<K>(api: &Api<K>, name: &str) -> Result<Option<K>, SignError>
where
    K: Clone + DeserializeOwned + Debug,
{
    match api.get_opt(name).await {
        Ok(found) => Ok(found),
        Err(kube::Error::Api(status)) if matches!(status.code, FORBIDDEN | NOT_FOUND) => Ok(None),
        // A name that is none, from a token that the API server signed: not ours to judge.
        Err(kube::Error::Api(status)) if status.code == 400 => Ok(None),
        Err(e) => Err(SignError::ApiUnavailable(api_text(&e))),
    }
}

/// Fills a cache from a watch of all namespaces, or of the own one where the API server allows no
/// more (`global.rbac.namespaced`).
async fn watch<K, V>(
    client: Client,
    resource: ApiResource,
    own_namespace: String,
    cache: &Cache<V>,
    view: impl Fn(&K) -> V,
) where
    K: Resource<DynamicType = ApiResource, Scope = DynamicResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + 'static,
    V: Clone,
{
    let everywhere: Api<K> = Api::all_with(client.clone(), &resource);
    let api = match everywhere.list_metadata(&ListParams::default().limit(1)).await {
        Err(kube::Error::Api(status)) if status.code == FORBIDDEN => {
            tracing::info!(target: "dapr.sentry.identity.kubernetes", resource = resource.plural,
                "not allowed to list all namespaces; only the own namespace is served");
            Api::namespaced_with(client, &own_namespace, &resource)
        }
        _ => everywhere,
    };
    let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => cache.apply(step(event, &view)),
            Err(e) => {
                tracing::warn!(target: "dapr.sentry.identity.kubernetes", resource = resource.plural,
                    error = runtime::chain(&e), "watch failed; trying again");
            }
        }
    }
}

fn step<K: Resource, V>(event: watcher::Event<K>, view: impl Fn(&K) -> V) -> Step<V> {
    let key = |object: &K| {
        let ObjectMeta { namespace, name, .. } = object.meta();
        cache::key(namespace.as_deref().unwrap_or_default(), name.as_deref().unwrap_or_default())
    };
    match event {
        watcher::Event::Init => Step::ListBegins,
        watcher::Event::InitApply(object) => Step::Listed(key(&object), view(&object)),
        watcher::Event::InitDone => Step::ListEnds,
        watcher::Event::Apply(object) => Step::Changed(key(&object), view(&object)),
        watcher::Event::Delete(object) => Step::Gone(key(&object)),
    }
}
