//! Compares the types with `crds/*.yaml`, and pins the schemas.
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use rstest::rstest;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::*;

fn crd(file: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../crds").join(file);
    serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn version<'a>(crd: &'a Value, name: &str) -> &'a Value {
    let versions = crd["spec"]["versions"].as_array().unwrap();
    let version = versions.iter().find(|v| v["name"] == name).unwrap();
    &version["schema"]["openAPIV3Schema"]
}

/// The members of a schema, one `path type` per entry; both generators' dialects are understood.
fn members(schema: &Value) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    walk("", schema, &mut out);
    out
}

fn walk(path: &str, schema: &Value, out: &mut BTreeSet<String>) {
    let schema = without_null(schema);
    if matches!(path, ".metadata" | ".kind" | ".apiVersion") {
        return;
    }
    if let Some(properties) = schema["properties"].as_object() {
        for (name, member) in properties {
            walk(&format!("{path}.{name}"), member, out);
        }
        if !path.is_empty() {
            out.insert(format!("{path} object"));
        }
        return;
    }
    if schema["additionalProperties"].is_object() {
        return walk(&format!("{path}.*"), &schema["additionalProperties"], out);
    }
    if schema["items"].is_object() {
        return walk(&format!("{path}[]"), &schema["items"], out);
    }
    let free = schema["x-kubernetes-preserve-unknown-fields"] == true;
    let kind = match type_of(schema) {
        Some(kind) if !free => kind,
        _ => "any",
    };
    let narrow = if schema["format"] == "int32" { " int32" } else { "" };
    out.insert(format!("{path} {kind}{narrow}"));
}

fn without_null(schema: &Value) -> &Value {
    let Some(choices) = schema["anyOf"].as_array() else { return schema };
    choices.iter().find(|c| c["type"] != "null").unwrap()
}

fn type_of(schema: &Value) -> Option<&str> {
    match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).find(|t| *t != "null"),
        other => other.as_str(),
    }
}

fn type_members<T: JsonSchema>() -> BTreeSet<String> {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    members(settings.into_generator().into_root_schema_for::<T>().as_value())
}

fn assert_same<T: CustomResource + JsonSchema>(file: &str, singular: &str) {
    let crd = crd(file);
    let names = &crd["spec"]["names"];
    assert_eq!(crd["metadata"]["name"], format!("{}.dapr.io", T::PLURAL));
    assert_eq!(crd["spec"]["group"], GROUP);
    assert_eq!(crd["metadata"]["labels"]["app.kubernetes.io/part-of"], "dapr");
    assert_eq!(names["kind"], T::KIND);
    assert_eq!(names["plural"], T::PLURAL);
    assert_eq!(names["listKind"], format!("{}List", T::KIND));
    assert_eq!(names["singular"], singular);
    assert_eq!(crd["spec"]["scope"], "Namespaced");

    let yaml = members(version(&crd, T::VERSION));
    let types = type_members::<T>();
    let missing: Vec<_> = yaml.difference(&types).collect();
    let extra: Vec<_> = types.difference(&yaml).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "types lack {missing:#?}, YAML lacks {extra:#?}"
    );
}

#[test]
fn types_and_yaml_have_the_same_members() {
    assert_same::<Component>("components.yaml", "component");
    assert_same::<Configuration>("configuration.yaml", "configuration");
    assert_same::<Subscription>("subscription.yaml", "subscription");
    assert_same::<SubscriptionV1>("subscription.yaml", "subscription");
    assert_same::<Resiliency>("resiliency.yaml", "resiliency");
    assert_same::<HTTPEndpoint>("httpendpoints.yaml", "httpendpoint");
    assert_same::<MCPServer>("mcpservers.yaml", "mcpserver");
    assert_same::<WorkflowAccessPolicy>("workflowaccesspolicy.yaml", "workflowaccesspolicy");
}

/// Members with all constraints, without descriptions: the part that users' tools compare.
fn contract(path: &str, schema: &Value, required: bool, out: &mut String) {
    let mut line = path.to_owned();
    for (key, value) in schema.as_object().unwrap() {
        match key.as_str() {
            "description" | "properties" | "items" | "additionalProperties" | "required" => {}
            "type" => write!(line, " {}", value.as_str().unwrap()).unwrap(),
            _ => write!(line, " {key}={value}").unwrap(),
        }
    }
    writeln!(out, "{line}{}", if required { " required" } else { "" }).unwrap();
    let needed =
        |name: &str| schema["required"].as_array().is_some_and(|r| r.contains(&name.into()));
    if let Some(properties) = schema["properties"].as_object() {
        let mut names: Vec<_> = properties.iter().collect();
        names.sort_by_key(|(name, _)| name.as_str());
        for (name, member) in names {
            contract(&format!("{path}.{name}"), member, needed(name), out);
        }
    }
    if schema["items"].is_object() {
        contract(&format!("{path}[]"), &schema["items"], false, out);
    }
    if schema["additionalProperties"].is_object() {
        contract(&format!("{path}.*"), &schema["additionalProperties"], false, out);
    }
}

#[rstest]
#[case("components")]
#[case("configuration")]
#[case("subscription")]
#[case("resiliency")]
#[case("httpendpoints")]
#[case("mcpservers")]
#[case("workflowaccesspolicy")]
fn schema_contract_is_unchanged(#[case] file: &str) {
    let crd = crd(&format!("{file}.yaml"));
    let mut out = String::new();
    for version in crd["spec"]["versions"].as_array().unwrap() {
        let keys: Vec<_> = version.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["name", "served", "storage", "schema"], "no printer columns, no status");
        writeln!(out, "{} storage={}", version["name"], version["storage"]).unwrap();
        contract("", &version["schema"]["openAPIV3Schema"], false, &mut out);
    }
    insta::assert_snapshot!(file, out);
}
