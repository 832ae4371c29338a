//! State that must be equal before and after the control plane is replaced.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use blackbox::demo::{CONTROL_PLANE, Demo};
use serde_json::Value;

/// Objects of users, and of the operator, by plural names.
const RESOURCES: &str = "components.dapr.io,configurations.dapr.io,subscriptions.dapr.io,services";

/// That state of a cluster.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Data of Secret and ConfigMap `dapr-trust-bundle`.
    trust: [Value; 2],
    /// By kind and name: uid and specification of each custom resource, and of each Service except
    /// the control plane's.
    resources: BTreeMap<String, (String, Value)>,
    /// By pod of the sample: its uid, and the number of restarts of its containers.
    pods: BTreeMap<String, (String, i64)>,
}

impl Snapshot {
    pub(crate) fn take(demo: &Demo) -> Result<Self> {
        let data = |kind: &str| -> Result<Value> {
            let object = demo.cluster().get(&["-n", CONTROL_PLANE, kind, "dapr-trust-bundle"])?;
            Ok(object["data"].clone())
        };
        let list = demo.cluster().get(&["--all-namespaces", RESOURCES])?;
        let is_kept = |object: &&Value| {
            object["kind"] != "Service" || object["metadata"]["namespace"] != CONTROL_PLANE
        };
        let resource = |object: &Value| {
            let mut spec = object.get("spec").cloned().unwrap_or_default();
            // Dapr sets it since 1.19, so one side adds it and the other removes it.
            let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
            for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
                port.remove("appProtocol");
            }
            (key(object), (text(&object["metadata"]["uid"]), spec))
        };
        let pods = demo.cluster().get(&["-n", "hello", "pods"])?;
        let pod = |pod: &Value| {
            let restarts = array(&pod["status"]["containerStatuses"])
                .filter_map(|status| status["restartCount"].as_i64())
                .sum();
            (key(pod), (text(&pod["metadata"]["uid"]), restarts))
        };
        Ok(Self {
            trust: [data("secret")?, data("configmap")?],
            resources: array(&list["items"]).filter(is_kept).map(resource).collect(),
            pods: array(&pods["items"]).map(pod).collect(),
        })
    }

    /// Checks that `after` has the same CA, custom resources and running pods. Keys that
    /// the other sentry adds to the trust bundle are ignored.
    pub(crate) fn is_kept_in(&self, after: &Self) -> Result<()> {
        for (before, after) in self.trust.iter().zip(&after.trust) {
            let before = before.as_object().context("there was no trust bundle")?;
            ensure!(before.contains_key("ca.crt"), "there was no CA");
            for (name, bytes) in before {
                ensure!(after.get(name) == Some(bytes), "{name} of the trust bundle has changed");
            }
        }
        for (name, (uid, spec)) in &self.resources {
            let (uid_now, spec_now) =
                after.resources.get(name).with_context(|| format!("{name} is gone"))?;
            ensure!(uid == uid_now, "{name} was created again");
            ensure!(spec == spec_now, "{name} was {spec}, is {spec_now}");
        }
        ensure!(self.pods == after.pods, "pods were {:?}, are {:?}", self.pods, after.pods);
        Ok(())
    }
}

fn key(object: &Value) -> String {
    let (kind, metadata) = (text(&object["kind"]), &object["metadata"]);
    format!("{kind} {}/{}", text(&metadata["namespace"]), text(&metadata["name"]))
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
