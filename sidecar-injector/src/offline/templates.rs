//! Finds objects, pods and pod templates in documents of any kind.

use serde_json::Value;

/// Depth of the search.
const MAX_DEPTH: usize = 16;
/// Kinds whose content can look like a pod.
const NO_WORKLOADS: [&str; 3] = ["CustomResourceDefinition", "ConfigMap", "Secret"];
/// API groups of policies and their reports, whose patterns look like pods. Subdomains are included.
const POLICY_GROUPS: [&str; 7] = [
    "kyverno.io",
    "gatekeeper.sh",
    "admissionregistration.k8s.io",
    "kubewarden.io",
    "jspolicy.com",
    "wgpolicyk8s.io",
    "openreports.io",
];

/// An object in a document: the document itself, an item of a List, or an object inside another one,
/// for example in a `ManifestWork` or a `Template`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectRef {
    /// Pointer (RFC 6901) to the object.
    pub(crate) pointer: String,
    /// Pointers to the objects that contain it, the innermost first.
    pub(crate) outer: Vec<String>,
}

/// A pod or pod template in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TemplateRef {
    /// Pointer to the pod or template.
    pub(crate) pointer: String,
    /// The innermost object that contains it.
    pub(crate) object: ObjectRef,
}

impl ObjectRef {
    /// The object that kubectl and kustomize handle: the outermost one.
    pub(crate) fn root(&self) -> &str {
        self.outer.last().unwrap_or(&self.pointer)
    }

    /// The namespace of the object, else of the innermost object around it that has one.
    pub(crate) fn namespace<'a>(&self, document: &'a Value) -> Option<&'a str> {
        let pointers = std::iter::once(&self.pointer).chain(&self.outer);
        let namespaces = pointers.filter_map(|pointer| {
            document.pointer(pointer)?.pointer("/metadata/namespace")?.as_str()
        });
        namespaces.into_iter().find(|name| !name.is_empty())
    }
}

/// The pods and templates of a document, in order.
pub(crate) fn find(document: &Value) -> Vec<TemplateRef> {
    visit(document).templates
}

/// The objects of a document, in order.
pub(crate) fn objects(document: &Value) -> Vec<ObjectRef> {
    visit(document).objects
}

#[derive(Default)]
struct Found {
    objects: Vec<ObjectRef>,
    templates: Vec<TemplateRef>,
}

fn visit(document: &Value) -> Found {
    let mut found = Found::default();
    let items = document.get("items").and_then(Value::as_array);
    match items.filter(|_| kind(document).ends_with("List")) {
        Some(items) => {
            for (index, item) in items.iter().enumerate() {
                found.object(item, format!("/items/{index}"), Vec::new(), 0);
            }
        }
        None => found.object(document, String::new(), Vec::new(), 0),
    }
    found
}

impl Found {
    fn object(&mut self, value: &Value, pointer: String, outer: Vec<String>, depth: usize) {
        let object = ObjectRef { pointer, outer };
        self.objects.push(object.clone());
        if kind(value) == "Pod" {
            let pointer = object.pointer.clone();
            self.templates.push(TemplateRef { pointer, object });
        } else if !NO_WORKLOADS.contains(&kind(value)) && !is_policy(value) {
            self.search(value, &object.pointer.clone(), &object, depth);
        }
    }

    fn search(&mut self, value: &Value, pointer: &str, object: &ObjectRef, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        let members: Vec<(String, &Value)> = match value {
            Value::Object(map) => map
                .iter()
                .map(|(key, value)| (key.replace('~', "~0").replace('/', "~1"), value))
                .collect(),
            Value::Array(items) => {
                items.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
            }
            _ => return,
        };
        for (key, value) in members {
            let pointer = format!("{pointer}/{key}");
            if is_object(value) {
                let outer = std::iter::once(&object.pointer).chain(&object.outer).cloned();
                self.object(value, pointer, outer.collect(), depth + 1);
            } else if is_template(value) {
                self.templates.push(TemplateRef { pointer, object: object.clone() });
            } else {
                self.search(value, &pointer, object, depth + 1);
            }
        }
    }
}

fn kind(value: &Value) -> &str {
    value.get("kind").and_then(Value::as_str).unwrap_or_default()
}

/// Whether a nested value is an object of the API. References have a kind, but no metadata.
fn is_object(value: &Value) -> bool {
    !kind(value).is_empty()
        && value.get("apiVersion").is_some_and(Value::is_string)
        && value.get("metadata").is_some_and(Value::is_object)
}

