//! The app ids of workloads that have no pods: scaled to zero, or started by a schedule.
use std::collections::BTreeSet;

use kube::core::DynamicObject;
use resources::annotations::ANNOTATION_APP_ID;
use resources::labels::LABEL_APP_ID;

/// Group, version, kind and plural of objects with a pod template, and of pods. A Knative revision
/// has a Deployment.
pub(super) const KINDS: [(&str, &str, &str, &str); 8] = [
    ("apps", "v1", "Deployment", "deployments"),
    ("apps", "v1", "StatefulSet", "statefulsets"),
    ("apps", "v1", "DaemonSet", "daemonsets"),
    ("batch", "v1", "Job", "jobs"),
    ("batch", "v1", "CronJob", "cronjobs"),
    ("argoproj.io", "v1alpha1", "Rollout", "rollouts"),
    ("keda.sh", "v1alpha1", "ScaledJob", "scaledjobs"),
    ("", "v1", "Pod", "pods"),
];

/// JSON pointers to pod templates; the object itself is another.
const TEMPLATES: [&str; 3] =
    ["/spec/template", "/spec/jobTemplate/spec/template", "/spec/jobTargetRef/template"];

/// The app ids of an object and its pod template, whether or not they request a sidecar: a shared
/// daprd is a container of its own.
pub(super) fn app_ids(object: &DynamicObject) -> BTreeSet<String> {
    let metadata = &object.metadata;
    let own = metadata
        .annotations
        .iter()
        .filter_map(|all| all.get(ANNOTATION_APP_ID))
        .chain(metadata.labels.iter().filter_map(|all| all.get(LABEL_APP_ID)));
    let template = TEMPLATES.iter().filter_map(|path| object.data.pointer(path));
    let named = template.flat_map(|template| {
        let member = |map: &str, key: &str| {
            let value = template.get("metadata")?.get(map)?.get(key)?;
            value.as_str().map(str::to_owned)
        };
        [member("annotations", ANNOTATION_APP_ID), member("labels", LABEL_APP_ID)]
    });
    own.cloned().chain(named.flatten()).filter(|id| !id.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const CASE: &str =
        include_str!("../../../tests/fixtures/cases/12-scope-of-apps-without-pods/all.yaml");

    #[test]
    fn case_12_every_workload_of_the_scopes_is_known() {
        let objects: Vec<Value> = serde_saphyr::from_multiple(CASE).unwrap();
        let ids = |object: &Value| app_ids(&serde_json::from_value(object.clone()).unwrap());
        let found: BTreeSet<_> = objects.iter().skip(1).flat_map(ids).collect();
        let scopes: BTreeSet<String> =
            serde_json::from_value(objects[0]["scopes"].clone()).unwrap();
        assert_eq!(found, scopes);
    }

    #[test]
    fn app_ids_are_found_in_each_kind_of_template() {
        let annotated = serde_json::json!({"metadata": {"annotations": {"dapr.io/app-id": "a"}}});
        for spec in [
            serde_json::json!({"template": annotated}),
            serde_json::json!({"jobTemplate": {"spec": {"template": annotated}}}),
            serde_json::json!({"jobTargetRef": {"template": annotated}}),
        ] {
            let object = serde_json::json!({"metadata": {"name": "w"}, "spec": spec});
            let ids = app_ids(&serde_json::from_value(object).unwrap());
            assert_eq!(ids, ["a".to_owned()].into());
        }
        let pod = serde_json::json!({"metadata": {"labels": {"dapr.io/app-id": "b"}}, "spec": {}});
        assert_eq!(app_ids(&serde_json::from_value(pod).unwrap()), ["b".to_owned()].into());
        let none = serde_json::json!({"metadata": {"name": "w"}, "spec": {"template": {}}});
        assert!(app_ids(&serde_json::from_value(none).unwrap()).is_empty());
    }
}
