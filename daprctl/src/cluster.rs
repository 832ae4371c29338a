//! Reads the facts about a cluster, each by a call of its own, concurrently.

mod connection;
mod dry_runs;
mod port_forward;
mod reader;
mod sidecars;

use std::collections::BTreeMap;

use futures::future::{join_all, try_join};
use http::HeaderMap;
use identity::stored::{PartNames, Stored};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use resources::annotations::ANNOTATION_ROTATION_STAGE;
use resources::{GROUP, names};
use runtime::clock;
use serde_json::{Value, json};

use crate::checks::{self, Report, rights};
use crate::definitions;
use crate::facts::answers::{self, Ask};
use crate::facts::{
    Account, ClusterWide, Fact, Facts, Mode, NamespaceFacts, Queries, ReadError, Right, Trust,
    argument, named,
};
use crate::pods::{Pod, strings, text};
pub use connection::ClusterFlags;
pub use port_forward::PortForwardError;
use reader::{DryRun, Reader};

/// Client of the API server.
pub(crate) struct Cluster {
    reader: Reader,
    namespace: String,
}

impl Cluster {
    /// `namespace` is that of the control plane.
    pub(crate) fn new(client: kube::Client, namespace: String) -> Self {
        Self { reader: Reader::new(client), namespace }
    }

    /// Calls by path.
    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Namespace of the control plane.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The report of the checks of this mode. An API server that does not answer is its one finding.
    pub(crate) async fn report(&self, mode: Mode) -> Report {
        match Box::pin(self.facts(mode)).await {
            Ok(facts) => Report::new(&facts, checks::findings(&facts)),
            Err(error) => Report::unreachable(&self.namespace, &error),
        }
    }

    /// Reads the facts for the checks of this mode.
    ///
    /// # Errors
    /// The API server does not answer the first call.
    async fn facts(&self, mode: Mode) -> Fact<Facts> {
        let (version, there) = self.reader.server().await?;
        let (cluster, own, definitions, queries) =
            tokio::join!(self.cluster_wide(), self.own(), self.definitions(), self.queries(mode));
        let trust = self.trust(own.workloads.as_deref().unwrap_or_default()).await;
        let answers = match mode {
            Mode::Installed(Ask::Sidecars) => {
                let pods = cluster.pods.as_deref().unwrap_or_default();
                Some(self.answers(answers::sample(pods, answers::MAX_ASKED)).await)
            }
            Mode::Installed(Ask::Nobody) | Mode::PreInstall => None,
        };
        Ok(Facts {
            namespace: self.namespace.clone(),
            here: clock::now(),
            version,
            there,
            cluster,
            own,
            trust,
            definitions,
            queries,
            answers,
        })
    }

    async fn cluster_wide(&self) -> ClusterWide {
        let reader = &self.reader;
        let hook = format!("{ADMISSION}/mutatingwebhookconfigurations/{WEBHOOK}");
        // Warnings of the operator about Components.
        let events =
            "/api/v1/events?fieldSelector=type%3DWarning%2CinvolvedObject.kind%3DComponent";
        let (
            groups,
            nodes,
            heartbeats,
            storage_classes,
            namespaces,
            webhook,
            policies,
            pods,
            components,
            events,
        ) = tokio::join!(
            reader.groups(),
            reader.list("list nodes", "/api/v1/nodes"),
            reader.list(
                "list leases in kube-node-lease",
                "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
            ),
            reader.list("list storageclasses", "/apis/storage.k8s.io/v1/storageclasses"),
            self.namespaces(),
            reader.get("get the webhook configuration of the injector", &hook),
            self.policies(),
            reader.list_as("list pods", "/api/v1/pods", |pod| Pod::read(&pod)),
            reader.list("list components", "/apis/dapr.io/v1alpha1/components"),
            reader.list("list events", events),
        );
        ClusterWide {
            groups,
            nodes,
            heartbeats,
            storage_classes,
            namespaces,
            webhook,
            policies,
            pods,
            components,
            events,
        }
    }

