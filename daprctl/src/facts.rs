//! What was read of a cluster. Values only; no decision is made here.

use std::collections::BTreeMap;

use identity::stored::Stored;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::pods::{Pod, tag};

/// Something that was read, or why it was not.
pub type Fact<T> = Result<T, Unread>;

/// Why something is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// The caller may not do it.
    #[error("cannot {0}: you are not allowed to")]
    Forbidden(String),
    /// The API server did not answer, or not as it should.
    #[error("cannot {doing}: {said}")]
    Failed {
        /// What was tried.
        doing: String,
        /// What came of it.
        said: String,
    },
}

impl Unread {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Forbidden(_) => {
                "run the check with a user that has this right, or ask for it; nothing else depends on it"
            }
            Self::Failed { .. } => {
                "try again; if it stays, look at the API server and the way to it"
            }
        }
    }
}

/// Something that somebody may or may not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    /// API verb.
    pub verb: &'static str,
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Plural of the kind.
    pub resource: &'static str,
    /// One object, or all.
    pub name: &'static str,
    /// Whether it is asked for the control plane's namespace, or for the whole cluster.
    pub namespaced: bool,
}

/// An account of the control plane and what it may do.
#[derive(Debug, Clone)]
pub struct Account {
    /// Name of the `ServiceAccount`.
    pub name: &'static str,
    /// Each right, and whether it has it.
    pub rights: Vec<(Right, Fact<bool>)>,
}

/// What became of a pod that asks for a sidecar and was offered as a dry run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// It got its sidecar, of this image.
    Injected(String),
    /// It came back as it was sent.
    Naked {
        /// Whether it was offered as by a controller of workloads, whose pods always count.
        as_controller: bool,
    },
    /// Admission refused it with these words.
    Denied(String),
}

/// Whose control plane it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavour {
    /// This one.
    Trilby,
    /// The reference.
    Dapr,
    /// There is none, or it cannot be seen.
    None,
}

/// The CA: what the Secret and the `ConfigMap` hold.
#[derive(Debug, Clone)]
pub struct Trust {
    /// The Secret. Prints no key.
    pub stored: Fact<Option<Stored>>,
    /// The anchors in the `ConfigMap`; `None` without the object.
    pub published: Fact<Option<String>>,
    /// The stage of a rotation under way.
    pub rotation: Option<String>,
}

/// What is not in the control plane's namespace, or not only there. Objects are untyped, so that
/// members newer than our types do no harm.
#[derive(Debug, Clone)]
pub struct ClusterWide {
    /// Served groups, as `apps/v1`.
    pub groups: Fact<Vec<String>>,
    /// Nodes.
    pub nodes: Fact<Vec<Value>>,
    /// The Leases by which kubelets say that they live.
    pub heartbeats: Fact<Vec<Value>>,
    /// Storage classes.
    pub storage_classes: Fact<Vec<Value>>,
    /// Namespaces and their labels.
    pub namespaces: Fact<BTreeMap<String, BTreeMap<String, String>>>,
    /// The registration of the injector's webhook.
    pub webhook: Fact<Option<Value>>,
    /// Admission policies and what they do, by name; `None` for one without binding.
    pub policies: Fact<BTreeMap<String, Option<Vec<String>>>>,
    /// All pods.
    pub pods: Fact<Vec<Pod>>,
    /// Components.
    pub components: Fact<Vec<Value>>,
    /// Warning Events on Components.
    pub events: Fact<Vec<Value>>,
}

/// What is in the control plane's namespace.
#[derive(Debug, Clone)]
pub struct Own {
    /// Deployments and StatefulSets.
    pub workloads: Fact<Vec<Value>>,
    /// Services.
    pub services: Fact<Vec<Value>>,
    /// Their addresses.
    pub endpoint_slices: Fact<Vec<Value>>,
    /// Leases.
    pub leases: Fact<Vec<Value>>,
    /// Volume claims.
    pub claims: Fact<Vec<Value>>,
    /// The Configuration of the control plane.
    pub configuration: Fact<Option<Value>>,
}

/// What cannot be read but has to be asked for.
#[derive(Debug, Clone)]
pub enum Asked {
    /// Before an installation: what it needs the caller to be allowed.
    Before(Vec<(Right, Fact<bool>)>),
    /// After it.
    After {
        /// The accounts of the control plane.
        accounts: Vec<Account>,
        /// A Subscription of the old version, offered as a dry run; what was wrong with it.
        conversion: Fact<Result<(), String>>,
        /// The probe pod.
        probe: Fact<Probe>,
    },
}

/// Everything that is known of a cluster whose API server answers.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Namespace of the control plane.
    pub namespace: String,
    /// This machine's clock.
    pub here: Timestamp,
    /// The API server's version.
    pub version: Value,
    /// The API server's clock, whole seconds.
    pub there: Option<Timestamp>,
    /// Outside of the namespace, or not only in it.
    pub cluster: ClusterWide,
    /// In the namespace.
    pub own: Own,
    /// The CA.
    pub trust: Trust,
    /// The custom resource definitions, by name.
    pub definitions: BTreeMap<String, Fact<Option<Value>>>,
    /// Asked for.
    pub asked: Asked,
}

impl Facts {
    /// The API server's clock, by which certificates are judged; this machine's if unknown.
    pub fn now(&self) -> Timestamp {
        self.there.unwrap_or(self.here)
    }

    /// A Deployment or `StatefulSet` of the control plane.
    pub fn workload(&self, name: &str) -> Option<&Value> {
        named(self.own.workloads.as_deref().unwrap_or_default(), name)
    }

    /// Whose control plane it is: only ours declares the port of the operator's webhook, which
    /// firewalls have to know (Dapr 1.18.3, chart).
    pub fn flavour(&self) -> Flavour {
        let Some(operator) = self.workload("dapr-operator") else { return Flavour::None };
        let ports = operator.pointer("/spec/template/spec/containers/0/ports");
        let ports = ports.and_then(Value::as_array).into_iter().flatten();
        let is_webhook = |port: &Value| port.get("name").and_then(Value::as_str) == Some("webhook");
        if ports.into_iter().any(is_webhook) { Flavour::Trilby } else { Flavour::Dapr }
    }

    /// The image of a workload.
    pub fn image_of(&self, workload: &str) -> Option<&str> {
        let image = self.workload(workload)?.pointer("/spec/template/spec/containers/0/image");
        image.and_then(Value::as_str)
    }

    /// The version of a workload: the tag of its image (Dapr 1.18, CLI).
    pub fn version_of(&self, workload: &str) -> Option<String> {
        let version = tag(self.image_of(workload)?);
        (!version.is_empty()).then(|| version.to_owned())
    }

    /// The value of a flag in the arguments of a workload's container.
    pub fn argument(&self, workload: &str, flag: &str) -> Option<String> {
        argument(self.workload(workload)?, flag)
    }
}

/// The object of that name.
pub(crate) fn named<'a>(objects: &'a [Value], name: &str) -> Option<&'a Value> {
    let is_it = |o: &&Value| o.pointer("/metadata/name").and_then(Value::as_str) == Some(name);
    objects.iter().find(is_it)
}

/// The value of `--flag value` or `--flag=value` in a workload's first container.
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
