//! The calls to the Kubernetes API that authentication makes: token reviews, and watches of pods and
//! Configurations.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use kube::core::{ApiResource, DynamicObject, DynamicResourceScope, Object, ObjectMeta, Resource};
use kube::{Api, Client};
use kubernetes::{FailureKind, Verb, WatchEvent, WatchOptions, Watcher, api_text};
use runtime::{ReadyGuard, Scope};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::cache::{self, Cache};
use super::container_images::{Container, ContainerImages, ContainerStatus, PodContainers};
use super::error::AuthnError;
use super::pod_identity::{PodView, Refusal, TokenOwner};
use super::token_reviews::{ReviewFailure, ReviewResult, TokenReviews};

/// How long a request waits for the caches to fill after a start.
const SYNC_TIMEOUT: Duration = Duration::from_secs(1);

const FORBIDDEN: u16 = 403;
const NOT_FOUND: u16 = 404;

/// The part of a pod's specification that is decoded.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpecView {
    service_account_name: String,
    init_containers: Vec<Container>,
    containers: Vec<Container>,
}

/// The part of a pod's status that is decoded.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatusView {
    init_container_statuses: Vec<ContainerStatus>,
    container_statuses: Vec<ContainerStatus>,
}

type PodObject = Object<PodSpecView, PodStatusView>;

/// Whether certificates carry the container images of their pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageExtension {
    /// They do.
    Enabled,
    /// They do not, and the images are not cached.
    Disabled,
}

/// The Kubernetes API as authentication uses it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Kubernetes {
    client: Client,
    pods: Cache<PodView>,
    reviews: Arc<TokenReviews>,
    /// The trust domain that each Configuration names.
    configurations: Cache<Option<String>>,
    image_extension: ImageExtension,
}

impl Kubernetes {
    /// Uses `client`; sends nothing yet.
    pub(crate) fn new(client: Client, image_extension: ImageExtension, scope: &Scope) -> Self {
        Self {
            client,
            pods: Cache::default(),
            reviews: Arc::new(TokenReviews::new(scope.clone())),
            configurations: Cache::default(),
            image_extension,
        }
    }

