//! The facts about a cluster that the checks evaluate. `answers` is what sidecars say.

pub(crate) mod answers;

use std::collections::BTreeMap;

use identity::stored::Stored;
use jiff::Timestamp;
use resources::images::tag;
use serde::Serialize;
use serde_json::Value;

use self::answers::{Answers, Ask};
use crate::pods::Pod;

/// The set of checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Checks of a cluster before the installation.
    PreInstall,
    /// Checks of an installation.
    Installed(Ask),
}

/// A value, or why it could not be read.
pub(crate) type Fact<T> = Result<T, ReadError>;

/// Why a value could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReadError {
    /// The caller lacks the right.
    #[error("cannot {0}: you lack the right")]
    Forbidden(String),
    /// The call failed.
    #[error("cannot {doing}: {said}")]
    Failed {
        /// The operation.
        doing: String,
        /// The answer or the error.
        said: String,
    },
}

impl ReadError {
    /// How to make the value readable.
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::Forbidden(_) => {
                "run the check as a user with this right, or request it; other checks do not depend on it"
            }
            Self::Failed { .. } => {
                "run the check again; if the error persists, check the API server and the network path to it"
            }
        }
    }
}

/// A right in RBAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Right {
    pub(crate) verb: &'static str,
    /// API group; empty for the core group.
    pub(crate) group: &'static str,
    /// Plural of the kind.
    pub(crate) resource: &'static str,
    /// Name of an object; empty for all.
    pub(crate) name: &'static str,
    /// Whether the right is needed in the control plane's namespace or in the whole cluster.
    pub(crate) namespaced: bool,
}

/// The rights of a `ServiceAccount` of the control plane.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) name: &'static str,
    /// Each right, and whether the account has it.
    pub(crate) rights: Vec<(Right, Fact<bool>)>,
}

/// The result of creating a pod that requests a sidecar, as a dry run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Probe {
    /// The pod got a sidecar with this image.
    Injected(String),
    /// The pod got no sidecar.
    WithoutSidecar {
        /// Whether it was created as a workload controller, which is always allowed to inject.
        as_controller: bool,
    },
    /// Admission rejected the pod with this message.
    Denied(String),
}

/// The product that is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Distribution {
    /// Trilby.
    Trilby,
    /// Dapr's own control plane.
    Dapr,
    /// None, or not readable.
    None,
}

/// The CA in the Secret and the `ConfigMap`.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    /// Content of the Secret. `Debug` prints no key.
    pub(crate) stored: Fact<Option<Stored>>,
    /// Trust anchors in the `ConfigMap`; `None` if it does not exist.
    pub(crate) published: Fact<Option<String>>,
    /// Stage of a running rotation.
    pub(crate) rotation: Option<String>,
}

/// Facts outside the control plane's namespace. Objects are untyped, so that unknown members are
/// harmless.
#[derive(Debug, Clone)]
pub(crate) struct ClusterWide {
    /// Served API versions, for example `apps/v1`.
    pub(crate) groups: Fact<Vec<String>>,
    pub(crate) nodes: Fact<Vec<Value>>,
    /// Leases of kubelets.
    pub(crate) heartbeats: Fact<Vec<Value>>,
    pub(crate) storage_classes: Fact<Vec<Value>>,
    /// Labels of Namespaces, by name.
    pub(crate) namespaces: Fact<BTreeMap<String, BTreeMap<String, String>>>,
    /// The webhook configuration of the injector.
    pub(crate) webhook: Fact<Option<Value>>,
    /// Actions of admission policies, by name; `None` for a policy without binding.
    pub(crate) policies: Fact<BTreeMap<String, Option<Vec<String>>>>,
    pub(crate) pods: Fact<Vec<Pod>>,
    pub(crate) components: Fact<Vec<Value>>,
    /// Warning Events on Components.
    pub(crate) events: Fact<Vec<Value>>,
}

/// Facts in the control plane's namespace.
#[derive(Debug, Clone)]
pub(crate) struct NamespaceFacts {
    /// Deployments and StatefulSets.
    pub(crate) workloads: Fact<Vec<Value>>,
    pub(crate) services: Fact<Vec<Value>>,
    /// Addresses of the Services.
    pub(crate) endpoint_slices: Fact<Vec<Value>>,
    pub(crate) leases: Fact<Vec<Value>>,
    /// Volume claims.
    pub(crate) claims: Fact<Vec<Value>>,
    /// The Configuration of the control plane.
    pub(crate) configuration: Fact<Option<Value>>,
}

