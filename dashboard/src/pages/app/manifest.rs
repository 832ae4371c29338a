//! A pod in the form of the API: what is stored of it. Pure.

use serde_json::{Value, json};

use crate::model::pod::{Container, Pod};

/// The pod without what is not stored, because it may hold a secret: environment, arguments, volumes
/// and other annotations than those of `dapr.io`.
pub(super) fn manifest(pod: &Pod) -> Value {
    let containers = pod.containers.iter();
    let specs = containers.clone().map(|own| json!({"name": own.name, "image": own.image}));
    let mut metadata = json!({"name": pod.name, "namespace": pod.namespace,
        "annotations": pod.annotations});
    let created = pod.created.map(|at| at.to_string());
    insert(&mut metadata, "creationTimestamp", created.map(Value::from));
    let mut status = json!({"phase": pod.phase});
    insert(&mut status, "podIP", pod.address.map(|address| address.to_string().into()));
    insert(&mut status, "containerStatuses", Some(containers.map(container_status).collect()));
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "serviceAccountName": pod.service_account,
            "containers": specs.collect::<Vec<_>>(),
        },
        "status": status,
    })
}

fn container_status(own: &Container) -> Value {
    let mut status = json!({"name": own.name, "ready": own.is_ready, "restartCount": own.restarts});
    let waiting = own.waiting.as_ref().map(|reason| json!({"waiting": {"reason": reason}}));
    insert(&mut status, "state", waiting);
    status
}

/// Adds a member that may be absent.
fn insert(object: &mut Value, name: &str, value: Option<Value>) {
    if let (Some(members), Some(value)) = (object.as_object_mut(), value) {
        members.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_of_a_pod_has_the_form_of_the_api() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "cart-0", "namespace": "shop",
                "annotations": {"dapr.io/enabled": "true"},
                "creationTimestamp": "2026-11-01T10:00:00Z"},
            "spec": {"serviceAccountName": "cart",
                "containers": [{"name": "app", "image": "cart:2"}, {"name": "daprd", "image": "d:1"}]},
            "status": {"phase": "Running", "podIP": "10.0.0.4", "containerStatuses": [
                {"name": "app", "ready": true, "restartCount": 0},
                {"name": "daprd", "ready": false, "restartCount": 3,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
        });
        assert_eq!(manifest(&Pod::read(&pod).unwrap()), pod);
        let mut more = pod.clone();
        more["metadata"]["annotations"]["other"] = json!("a secret");
        more["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "a secret"}]);
        assert_eq!(manifest(&Pod::read(&more).unwrap()), pod);
    }
}