    /// Watches pods and Configurations until the scope is cancelled. Health target:
    /// `sentry-kubernetes-validator`.
    pub(crate) fn start_watches(&self, own_namespace: &str, scope: &Scope) {
        let ready = scope.ready("sentry-kubernetes-validator");
        let (pods, configurations) = (self.pods.clone(), self.configurations.clone());
        let (watcher, namespace) = (Watcher::paged(self.client.clone()), own_namespace.to_owned());
        let image_extension = self.image_extension;
        scope.spawn_until_cancelled("pods", async move {
            let view = |pod: &PodObject| pod_view(pod, image_extension);
            watch(watcher, ("Pod", pod_resource()), namespace, &pods, view).await;
        });
        let (watcher, namespace) = (Watcher::paged(self.client.clone()), own_namespace.to_owned());
        scope.spawn_until_cancelled("configurations", async move {
            let view = |object: &DynamicObject| trust_domain_of(object);
            let resource = ("Configuration", configuration_resource());
            watch(watcher, resource, namespace, &configurations, view).await;
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

    /// Waits for the caches, at most one second.
    ///
    /// # Errors
    /// [`AuthnError::NotReady`] if they are not filled by then.
    pub(crate) async fn wait_synced(&self) -> Result<(), AuthnError> {
        let both = async {
            self.pods.synced().await;
            self.configurations.synced().await;
        };
        tokio::time::timeout(SYNC_TIMEOUT, both).await.map_err(|_| AuthnError::NotReady)
    }

    /// Reviews a token; concurrent and repeated reviews are shared.
    ///
    /// # Errors
    /// [`AuthnError::Refused`] if it is rejected, [`AuthnError::ApiUnavailable`] if the API server
    /// fails.
    pub(crate) async fn review(
        &self,
        token: &str,
        audiences: &[String; 2],
    ) -> Result<Arc<TokenOwner>, AuthnError> {
        let send = || {
            let (this, token, audiences) = (self.clone(), token.to_owned(), audiences.to_vec());
            async move { this.send_review(token, audiences).await }.boxed()
        };
        self.reviews.review(token, send).await.map_err(|failure| match failure {
            ReviewFailure::Refused(refusal) => AuthnError::Refused(refusal),
            ReviewFailure::Unavailable(cause) => AuthnError::ApiUnavailable(cause),
        })
    }

    async fn send_review(&self, token: String, audiences: Vec<String>) -> ReviewResult {
        let spec = TokenReviewSpec { token: Some(token), audiences: Some(audiences) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &review).await {
            Ok(answer) => {
                let (status, spec) = (answer.status.unwrap_or_default(), &review.spec);
                let token = spec.token.as_deref().unwrap_or_default();
                let audiences = spec.audiences.as_deref().unwrap_or_default();
                TokenOwner::from_review(&status, token, audiences)
                    .map(Arc::new)
                    .map_err(ReviewFailure::Refused)
            }
            // The TokenReview itself is invalid.
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 413 | 422) => {
                Err(ReviewFailure::Refused(Refusal::ReviewFailed(status.message.clone())))
            }
            Err(e) => Err(ReviewFailure::Unavailable(format!("token review: {}", api_text(&e)))),
        }
    }

    /// The pod of a token: from the cache, or by a GET if the watch has not seen it yet.
    ///
    /// # Errors
    /// [`Refusal::NoPod`] if it does not exist, [`AuthnError::ApiUnavailable`] if the API server
    /// fails.
    pub(crate) async fn pod(&self, owner: &TokenOwner) -> Result<PodView, AuthnError> {
        let cached = self.pods.get(&owner.namespace, &owner.pod);
        if let Some(pod) = cached.filter(|pod| owner.is_bound_to(pod)) {
            return Ok(pod);
        }
        let api: Api<PodObject> =
            Api::namespaced_with(self.client.clone(), &owner.namespace, &pod_resource());
        let found = get(&api, &owner.pod).await?;
        let pod = found.map(|object| pod_view(&object, self.image_extension));
        Ok(pod.filter(|pod| owner.is_bound_to(pod)).ok_or(Refusal::NoPod)?)
    }

    /// The trust domain that a Configuration names.
    ///
    /// # Errors
    /// [`Refusal::NoConfiguration`] if it does not exist, [`AuthnError::ApiUnavailable`] if the API
    /// server fails.
    pub(crate) async fn trust_domain(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<String>, AuthnError> {
        if let Some(cached) = self.configurations.get(namespace, name) {
            return Ok(cached);
        }
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &configuration_resource());
        let found = get(&api, name).await?;
        let missing =
            || Refusal::NoConfiguration { namespace: namespace.to_owned(), name: name.to_owned() };
        Ok(found.map(|object| trust_domain_of(&object)).ok_or_else(missing)?)
    }
}

fn pod_resource() -> ApiResource {
    ApiResource::erase::<Pod>(&())
}

fn configuration_resource() -> ApiResource {
    ApiResource::erase::<resources::Configuration>(&())
}

fn pod_view(pod: &PodObject, image_extension: ImageExtension) -> PodView {
    let none = std::collections::BTreeMap::new();
    let view = PodView::new(
        pod.metadata.uid.as_deref().unwrap_or_default(),
        &pod.spec.service_account_name,
        pod.metadata.annotations.as_ref().unwrap_or(&none),
    );
    let images = (image_extension == ImageExtension::Enabled).then(|| container_images(pod));
    PodView { container_images: images.flatten(), ..view }
}

fn container_images(pod: &PodObject) -> Option<ContainerImages> {
    let status = pod.status.as_ref();
    ContainerImages::new(PodContainers {
        init: &pod.spec.init_containers,
        regular: &pod.spec.containers,
        init_statuses: status.map_or(&[], |status| &status.init_container_statuses),
        statuses: status.map_or(&[], |status| &status.container_statuses),
    })
}

fn trust_domain_of(configuration: &DynamicObject) -> Option<String> {
    let named = configuration.data.pointer("/spec/accessControl/trustDomain")?.as_str()?;
    (!named.is_empty()).then(|| named.to_owned())
}

/// Gets one object; an object that RBAC hides counts as missing.
async fn get<K>(api: &Api<K>, name: &str) -> Result<Option<K>, AuthnError>
where
    K: Clone + DeserializeOwned + Debug,
{
    match api.get_opt(name).await {
        Ok(found) => Ok(found),
        Err(kube::Error::Api(status)) if matches!(status.code, FORBIDDEN | NOT_FOUND) => Ok(None),
        // The name is not a valid object name.
        Err(kube::Error::Api(status)) if status.code == 400 => Ok(None),
        Err(e) => Err(AuthnError::ApiUnavailable(api_text(&e))),
    }
}

/// Fills a cache from a watch of all namespaces, or of sentry's own one while RBAC allows no more
/// (`global.rbac.namespaced`). Never returns.
async fn watch<K, V>(
    watcher: Watcher,
    (kind, resource): (&'static str, ApiResource),
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
    V: Clone + PartialEq,
{
    let keyed = |object: K| (key_of(object.meta()), view(&object));
    let options = WatchOptions::new(kind);
    loop {
        let everywhere = resource.clone();
        let all = move |client| Api::all_with(client, &everywhere);
        let mut events = pin!(watcher.watch::<K, _>(options.clone(), all));
        let mut listed = false;
        while let Some(event) = events.next().await {
            listed |= matches!(event, WatchEvent::InitDone);
            // A right that is withdrawn later may be granted again.
            if !listed && is_forbidden(&event) {
                tracing::info!(target: "dapr.sentry.identity.kubernetes", resource = resource.plural,
                    "not allowed to list all namespaces; watching the own namespace only");
                break;
            }
            cache.apply(event.map(keyed));
        }
        let (of_own, namespace) = (resource.clone(), own_namespace.clone());
        let own = move |client| Api::namespaced_with(client, &namespace, &of_own);
        let mut events = pin!(watcher.watch::<K, _>(options.clone(), own));
        let everywhere: Api<K> = Api::all_with(watcher.client(), &resource);
        let one = ListParams::default().limit(1);
        let watch = async {
            while let Some(event) = events.next().await {
                cache.apply(event.map(keyed));
            }
        };
        tokio::select! {
            () = watch => {}
            () = kubernetes::wait_until_allowed(|| everywhere.list_metadata(&one)) => {}
        }
    }
}

fn is_forbidden<T>(event: &WatchEvent<T>) -> bool {
    let forbidden = FailureKind::Forbidden(Verb::List);
    matches!(event, WatchEvent::Failed(failure) if failure.kind == forbidden)
}

fn key_of(metadata: &ObjectMeta) -> String {
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    cache::key(&text(&metadata.namespace), &text(&metadata.name))
}
