//! `daprctl lint`: checks manifests without a cluster. Pure except for reading files.
//!
//! Start at [`findings`]: [`documents`] splits files, [`schema`] compares objects of `dapr.io` with
//! their definitions, `operator::lint` checks Components and Configurations, `sidecar_injector::offline` annotations
//! of pods; [`output`] prints.

pub(crate) mod documents;
pub(crate) mod output;
mod schema;

use std::collections::BTreeMap;

use jiff::Timestamp;
use resources::{Component, Configuration, GROUP, spelling};
use runtime::printable;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sidecar_injector::offline::{self, PodResult, Source};

use crate::definitions;
use crate::pods::text;
use documents::{Document, File};

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// The API server, the webhook or a sidecar rejects it.
    Error,
    /// It probably does not have the intended effect.
    Warning,
}

/// A problem. Members and ids are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Finding {
    /// Name of the file; `-` for standard input.
    pub(crate) file: String,
    /// First line of the document.
    pub(crate) line: usize,
    pub(crate) level: Level,
    /// Id, such as `schema` or `UnknownType`.
    pub(crate) id: String,
    /// For example `Component shop/state`; empty if the document is not an object.
    pub(crate) object: String,
    /// The problem and what to do, in one line.
    pub(crate) text: String,
}

/// All problems, in the order of files and lines.
pub(crate) fn findings(files: &[File], now: Timestamp) -> Vec<Finding> {
    let mut all = Vec::new();
    for file in files {
        for document in &file.documents {
            of_document(file, document, &mut all);
        }
    }
    components(files, now, &mut all);
    configurations(files, &mut all);
    pods(files, &mut all);
    let place: BTreeMap<_, _> = files.iter().map(|file| &file.name).zip(0..).collect();
    all.sort_by_key(|finding| (place.get(&finding.file).copied().unwrap_or(0), finding.line));
    all.dedup();
    all
}

fn finding(
    file: &File,
    document: &Document,
    level: Level,
    id: &str,
    object: &Value,
    words: &str,
) -> Finding {
    Finding {
        file: file.name.clone(),
        line: document.line,
        level,
        id: id.to_owned(),
        object: printable(&name_of(object)),
        text: printable(words),
    }
}

/// Kind, namespace and name.
fn name_of(object: &Value) -> String {
    let at = |path: &str| text(object.pointer(path));
    let (kind, namespace, name) = (at("/kind"), at("/metadata/namespace"), at("/metadata/name"));
    let name = if namespace.is_empty() { name } else { format!("{namespace}/{name}") };
    format!("{kind} {name}").trim().to_owned()
}

/// YAML, and the definition of an object of `dapr.io`.
fn of_document(file: &File, document: &Document, all: &mut Vec<Finding>) {
    let objects = match &document.objects {
        Ok(objects) => objects,
        Err(error) => {
            let words = format!("not valid YAML: {error}; render templates first");
            all.push(finding(file, document, Level::Error, "yaml", &Value::Null, &words));
            return;
        }
    };
    for object in objects {
        let api = text(object.get("apiVersion"));
        let Some(version) = api.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix('/')) else {
            continue;
        };
        for words in definition(object, version) {
            all.push(finding(file, document, Level::Error, "schema", object, &words));
        }
    }
}

