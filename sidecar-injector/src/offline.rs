//! Injection into manifests, without a cluster, by the same core as the webhook.
//!
//! Start at [`Offline::inject`]. It edits the text of the manifests in place (`edit`), so that a
//! `diff` shows only the sidecar. An injected template has the label of the injector, so the webhook
//! of a cluster does not inject its pods again.

mod command;
mod control_plane;
mod documents;
mod edit;
mod emit;
mod misplaced;
mod templates;
mod tree;
mod yaml;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use resources::annotations::{ANNOTATION_COMPONENT_CONTAINER, PREFIX};
use serde_json::{Value, json};

pub use command::{Command, CommandError, lint, run};

use crate::pod::{NamespacePolicy, PodView, quoted};
use crate::sidecar::{
    Change, ComponentContainer, InjectionContext, Platform, Settings, SkipReason, mutate,
};
use templates::{ObjectRef, TemplateRef};

/// Settings and cluster state for manifests.
#[derive(Debug)]
pub struct Offline<'a> {
    /// Settings of sidecars.
    pub settings: &'a Settings,
    /// PEM bundle for the environment variable `DAPR_TRUST_ANCHORS`.
    pub trust_anchors: &'a str,
    /// Whether sidecars use mTLS.
    pub mtls_enabled: bool,
    /// Namespace of objects without one.
    pub namespace: Option<&'a str>,
}

/// A file or standard input.
#[derive(Debug, Clone)]
pub struct Source {
    /// Name for messages: the path, or `-`.
    pub name: String,
    /// YAML or JSON, one or more documents.
    pub text: String,
}

/// The result for a pod or pod template, with its object.
#[derive(Debug, Clone, PartialEq)]
pub struct Remark {
    /// For example `app.yaml: Deployment shop/web`.
    pub subject: String,
    /// Injected, unchanged or failed.
    pub result: PodResult,
    /// The warnings that `kubectl` would print.
    pub warnings: Vec<String>,
}

/// What injection does to a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum PodResult {
    /// The sidecar was added.
    Injected {
        /// App id of the pod.
        app_id: String,
        /// The patch (RFC 6902), relative to the object.
        patch: json_patch::Patch,
        /// The object as `target` of a kustomize patch.
        target: Value,
    },
    /// The pod stays unchanged.
    Unchanged(SkipReason),
    /// The webhook would reject the pod, or its answer cannot be predicted.
    Failed(String),
}

/// The result for all sources.
#[derive(Debug)]
pub struct Outcome {
    /// The texts with sidecars, one per source.
    pub texts: Vec<String>,
    /// The result for each pod, in order.
    pub remarks: Vec<Remark>,
    /// Documents that could not be edited in place.
    pub rewritten: Vec<String>,
}

/// A document that is not valid YAML.
#[derive(Debug, thiserror::Error)]
#[error("{source_name}, document {number}")]
pub struct BadDocument {
    source_name: String,
    number: usize,
    #[source]
    cause: Box<serde_saphyr::Error>,
}

/// Namespaces and Components of the documents, which apply to pods of other documents.
#[derive(Debug, Default)]
struct ManifestContext {
    policies: HashMap<String, NamespacePolicy>,
    components: HashMap<String, Vec<ComponentContainer>>,
    /// Namespace and name of service accounts with `automountServiceAccountToken: false`.
    accounts_without_token: HashSet<(String, String)>,
}

impl ManifestContext {
    /// The pod, with the setting of its service account for the API token. The API server applies it
    /// before it calls the webhook.
    fn pod<'a>(&self, pod: &'a Value, namespace: &str) -> Cow<'a, Value> {
        let Ok(view) = PodView::parse(pod) else { return Cow::Borrowed(pod) };
        let account = (namespace.to_owned(), view.service_account().to_owned());
        // Without this member the view would look for the mount, which manifests do not have.
        let automount = !self.accounts_without_token.contains(&account);
        let mut pod = pod.clone();
        if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
            spec.entry("automountServiceAccountToken").or_insert(Value::Bool(automount));
        }
        Cow::Owned(pod)
    }
}

