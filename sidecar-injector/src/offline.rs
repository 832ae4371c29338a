//! Injection without a cluster: manifests in, manifests out, by the same core as the webhook's.
//!
//! The text of the manifests is edited in place, so that a `diff` shows the sidecar and nothing
//! else. A template that was injected here carries the injector's label; the webhook of a cluster
//! then takes its pods for injected and leaves them alone.

mod command;
mod control_plane;
mod documents;
mod edit;
mod emit;
mod templates;
mod tree;

use std::collections::{BTreeMap, HashMap};

use resources::annotations::ANNOTATION_COMPONENT_CONTAINER;
use serde_json::{Value, json};

pub use command::{Command, run};

use crate::components::ComponentContainer;
use crate::mutate::{Change, Situation, Skip, mutate};
use crate::namespace::NamespacePolicy;
use crate::platform::Platform;
use crate::pod::PodView;
use crate::settings::Settings;
use templates::Found;

/// What an injector without a cluster knows.
#[derive(Debug)]
pub struct Offline<'a> {
    /// Settings of the cluster.
    pub settings: &'a Settings,
    /// PEM bundle that sidecars trust.
    pub trust_anchors: &'a str,
    /// mTLS between sidecars.
    pub mtls_enabled: bool,
    /// Namespace of objects that name none.
    pub namespace: Option<&'a str>,
}

/// A file, or what came by standard input.
#[derive(Debug, Clone)]
pub struct Source {
    /// For messages.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// What became of a pod or pod template.
#[derive(Debug, Clone, PartialEq)]
pub struct Remark {
    /// For example `app.yaml: Deployment shop/web`.
    pub subject: String,
    /// What became of it.
    pub result: PodResult,
    /// The sentences that `kubectl` would show.
    pub warnings: Vec<String>,
}

/// The result for a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum PodResult {
    /// It has its sidecar now.
    Injected {
        /// The application.
        app_id: String,
        /// RFC 6902, with pointers from the object's root.
        patch: json_patch::Patch,
        /// The object, as kustomize selects it.
        target: Value,
    },
    /// It stays as it is.
    Unchanged(Skip),
    /// It would be refused, or it cannot be told what the webhook would do.
    Failed(String),
}

/// All that came of some sources.
#[derive(Debug)]
pub struct Outcome {
    /// The texts with their sidecars, one for each source.
    pub texts: Vec<String>,
    /// What became of each pod, in order.
    pub remarks: Vec<Remark>,
    /// Documents whose text could not be edited in place.
    pub rewritten: Vec<String>,
}

/// A source that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{source_name}, document {number}")]
pub struct BadDocument {
    source_name: String,
    number: usize,
    #[source]
    cause: Box<serde_saphyr::Error>,
}

/// What the documents themselves say about others: their Namespaces and Components.
#[derive(Debug, Default)]
struct Surroundings {
    policies: HashMap<String, NamespacePolicy>,
    components: HashMap<String, Vec<ComponentContainer>>,
}