fn is_policy(object: &Value) -> bool {
    let version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let group = version.split_once('/').map_or("", |(group, _)| group);
    POLICY_GROUPS.iter().any(|policies| {
        group.strip_suffix(policies).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

/// Whether a value looks like a pod template: it has metadata and containers with names. A name with
/// a wildcard is a pattern.
fn is_template(value: &Value) -> bool {
    let containers = value.pointer("/spec/containers").and_then(Value::as_array);
    let name = |container: &Value| {
        let name = container.get("name").and_then(Value::as_str);
        name.is_some_and(|name| !name.contains(['*', '?']))
    };
    value.get("metadata").is_some_and(Value::is_object)
        && containers.is_some_and(|list| !list.is_empty() && list.iter().all(name))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn template() -> Value {
        json!({"metadata": {}, "spec": {"containers": [{"name": "a"}]}})
    }

    fn policy(version: &str) -> Value {
        json!({"apiVersion": version, "kind": "P", "spec": {"pattern": template()}})
    }

    #[rstest]
    #[case::pod(json!({"kind": "Pod", "spec": {}}), &[""])]
    #[case::deployment(json!({"kind": "Deployment", "spec": {"template": template()}}), &["/spec/template"])]
    #[case::cron(json!({"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": template()}}}}), &["/spec/jobTemplate/spec/template"])]
    #[case::unknown(json!({"kind": "Fleet", "spec": {"a/b": [{"template": template()}, {"template": template()}]}}), &["/spec/a~1b/0/template", "/spec/a~1b/1/template"])]
    #[case::list(json!({"kind": "List", "items": [{"kind": "Pod"}, {"kind": "Job", "spec": {"template": template()}}]}), &["/items/0", "/items/1/spec/template"])]
    #[case::no_pod(json!({"kind": "Service", "spec": {"ports": []}}), &[])]
    #[case::crd(json!({"kind": "CustomResourceDefinition", "spec": {"template": template()}}), &[])]
    #[case::own_shape(json!({"kind": "Collector", "metadata": {}, "spec": {"containers": [{"name": "a"}]}}), &[])]
    #[case::kyverno(policy("kyverno.io/v1"), &[])]
    #[case::kyverno_policies(policy("policies.kyverno.io/v1alpha1"), &[])]
    #[case::gatekeeper(policy("templates.gatekeeper.sh/v1"), &[])]
    #[case::gatekeeper_mutation(policy("mutations.gatekeeper.sh/v1"), &[])]
    #[case::kyverno_cel(policy("policies.kyverno.io/v1"), &[])]
    #[case::kubewarden(policy("policies.kubewarden.io/v1"), &[])]
    #[case::jspolicy(policy("policy.jspolicy.com/v1beta1"), &[])]
    #[case::report(policy("wgpolicyk8s.io/v1alpha2"), &[])]
    #[case::open_report(policy("openreports.io/v1alpha1"), &[])]
    #[case::admission_policy(policy("admissionregistration.k8s.io/v1"), &[])]
    #[case::similar_group(policy("notkyverno.io/v1"), &["/spec/pattern"])]
    #[case::pattern(json!({"kind": "X", "pattern": {"metadata": {}, "spec": {"containers": [{"name": "*"}]}}}), &[])]
    #[case::null(Value::Null, &[])]
    fn finds_pods_in_objects_of_any_kind(#[case] document: Value, #[case] want: &[&str]) {
        let found: Vec<String> = find(&document).into_iter().map(|f| f.pointer).collect();
        assert_eq!(found, want);
    }

    #[rstest]
    #[case::own(Some("inner"), Some("outer"), Some("inner"))]
    #[case::of_the_outer_object(None, Some("outer"), Some("outer"))]
    #[case::none(None, None, None)]
    fn a_nested_object_has_the_nearest_namespace(
        #[case] inner: Option<&str>,
        #[case] outer: Option<&str>,
        #[case] want: Option<&str>,
    ) {
        let document = json!({
            "apiVersion": "work.open-cluster-management.io/v1", "kind": "ManifestWork",
            "metadata": {"namespace": outer},
            "spec": {"workload": {"manifests": [{
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": inner},
                "spec": {"template": template()},
            }]}},
        });
        let found = find(&document);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].object.pointer, "/spec/workload/manifests/0");
        assert_eq!(found[0].object.root(), "");
        assert_eq!(found[0].object.namespace(&document), want);
        assert_eq!(objects(&document).len(), 2);
    }
}