/// Problems of an object according to the definition of its kind.
fn definition(object: &Value, version: &str) -> Vec<String> {
    let kind = text(object.get("kind"));
    let shipped: Vec<Value> = definitions::names().filter_map(definitions::shipped).collect();
    let its_kind = |definition: &&Value| text(definition.pointer("/spec/names/kind")) == kind;
    let Some(definition) = shipped.iter().find(its_kind) else {
        let kinds: Vec<_> = shipped.iter().map(|d| text(d.pointer("/spec/names/kind"))).collect();
        let near = spelling::nearest(&kind, kinds.iter().map(String::as_str));
        let guess = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        return vec![format!("{GROUP} has no kind {kind:?}{guess}")];
    };
    let versions = definition.pointer("/spec/versions").and_then(Value::as_array);
    let versions = || versions.into_iter().flatten();
    let Some(schema) = versions().find(|v| text(v.get("name")) == version) else {
        let known: Vec<_> = versions().map(|v| text(v.get("name"))).collect();
        return vec![format!("{kind} has no version {version:?}; available: {}", known.join(", "))];
    };
    let mut problems = Vec::new();
    if text(object.pointer("/metadata/name")).is_empty() {
        problems.push("metadata.name is missing".to_owned());
    }
    if let Some(schema) = schema.pointer("/schema/openAPIV3Schema") {
        problems.extend(schema::problems(schema, object));
    }
    problems
}

/// The operator's checks, for the Components of each namespace together.
fn components(files: &[File], now: Timestamp, all: &mut Vec<Finding>) {
    let mut namespaces = BTreeMap::<String, Vec<(&File, &Document, &Value, Component)>>::new();
    for (file, document, object, component) in of_kind::<Component>(files, "Component") {
        let namespace = text(object.pointer("/metadata/namespace"));
        namespaces.entry(namespace).or_default().push((file, document, object, component));
    }
    for group in namespaces.into_values() {
        let components: Vec<_> = group.iter().map(|(.., component)| component.clone()).collect();
        let found = operator::lint::components(&components, now);
        for ((file, document, object, _), problems) in group.iter().zip(found) {
            all.extend(warnings(file, document, object, problems));
        }
    }
}

/// The operator's checks, for each Configuration by itself.
fn configurations(files: &[File], all: &mut Vec<Finding>) {
    for (file, document, object, configuration) in of_kind::<Configuration>(files, "Configuration")
    {
        let problems = operator::lint::configuration(&configuration);
        all.extend(warnings(file, document, object, problems));
    }
}

/// The objects of a kind of `dapr.io`. One that cannot be decoded has a finding of its definition.
fn of_kind<'a, K: DeserializeOwned>(
    files: &'a [File],
    kind: &'a str,
) -> impl Iterator<Item = (&'a File, &'a Document, &'a Value, K)> {
    documents::objects(files).filter_map(move |(file, document, object)| {
        let is_kind =
            text(object.get("kind")) == kind && text(object.get("apiVersion")).starts_with(GROUP);
        let decoded = is_kind.then(|| serde_json::from_value(object.clone()).ok());
        Some((file, document, object, decoded.flatten()?))
    })
}

fn warnings(
    file: &File,
    document: &Document,
    object: &Value,
    problems: Vec<operator::lint::Finding>,
) -> impl Iterator<Item = Finding> {
    problems.into_iter().map(|problem| {
        finding(file, document, Level::Warning, problem.reason, object, &problem.note)
    })
}

/// The injector's warnings and rejections, for each document by itself.
fn pods(files: &[File], all: &mut Vec<Finding>) {
    for file in files {
        for document in file.documents.iter().filter(|document| document.objects.is_ok()) {
            let source = Source { name: file.name.clone(), text: document.text.clone() };
            let remarks = match offline::lint(&[source]) {
                Ok(remarks) => remarks,
                Err(error) => {
                    let words = runtime::chain(&error);
                    all.push(finding(file, document, Level::Error, "yaml", &Value::Null, &words));
                    continue;
                }
            };
            for remark in remarks {
                let object = remark.subject.strip_prefix(&format!("{}: ", file.name));
                let object = printable(object.unwrap_or(&remark.subject));
                let mut push = |level, words: &str| {
                    let mut one = finding(file, document, level, "annotation", &Value::Null, words);
                    one.object.clone_from(&object);
                    all.push(one);
                };
                for warning in &remark.warnings {
                    push(Level::Warning, warning);
                }
                if let PodResult::Failed(why) = &remark.result {
                    push(Level::Error, why);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
