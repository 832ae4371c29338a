use rstest::rstest;

use super::*;
use crate::advice::status;
use crate::commands::apply_crds::DEFINITIONS;

const EVERY_KIND: EnabledColumns = EnabledColumns { every_kind: true, status: false };
const STATUS: EnabledColumns = EnabledColumns { every_kind: false, status: true };
const BOTH: EnabledColumns = EnabledColumns { every_kind: true, status: true };
const COMPONENTS: &str = "components.dapr.io";

/// The CRDs of `crds/` as the API server returns them.
fn installed() -> impl Iterator<Item = Value> {
    DEFINITIONS.iter().map(|text| {
        let mut crd: Value = serde_saphyr::from_str(text).unwrap();
        crd["metadata"]["resourceVersion"] = json!("7");
        crd
    })
}

fn crd(name: &str) -> Value {
    installed().find(|crd| crd["metadata"]["name"] == name).unwrap()
}

fn names() -> [&'static str; 7] {
    CRDS.each_ref().map(|crd| crd.name)
}

fn columns(name: &str) -> &'static CrdColumns {
    CRDS.iter().find(|crd| crd.name == name).unwrap()
}

fn apply(crd: &mut Value, operations: &[Value]) -> Result<(), json_patch::PatchError> {
    let operations: json_patch::Patch = serde_json::from_value(json!(operations)).unwrap();
    json_patch::patch(crd, &operations)
}

/// The CRD with the columns, which need no second patch.
fn patched(mut crd: Value, enabled: EnabledColumns) -> Value {
    let name = crd["metadata"]["name"].as_str().unwrap().to_owned();
    let operations = columns(&name).patch(&crd, enabled);
    apply(&mut crd, &operations).unwrap();
    assert!(columns(&name).patch(&crd, enabled).is_empty(), "{name}");
    crd
}

fn versions(crd: &Value) -> &Vec<Value> {
    crd["spec"]["versions"].as_array().unwrap()
}

/// Version and names of its columns, one line for each version.
fn headings(crd: &Value) -> String {
    let names = |version: &Value| {
        let columns = version["additionalPrinterColumns"].as_array().cloned().unwrap_or_default();
        let names: Vec<_> =
            columns.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect();
        format!("{}: {}", version["name"].as_str().unwrap(), names.join(" "))
    };
    versions(crd).iter().map(names).collect::<Vec<_>>().join("\n")
}

/// The schema of the values at a `jsonPath`; `None` when the schema has no such member. Filters select
/// items of a list, `*` members of an object.
fn at<'a>(schema: &'a Value, path: &str) -> Option<&'a Value> {
    if path.is_empty() {
        return Some(schema);
    }
    if let Some((_, rest)) = path.strip_prefix("[?(").and_then(|rest| rest.split_once(")]")) {
        return at(schema.get("items")?, rest);
    }
    let path = path.strip_prefix('.')?;
    let (name, rest) = path.split_at(path.find(['.', '[']).unwrap_or(path.len()));
    let members = schema.get("properties")?.as_object()?;
    match name {
        "*" => members.values().find_map(|member| at(member, rest)),
        _ => at(members.get(name)?, rest),
    }
}

#[rstest]
#[case(COMPONENTS, "v1alpha1: Type Version Scopes Age")]
#[case("configurations.dapr.io", "v1alpha1: Tracing Metrics Age")]
#[case("httpendpoints.dapr.io", "v1alpha1: URL Age")]
#[case("mcpservers.dapr.io", "v1alpha1: URL Age")]
#[case("resiliencies.dapr.io", "v1alpha1: Age")]
#[case(
    "subscriptions.dapr.io",
    "v1alpha1: PubSub Topic DeadLetter Age\nv2alpha1: PubSub Topic DeadLetter Age"
)]
#[case("workflowaccesspolicies.dapr.io", "v1alpha1: Age")]
fn every_version_gets_its_columns_and_nothing_else(#[case] name: &str, #[case] want: &str) {
    let mut after = patched(crd(name), EVERY_KIND);
    assert_eq!(headings(&after), want);
    for version in after["spec"]["versions"].as_array_mut().unwrap() {
        version.as_object_mut().unwrap().remove("additionalPrinterColumns");
    }
    assert_eq!(after, crd(name), "schema, conversion and the rest are unchanged");
}

#[rstest]
#[case::disabled(EnabledColumns::default(), &[])]
#[case::status(STATUS, &[COMPONENTS])]
#[case::every_kind(EVERY_KIND, &names())]
#[case::both(BOTH, &names())]
fn enabled_columns_name_their_crds(#[case] enabled: EnabledColumns, #[case] want: &[&str]) {
    assert_eq!(enabled.crds().map(|crd| crd.name).collect::<Vec<_>>(), want);
}