    /// Reads the control plane's namespace.
    async fn own(&self) -> NamespaceFacts {
        let namespace = &self.namespace;
        let list = |group: &str, plural: &str| {
            let doing = format!("list {plural} in {namespace}");
            let path = format!("{group}/namespaces/{namespace}/{plural}");
            async move { self.reader.list(&doing, &path).await }
        };
        let name = names::CONTROL_PLANE_CONFIGURATION;
        let configuration =
            format!("/apis/{GROUP}/v1alpha1/namespaces/{namespace}/configurations/{name}");
        let doing = format!("get Configuration {namespace}/{name}");
        let (deployments, sets, services, endpoint_slices, leases, claims, configuration) = tokio::join!(
            list("/apis/apps/v1", "deployments"),
            list("/apis/apps/v1", "statefulsets"),
            list("/api/v1", "services"),
            list("/apis/discovery.k8s.io/v1", "endpointslices"),
            list("/apis/coordination.k8s.io/v1", "leases"),
            list("/api/v1", "persistentvolumeclaims"),
            self.reader.get(&doing, &configuration),
        );
        let workloads = deployments.and_then(|mut all| {
            all.extend(sets?);
            Ok(all)
        });
        NamespaceFacts { workloads, services, endpoint_slices, leases, claims, configuration }
    }

    async fn namespaces(&self) -> Fact<BTreeMap<String, BTreeMap<String, String>>> {
        let read = |object: Value| {
            let name = text(object.pointer("/metadata/name"));
            (name, strings(object.pointer("/metadata/labels")))
        };
        let all = self.reader.list_as("list namespaces", "/api/v1/namespaces", read).await?;
        Ok(all.into_iter().collect())
    }

    async fn policies(&self) -> Fact<BTreeMap<String, Option<Vec<String>>>> {
        let list = |plural: &str| {
            let (doing, path) = (format!("list {plural}"), format!("{ADMISSION}/{plural}"));
            async move { self.reader.list(&doing, &path).await }
        };
        let both = (list("validatingadmissionpolicies"), list("validatingadmissionpolicybindings"));
        let (policies, bindings) = try_join(both.0, both.1).await?;
        let actions = |name: &str| {
            let binding = bindings.iter().find(|b| text(b.pointer("/spec/policyName")) == name)?;
            let actions = binding.pointer("/spec/validationActions")?.as_array()?;
            Some(actions.iter().map(|action| text(Some(action))).collect())
        };
        let named = policies.iter().map(|policy| text(policy.pointer("/metadata/name")));
        Ok(named.map(|name| (name.clone(), actions(&name))).collect())
    }

    async fn definitions(&self) -> BTreeMap<String, Fact<Option<Value>>> {
        let read = definitions::names().map(|name| async move {
            let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
            let doing = format!("get CustomResourceDefinition {name}");
            (name.to_owned(), self.reader.get(&doing, &path).await)
        });
        join_all(read).await.into_iter().collect()
    }