impl Offline<'_> {
    /// Adds the sidecars to the pods of all sources.
    ///
    /// # Errors
    /// [`BadDocument`]. A pod that the webhook would reject is a [`PodResult::Failed`] instead.
    pub fn inject(&self, sources: &[Source]) -> Result<Outcome, BadDocument> {
        let documents = sources.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let mut cx = ManifestContext::default();
        for document in documents.iter().flatten() {
            self.collect(&document.value, &mut cx);
        }
        let mut outcome = Outcome { texts: Vec::new(), remarks: Vec::new(), rewritten: Vec::new() };
        for (source, documents) in sources.iter().zip(&documents) {
            let (mut text, mut at) = (String::with_capacity(source.text.len()), 0);
            let mut write = |text: &mut String, until: usize, next: usize, with: &str| {
                text.push_str(source.text.get(at..until).unwrap_or_default());
                text.push_str(with);
                at = next;
            };
            for (number, document) in documents.iter().enumerate() {
                let new = self.document(&source.name, &document.value, &cx, &mut outcome.remarks);
                if new == document.value {
                    continue;
                }
                let old = source.text.get(document.at.clone()).unwrap_or_default();
                let (edited, in_place) = edit::apply(old, &document.value, &new);
                if !in_place {
                    outcome.rewritten.push(format!("{}, document {}", source.name, number + 1));
                }
                write(&mut text, document.at.start, document.at.end, &edited);
            }
            write(&mut text, source.text.len(), source.text.len(), "");
            outcome.texts.push(text);
        }
        Ok(outcome)
    }

    /// Collects the objects of a document that apply to pods.
    fn collect(&self, document: &Value, cx: &mut ManifestContext) {
        for found in templates::objects(document) {
            let Some(object) = document.pointer(&found.pointer) else { continue };
            let name = text(object, "/metadata/name").to_owned();
            let namespace = || found.namespace(document).or(self.namespace).unwrap_or_default();
            let map = |path: &str| -> BTreeMap<String, String> {
                let map = object.pointer(path).cloned().unwrap_or_default();
                serde_json::from_value(map).unwrap_or_default()
            };
            match text(object, "/kind") {
                "Namespace" => {
                    let (policy, _) = NamespacePolicy::of(
                        &map("/metadata/labels"),
                        &map("/metadata/annotations"),
                    );
                    cx.policies.insert(name, policy);
                }
                "ServiceAccount" => {
                    let automount = object.get("automountServiceAccountToken");
                    if automount == Some(&Value::Bool(false)) {
                        cx.accounts_without_token.insert((namespace().to_owned(), name));
                    }
                }
                "Component" => {
                    let container =
                        map("/metadata/annotations").remove(ANNOTATION_COMPONENT_CONTAINER);
                    let scopes = object.pointer("/scopes").cloned().unwrap_or_default();
                    let component = container.filter(|text| !text.is_empty()).map(|container| {
                        let scopes = serde_json::from_value(scopes).unwrap_or_default();
                        ComponentContainer { name, scopes, container }
                    });
                    let known = cx.components.entry(namespace().to_owned()).or_default();
                    known.extend(component);
                    // The order of a list of the API server.
                    known.sort_by(|a, b| a.name.cmp(&b.name));
                }
                _ => {}
            }
        }
    }

    /// The document with the sidecars.
    fn document(
        &self,
        source: &str,
        document: &Value,
        cx: &ManifestContext,
        remarks: &mut Vec<Remark>,
    ) -> Value {
        let mut new = document.clone();
        for found in templates::find(document) {
            let (mut result, mut warnings) = self.pod(document, &found, cx);
            if let PodResult::Injected { patch, .. } = &result
                && let Some(root) = new.pointer_mut(found.object.root())
                && let Err(error) = json_patch::patch(root, patch)
            {
                result = PodResult::Failed(error.to_string());
            }
            if matches!(result, PodResult::Unchanged(_)) {
                let at = |pointer: &str| document.pointer(pointer).unwrap_or(&Value::Null);
                let (object, template) = (at(&found.object.pointer), at(&found.pointer));
                warnings.extend(misplaced::warning(object, template));
            }
            let subject = self.subject(source, document, &found.object);
            remarks.push(Remark { subject, result, warnings });
        }
        new
    }

    fn pod(
        &self,
        document: &Value,
        found: &TemplateRef,
        cx: &ManifestContext,
    ) -> (PodResult, Vec<String>) {
        let failed = |why: String| (PodResult::Failed(why), Vec::new());
        let root = document.pointer(found.object.root()).unwrap_or(&Value::Null);
        let namespace = found.object.namespace(document).or(self.namespace);
        let name = namespace.unwrap_or_default();
        let pod = cx.pod(document.pointer(&found.pointer).unwrap_or(&Value::Null), name);
        let view = match PodView::parse(&pod) {
            Ok(view) => view,
            Err(error) => return failed(error.to_string()),
        };
        if let Some(parameter) = unresolved_parameter(root, &view) {
            return failed(parameter);
        }
        let context = InjectionContext {
            settings: self.settings,
            namespace: name,
            policy: cx.policies.get(name).unwrap_or(NamespacePolicy::NONE),
            platform: Platform::default(),
            trust_anchors: self.trust_anchors,
            mtls_enabled: self.mtls_enabled,
            components: Ok(cx.components.get(name).map(Vec::as_slice).unwrap_or_default()),
        };
        let outcome = match mutate(&view, &context) {
            Ok(outcome) => outcome,
            Err(rejection) => {
                let message = rejection.to_string();
                let warnings = rejection.warnings.into_iter().map(|warning| warning.text);
                let warnings = warnings.filter(|text| !message.contains(text)).collect();
                return (PodResult::Failed(message), warnings);
            }
        };
        let warnings = outcome.warnings.into_iter().map(|warning| warning.text).collect();
        let (app_id, patch) = match outcome.change {
            Change::Nothing(skip) => return (PodResult::Unchanged(skip), warnings),
            Change::Inject { app_id, patch, .. } | Change::Complete { app_id, patch } => {
                (app_id, patch)
            }
        };
        if namespace.is_none() {
            return failed("has no namespace, which its sidecar needs; set --namespace".to_owned());
        }
        let prefix = found.pointer.strip_prefix(found.object.root()).unwrap_or_default();
        match below(&patch, prefix) {
            Some(patch) => {
                (PodResult::Injected { app_id, patch, target: Self::target(root) }, warnings)
            }
            None => failed("the patch cannot be applied to the object".to_owned()),
        }
    }

    fn subject(&self, source: &str, document: &Value, found: &ObjectRef) -> String {
        let object = document.pointer(&found.pointer).unwrap_or(&Value::Null);
        let namespace = found.namespace(document).or(self.namespace);
        let namespace = namespace.map(|name| format!("{name}/")).unwrap_or_default();
        let name = match text(object, "/metadata/name") {
            "" => format!("{}*", text(object, "/metadata/generateName")),
            name => name.to_owned(),
        };
        format!("{source}: {} {namespace}{name}", text(object, "/kind"))
    }

    /// The object as `target` of a kustomize patch.
    fn target(object: &Value) -> Value {
        let version = text(object, "/apiVersion");
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let mut target = serde_json::Map::new();
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
        let members = [
            ("group", group),
            ("version", version),
            ("kind", text(object, "/kind")),
            ("name", text(object, "/metadata/name")),
            ("namespace", namespace.unwrap_or_default()),
        ];
        for (key, value) in members.into_iter().filter(|(_, value)| !value.is_empty()) {
            target.insert(key.to_owned(), json!(value));
        }
        Value::Object(target)
    }
}