#[test]
fn every_crd_of_this_release_has_columns() {
    let mut shipped: Vec<_> =
        installed().map(|crd| crd["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    shipped.sort();
    assert_eq!(shipped, names());
}

#[test]
fn every_path_is_in_the_schema_with_the_type_of_its_column() {
    for mut crd in installed() {
        let name = crd["metadata"]["name"].as_str().unwrap().to_owned();
        if name == status::CRD {
            let operations = status::crd_patch(&crd);
            apply(&mut crd, &operations).unwrap();
        }
        let known: Vec<_> = versions(&crd).iter().map(|v| v["name"].as_str().unwrap()).collect();
        assert_eq!(known, columns(&name).versions, "{name}");
        for (version, column) in
            versions(&crd).iter().flat_map(|v| columns(&name).columns.iter().map(move |c| (v, c)))
        {
            let place = format!("{name} {} {}", version["name"], column.path);
            if column.path == AGE.path {
                continue; // of ObjectMeta, which no schema lists
            }
            let schema = at(&version["schema"]["openAPIV3Schema"], column.path)
                .unwrap_or_else(|| panic!("{place} is not in the schema"));
            // A list of texts is printed as text.
            let text = if schema["type"] == "array" { &schema["items"] } else { schema };
            assert_eq!(text["type"], column.type_, "{place}");
        }
    }
}

#[rstest]
#[case::member(".spec.typ")]
#[case::beneath_a_text(".spec.type.name")]
#[case::items(".scopes[?(@.type==\"a\")].name")]
#[case::any_member(".spec.*.name")]
#[case::no_dot("spec.type")]
fn a_misspelt_path_is_not_in_the_schema(#[case] path: &str) {
    let crd = crd(COMPONENTS);
    assert_eq!(at(&versions(&crd)[0]["schema"]["openAPIV3Schema"], path), None);
}

fn column(name: &str) -> Value {
    columns(COMPONENTS).columns.iter().find(|column| column.name == name).unwrap().definition()
}

fn foreign() -> Value {
    json!({"name": "Owner", "type": "string", "jsonPath": ".metadata.labels.owner"})
}

const SPEC: &str = "Type Version Scopes Age";
const ALL: &str = "Type Version Scopes Ready Reason Age";

#[rstest]
#[case::none(json!(null), EVERY_KIND, SPEC)]
#[case::empty(json!([]), EVERY_KIND, SPEC)]
#[case::one_of_ours(json!([column("Age")]), EVERY_KIND, SPEC)]
#[case::other_order(json!([column("Age"), column("Scopes"), column("Version"), column("Type")]),
    EVERY_KIND, "Age Scopes Version Type")]
#[case::status_alone(json!([]), STATUS, ALL)]
#[case::status_added(json!([column("Type"), column("Version"), column("Scopes"), column("Age")]),
    BOTH, ALL)]
#[case::status_disabled(json!([column("Ready")]), EVERY_KIND, "Type Version Scopes Ready Age")]
#[case::foreign(json!([foreign()]), BOTH, "Owner")]
#[case::foreign_and_ours(json!([column("Type"), foreign()]), BOTH, "Type Owner")]
#[case::other_path(json!([{"name": "Type", "type": "string", "jsonPath": ".spec.kind"}]), BOTH, "Type")]
#[case::other_priority(
    json!([{"name": "Type", "type": "string", "jsonPath": ".spec.type", "priority": 1}]), BOTH, "Type")]
fn columns_are_added_and_those_of_others_left_alone(
    #[case] present: Value,
    #[case] enabled: EnabledColumns,
    #[case] want: &str,
) {
    let mut crd = crd(COMPONENTS);
    crd["spec"]["versions"][0]["additionalPrinterColumns"] = present;
    assert_eq!(headings(&patched(crd, enabled)), format!("v1alpha1: {want}"));
}

#[test]
fn each_version_is_decided_by_itself() {
    let mut crd = crd("subscriptions.dapr.io");
    let list = crd["spec"]["versions"].as_array_mut().unwrap();
    list[0]["additionalPrinterColumns"] = json!([foreign()]);
    let (mut unserved, mut later) = (list[1].clone(), list[1].clone());
    (unserved["name"], unserved["served"]) = (json!("v1alpha1"), json!(false));
    later["name"] = json!("v3");
    list.extend([unserved, later]);
    let want = "v1alpha1: Owner\nv2alpha1: PubSub Topic DeadLetter Age\nv1alpha1: \nv3: ";
    assert_eq!(headings(&patched(crd, EVERY_KIND)), want);
}

#[test]
fn a_patch_applies_only_to_the_crd_that_was_read() {
    let mut crd = crd(COMPONENTS);
    let operations = columns(COMPONENTS).patch(&crd, EVERY_KIND);
    crd["metadata"]["resourceVersion"] = json!("8");
    let before = crd.clone();
    assert!(apply(&mut crd, &operations).is_err());
    assert_eq!(crd, before);
    assert!(columns(COMPONENTS).patch(&json!({}), EVERY_KIND).is_empty());
}