    /// Reads the CA. Flags of sentry set the keys in the Secret (Dapr 1.18).
    async fn trust(&self, workloads: &[Value]) -> Trust {
        let name = names::TRUST_BUNDLE;
        let path = |plural: &str| format!("/api/v1/namespaces/{}/{plural}/{name}", self.namespace);
        let doing = |kind: &str| format!("get {kind} {}/{name}", self.namespace);
        let (secret_path, map_path) = (path("secrets"), path("configmaps"));
        let (secret_doing, map_doing) = (doing("Secret"), doing("ConfigMap"));
        let (secret, map): (Fact<Option<Secret>>, Fact<Option<ConfigMap>>) = tokio::join!(
            self.reader.get(&secret_doing, &secret_path),
            self.reader.get(&map_doing, &map_path),
        );
        let sentry = named(workloads, "dapr-sentry");
        let key = |flag: &str, usual: &str| {
            let file = sentry.and_then(|sentry| argument(sentry, flag));
            file.map_or_else(
                || usual.to_owned(),
                |file| file.rsplit('/').next().unwrap_or(usual).to_owned(),
            )
        };
        let anchors = key("--issuer-ca-filename", names::KEY_TRUST_ANCHORS);
        let chain = key("--issuer-certificate-filename", names::KEY_ISSUER_CHAIN);
        let issuer_key = key("--issuer-key-filename", names::KEY_ISSUER_KEY);
        let mut rotation = None;
        let stored = secret.map(|secret| {
            let secret = secret?;
            let annotations = secret.metadata.annotations.unwrap_or_default();
            rotation = annotations.get(ANNOTATION_ROTATION_STAGE).cloned();
            let mut data = secret.data.unwrap_or_default();
            let mut part = |key: &str| data.remove(key).map(|value| value.0);
            let native = Stored::new(part(&anchors), part(&chain), part(&issuer_key));
            let tls = (part(names::KEY_TLS_CHAIN), part(names::KEY_TLS_KEY));
            let stored = native.or_cert_manager(tls.0, tls.1);
            let native = PartNames {
                object: Some(format!("Secret {}/{name}", self.namespace)),
                anchors: anchors.clone(),
                issuer_chain: chain.clone(),
                issuer_key: issuer_key.clone(),
            };
            let cert_manager = [names::KEY_TLS_CHAIN, names::KEY_TLS_KEY].map(str::to_owned);
            Some(stored.named(native, cert_manager))
        });
        let published = map.map(|map| {
            map.map(|map| map.data.unwrap_or_default().remove(&anchors).unwrap_or_default())
        });
        Trust { stored, published, rotation }
    }

    /// Access reviews and dry runs of this mode.
    async fn queries(&self, mode: Mode) -> Queries {
        match mode {
            Mode::PreInstall => {
                let rights = rights::INSTALLER.iter();
                let permissions =
                    rights.map(|right| async move { (*right, self.may(right, None).await) });
                Queries::PreInstall(join_all(permissions).await)
            }
            Mode::Installed(_) => {
                let accounts = rights::ACCOUNTS.iter().map(|(name, rights)| async move {
                    let rights = rights
                        .iter()
                        .map(|right| async move { (*right, self.may(right, Some(name)).await) });
                    Account { name, rights: join_all(rights).await }
                });
                let (accounts, conversion, probe) =
                    tokio::join!(join_all(accounts), self.convert(), self.probe());
                Queries::Installed { accounts, conversion, probe }
            }
        }
    }

    /// Whether an account of the control plane has a right; the caller without `account`.
    async fn may(&self, right: &Right, account: Option<&str>) -> Fact<bool> {
        let attributes = json!({
            "verb": right.verb, "group": right.group, "resource": right.resource,
            "name": right.name,
            "namespace": if right.namespaced { self.namespace.as_str() } else { "" },
        });
        let (kind, plural, spec) = match account {
            None => (
                "SelfSubjectAccessReview",
                "selfsubjectaccessreviews",
                json!({"resourceAttributes": attributes}),
            ),
            Some(account) => {
                let namespace = &self.namespace;
                let groups = [
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{namespace}"),
                    "system:authenticated".to_owned(),
                ];
                let user = format!("system:serviceaccount:{namespace}:{account}");
                (
                    "SubjectAccessReview",
                    "subjectaccessreviews",
                    json!({"resourceAttributes": attributes, "user": user, "groups": groups}),
                )
            }
        };
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec});
        let path = format!("/apis/authorization.k8s.io/v1/{plural}");
        let doing = format!("create {plural}");
        match self.reader.create(&doing, &path, &review, &HeaderMap::new()).await? {
            DryRun::Accepted(answer) => {
                Ok(answer.pointer("/status/allowed").and_then(Value::as_bool) == Some(true))
            }
            DryRun::Forbidden => Err(ReadError::Forbidden(doing)),
            DryRun::Rejected(said) => Err(ReadError::Failed { doing, said }),
        }
    }
}

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
const WEBHOOK: &str = names::WEBHOOK_CONFIGURATION;