struct Document {
    at: std::ops::Range<usize>,
    value: Value,
}

fn read(source: &Source) -> Result<Vec<Document>, BadDocument> {
    let mut documents = Vec::new();
    for (index, at) in documents::split(&source.text).into_iter().enumerate() {
        let text = source.text.get(at.clone()).unwrap_or_default();
        let only_comments = text.lines().all(|line| {
            let line = line.trim();
            line.is_empty() || line.starts_with('#')
        });
        let value = if only_comments {
            Value::Null
        } else {
            yaml::parse(text).map_err(|cause| BadDocument {
                source_name: source.name.clone(),
                number: index + 1,
                cause: Box::new(cause),
            })?
        };
        documents.push(Document { at, value });
    }
    Ok(documents)
}

/// A message if an annotation refers to a parameter of an OpenShift Template. Its value is known only
/// after `oc process`.
fn unresolved_parameter(root: &Value, pod: &PodView<'_>) -> Option<String> {
    if text(root, "/kind") != "Template" {
        return None;
    }
    let all = pod.annotations().into_iter().flatten();
    let mut texts = all.filter_map(|(key, value)| Some((key, value.as_str()?)));
    let (key, value) =
        texts.find(|(key, value)| key.starts_with(PREFIX) && value.contains("${"))?;
    Some(format!(
        "{key}: {} refers to a parameter of the Template; run `oc process` first and inject its output",
        quoted(value)
    ))
}

/// Moves a patch below `prefix`.
fn below(patch: &json_patch::Patch, prefix: &str) -> Option<json_patch::Patch> {
    let mut operations = json!(patch);
    for one in operations.as_array_mut()? {
        let place = one.get_mut("path")?;
        *place = json!(format!("{prefix}{}", place.as_str()?));
    }
    serde_json::from_value(operations).ok()
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