impl Offline<'_> {
    /// Gives the pods of all sources their sidecars.
    ///
    /// # Errors
    /// [`BadDocument`]: a text is no YAML. A pod that would be refused is no error here but a
    /// [`PodResult::Failed`].
    pub fn inject(&self, sources: &[Source]) -> Result<Outcome, BadDocument> {
        let documents = sources.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let mut around = Surroundings::default();
        for document in documents.iter().flatten() {
            self.look_around(&document.value, &mut around);
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
                let new =
                    self.document(&source.name, &document.value, &around, &mut outcome.remarks);
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

    fn look_around(&self, document: &Value, around: &mut Surroundings) {
        for pointer in templates::objects(document) {
            let Some(object) = document.pointer(&pointer) else { continue };
            let name = text(object, "/metadata/name").to_owned();
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
                    around.policies.insert(name, policy);
                }
                "Component" => {
                    let container =
                        map("/metadata/annotations").remove(ANNOTATION_COMPONENT_CONTAINER);
                    let scopes = object.pointer("/scopes").cloned().unwrap_or_default();
                    let found = container.filter(|text| !text.is_empty()).map(|container| {
                        let scopes = serde_json::from_value(scopes).unwrap_or_default();
                        ComponentContainer { name, scopes, container }
                    });
                    let namespace = self.namespace_of(object).unwrap_or_default();
                    let known = around.components.entry(namespace.to_owned()).or_default();
                    known.extend(found);
                    // As the API server lists them.
                    known.sort_by(|a, b| a.name.cmp(&b.name));
                }
                _ => {}
            }
        }
    }

    fn namespace_of<'b>(&'b self, object: &'b Value) -> Option<&'b str> {
        let own = object.pointer("/metadata/namespace").and_then(Value::as_str);
        own.filter(|name| !name.is_empty()).or(self.namespace)
    }

    /// The document with its sidecars.
    fn document(
        &self,
        source: &str,
        document: &Value,
        around: &Surroundings,
        remarks: &mut Vec<Remark>,
    ) -> Value {
        let mut new = document.clone();
        for found in templates::find(document) {
            let (Some(object), Some(pod)) =
                (document.pointer(&found.object), document.pointer(&found.pointer))
            else {
                continue;
            };
            let (result, warnings) = self.pod(object, pod, &found, around);
            if let PodResult::Injected { patch, .. } = &result
                && let Some(object) = new.pointer_mut(&found.object)
                && let Err(error) = json_patch::patch(object, patch)
            {
                let subject = self.subject(source, object);
                let result = PodResult::Failed(error.to_string());
                remarks.push(Remark { subject, result, warnings: Vec::new() });
                continue;
            }
            remarks.push(Remark { subject: self.subject(source, object), result, warnings });
        }
        new
    }

    fn pod(
        &self,
        object: &Value,
        pod: &Value,
        found: &Found,
        around: &Surroundings,
    ) -> (PodResult, Vec<String>) {
        let failed = |why: String| (PodResult::Failed(why), Vec::new());
        let view = match PodView::parse(pod) {
            Ok(view) => view,
            Err(error) => return failed(error.to_string()),
        };
        let namespace = self.namespace_of(object);
        let name = namespace.unwrap_or_default();
        let situation = Situation {
            settings: self.settings,
            namespace: name,
            policy: around.policies.get(name).unwrap_or(NamespacePolicy::NONE),
            platform: Platform::default(),
            trust_anchors: self.trust_anchors,
            mtls_enabled: self.mtls_enabled,
            components: Ok(around.components.get(name).map(Vec::as_slice).unwrap_or_default()),
        };
        let outcome = match mutate(&view, &situation) {
            Ok(outcome) => outcome,
            Err(error) => return failed(error.to_string()),
        };
        let warnings = outcome.warnings.into_iter().map(|warning| warning.text).collect();
        let (app_id, patch) = match outcome.change {
            Change::Nothing(skip) => return (PodResult::Unchanged(skip), warnings),
            Change::Inject { app_id, patch, .. } | Change::Complete { app_id, patch } => {
                (app_id.to_string(), patch)
            }
        };
        if namespace.is_none() {
            return failed(
                "has no namespace, and its sidecar must know one: give --namespace".to_owned(),
            );
        }
        let prefix = found.pointer.strip_prefix(&found.object).unwrap_or_default();
        match below(&patch, prefix) {
            Some(patch) => {
                (PodResult::Injected { app_id, patch, target: Self::target(object) }, warnings)
            }
            None => failed("the patch does not fit the object".to_owned()),
        }
    }

    fn subject(&self, source: &str, object: &Value) -> String {
        let namespace =
            self.namespace_of(object).map(|name| format!("{name}/")).unwrap_or_default();
        let name = match text(object, "/metadata/name") {
            "" => format!("{}*", text(object, "/metadata/generateName")),
            name => name.to_owned(),
        };
        format!("{source}: {} {namespace}{name}", text(object, "/kind"))
    }

    /// The object as a patch of kustomize names it.
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
            serde_saphyr::from_str(text).map_err(|cause| BadDocument {
                source_name: source.name.clone(),
                number: index + 1,
                cause: Box::new(cause),
            })?
        };
        documents.push(Document { at, value });
    }
    Ok(documents)
}

/// A patch of something that is at `prefix` of a larger object.
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
