//! JSON Schemas of the custom resources, for editors and offline validators: `deploy/schemas`, one file
//! for each kind and version, written from the definitions.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

const FOLDER: &str = "deploy/schemas";
/// The dialect that editors and validators of Kubernetes objects support.
const DIALECT: &str = "http://json-schema.org/draft-07/schema#";

/// Name and text of each schema.
fn schemas(root: &Path) -> Result<Vec<(String, String)>> {
    let mut schemas = Vec::new();
    for entry in std::fs::read_dir(root.join("crds")).context("read crds/")? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        let crd: Value = serde_saphyr::from_str(&text)
            .with_context(|| format!("{} is no YAML", path.display()))?;
        let text = |pointer: &str| crd.pointer(pointer).and_then(Value::as_str);
        let group = text("/spec/group").context("a definition without group")?;
        let kind = text("/spec/names/kind").context("a definition without kind")?;
        let versions = crd.pointer("/spec/versions").and_then(Value::as_array);
        for version in versions.into_iter().flatten() {
            let name = version.get("name").and_then(Value::as_str).context("a nameless version")?;
            let schema = version.pointer("/schema/openAPIV3Schema").context("no schema")?;
            let schema = of_version(schema, group, kind, name);
            // The names that kubeconform and editors derive from an object.
            let file = format!("{}_{name}.json", kind.to_lowercase());
            schemas.push((file, format!("{schema:#}\n")));
        }
    }
    schemas.sort();
    ensure!(!schemas.is_empty(), "crds/ is empty");
    Ok(schemas)
}

/// A definition's schema in the dialect of editors. Unknown members are rejected, as `kubectl
/// apply` with strict validation does.
fn of_version(schema: &Value, group: &str, kind: &str, version: &str) -> Value {
    let mut converted = convert(schema);
    if let Some(schema) = converted.as_object_mut() {
        schema.insert("$schema".to_owned(), json!(DIALECT));
        let id = format!("urn:trilby:{group}:{}:{version}", kind.to_lowercase());
        schema.insert("$id".to_owned(), json!(id));
        schema.insert("title".to_owned(), json!(format!("{kind} {group}/{version}")));
        schema.insert("required".to_owned(), json!(["apiVersion", "kind", "metadata"]));
        if let Some(members) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            members.insert("apiVersion".to_owned(), json!({"const": format!("{group}/{version}")}));
            members.insert("kind".to_owned(), json!({"const": kind}));
            members.insert("metadata".to_owned(), json!({"type": "object"}));
            members.entry("status").or_insert_with(|| json!({"type": "object"}));
        }
    }
    converted
}

/// Translates Kubernetes' extensions of `OpenAPI` 3.0.
fn convert(schema: &Value) -> Value {
    let Some(members) = schema.as_object() else { return schema.clone() };
    let is = |key: &str| schema.get(key).and_then(Value::as_bool) == Some(true);
    let mut converted = Map::new();
    for (name, value) in members {
        let value = match (name.as_str(), value) {
            (name, _) if name.starts_with("x-kubernetes-") || name == "nullable" => continue,
            ("properties", Value::Object(members)) => {
                Value::Object(members.iter().map(|(n, v)| (n.clone(), convert(v))).collect())
            }
            ("items" | "additionalProperties" | "not", value) => convert(value),
            ("allOf" | "anyOf" | "oneOf", Value::Array(all)) => all.iter().map(convert).collect(),
            ("type", Value::String(kind)) if is("nullable") => json!([kind, "null"]),
            (_, value) => value.clone(),
        };
        converted.insert(name.clone(), value);
    }
    if is("x-kubernetes-int-or-string") {
        converted.insert("type".to_owned(), json!(["integer", "string"]));
        converted.remove("anyOf");
    }
    let closed = converted.contains_key("properties")
        && !converted.contains_key("additionalProperties")
        && !is("x-kubernetes-preserve-unknown-fields");
    if closed {
        converted.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    Value::Object(converted)
}

/// Writes the schemas.
pub(crate) fn write(root: &Path) -> Result<()> {
    let folder = root.join(FOLDER);
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    for (name, text) in schemas(root)? {
        let file = folder.join(name);
        std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// Compares the schemas with the definitions.
pub(crate) fn check(root: &Path) -> Result<()> {
    let wanted = schemas(root)?;
    for (name, text) in &wanted {
        let there = std::fs::read_to_string(root.join(FOLDER).join(name)).unwrap_or_default();
        ensure!(there == *text, "{FOLDER}/{name} differs from crds/: run `cargo xtask gen`");
    }
    let files = std::fs::read_dir(root.join(FOLDER))?.count();
    ensure!(files == wanted.len(), "{FOLDER} has files that are none of crds/: remove them");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_kubernetes_become_those_of_editors() {
        let schema = json!({"type": "object", "x-kubernetes-validations": [1], "properties": {
            "a": {"type": "string", "nullable": true},
            "port": {"anyOf": [{"type": "integer"}], "x-kubernetes-int-or-string": true},
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"x": {"type": "string"}}},
            "map": {"type": "object", "additionalProperties": {"type": "string"}}}});
        let want = json!({"type": "object", "additionalProperties": false, "properties": {
            "a": {"type": ["string", "null"]},
            "port": {"type": ["integer", "string"]},
            "any": {"type": "object", "properties": {"x": {"type": "string"}}},
            "map": {"type": "object", "additionalProperties": {"type": "string"}}}});
        assert_eq!(convert(&schema), want);
    }

    #[test]
    fn a_schema_names_its_kind_and_version() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object"}}});
        let schema = of_version(&schema, "dapr.io", "Component", "v1alpha1");
        assert_eq!(schema["$id"], "urn:trilby:dapr.io:component:v1alpha1");
        assert_eq!(schema["properties"]["apiVersion"], json!({"const": "dapr.io/v1alpha1"}));
        assert_eq!(schema["properties"]["spec"], json!({"type": "object"}));
    }
}