/// The results of access reviews and dry runs.
#[derive(Debug, Clone)]
pub(crate) enum Queries {
    /// Before the installation: the rights of the caller that it needs.
    PreInstall(Vec<(Right, Fact<bool>)>),
    /// Of an installation.
    Installed {
        /// Rights of the accounts of the control plane.
        accounts: Vec<Account>,
        /// Result of creating a Subscription of the old version as a dry run.
        conversion: Fact<Result<(), String>>,
        /// Result of the probe pod.
        probe: Fact<Probe>,
    },
}

/// The facts about a cluster whose API server answers.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Namespace of the control plane.
    pub(crate) namespace: String,
    /// Time of this machine.
    pub(crate) here: Timestamp,
    /// Version of the API server.
    pub(crate) version: Value,
    /// Time of the API server in whole seconds.
    pub(crate) there: Option<Timestamp>,
    pub(crate) cluster: ClusterWide,
    pub(crate) own: NamespaceFacts,
    pub(crate) trust: Trust,
    /// The custom resource definitions, by name.
    pub(crate) definitions: BTreeMap<String, Fact<Option<Value>>>,
    pub(crate) queries: Queries,
    /// Answers of sidecars; `None` if none was to be asked.
    pub(crate) answers: Option<Answers>,
}

impl Facts {
    /// Time of the API server, for the validity of certificates; of this machine if unknown.
    pub(crate) fn now(&self) -> Timestamp {
        self.there.unwrap_or(self.here)
    }

    /// A Deployment or `StatefulSet` of the control plane.
    pub(crate) fn workload(&self, name: &str) -> Option<&Value> {
        named(self.own.workloads.as_deref().unwrap_or_default(), name)
    }

    /// The installed product. Only Trilby declares the port of the operator's webhook (Dapr 1.18.3,
    /// chart).
    pub(crate) fn distribution(&self) -> Distribution {
        let Some(operator) = self.workload("dapr-operator") else { return Distribution::None };
        let ports = operator.pointer("/spec/template/spec/containers/0/ports");
        let ports = ports.and_then(Value::as_array).into_iter().flatten();
        let is_webhook = |port: &Value| port.get("name").and_then(Value::as_str) == Some("webhook");
        if ports.into_iter().any(is_webhook) { Distribution::Trilby } else { Distribution::Dapr }
    }

    /// Image of a workload.
    pub(crate) fn image_of(&self, workload: &str) -> Option<&str> {
        let image = self.workload(workload)?.pointer("/spec/template/spec/containers/0/image");
        image.and_then(Value::as_str)
    }

    /// Version of a workload: the tag of its image (Dapr 1.18, CLI).
    pub(crate) fn version_of(&self, workload: &str) -> Option<String> {
        let version = tag(self.image_of(workload)?);
        (!version.is_empty()).then(|| version.to_owned())
    }

    /// Value of a flag of a workload.
    pub(crate) fn argument(&self, workload: &str, flag: &str) -> Option<String> {
        argument(self.workload(workload)?, flag)
    }
}

/// The object with this name.
pub(crate) fn named<'a>(objects: &'a [Value], name: &str) -> Option<&'a Value> {
    let is_it = |o: &&Value| o.pointer("/metadata/name").and_then(Value::as_str) == Some(name);
    objects.iter().find(is_it)
}

/// Value of `--flag value` or `--flag=value` in the first container of a workload.
pub(crate) fn argument(workload: &Value, flag: &str) -> Option<String> {
    let args = workload.pointer("/spec/template/spec/containers/0/args")?.as_array()?;
    let mut words = args.iter().filter_map(Value::as_str);
    while let Some(word) = words.next() {
        if word == flag {
            return words.next().map(str::to_owned);
        }
        if let Some(value) = word.strip_prefix(flag).and_then(|rest| rest.strip_prefix('=')) {
            return Some(value.to_owned());
        }
    }
    None
}
