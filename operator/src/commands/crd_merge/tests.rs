use proptest::prelude::*;

use super::*;

fn definition(versions: &Value) -> Value {
    json!({"metadata": {"name": "things.dapr.io"}, "spec": {"group": "dapr.io", "scope": "Namespaced",
        "names": {"kind": "Thing", "plural": "things"}, "versions": versions}})
}

fn of(properties: &Value) -> Value {
    definition(&json!([{"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}}]))
}

fn properties(definition: &Value) -> &Value {
    at(definition, "/spec/versions/0/schema/openAPIV3Schema/properties")
}

#[test]
fn an_older_definition_becomes_ours_with_its_limits() {
    let live = of(&json!({"a": {"type": "string"}}));
    let ours = of(&json!({"a": {"type": "string", "maxLength": 5}, "b": {"type": "string"}}));
    assert_eq!(plan(&live, &ours), Ok(Plan::Apply(ours)));
}

#[test]
fn a_newer_definition_is_kept_and_named() {
    let ours = of(&json!({"a": {"type": "array", "items": {"type": "object"}}}));
    let newer = json!({"a": {"type": "array", "items": {"type": "object",
        "properties": {"gate": {"type": "string"}}}}});
    let want = Plan::Keep { newer: "v1.a[].gate".to_owned() };
    assert_eq!(plan(&of(&newer), &ours), Ok(want));
}

#[rstest::rstest]
#[case::value(json!({"type": "string", "enum": ["x", "y"]}), json!({"type": "string", "enum": ["x"]}), "v1.a (value \"y\")")]
#[case::any_value(json!({"type": "string"}), json!({"type": "string", "enum": ["x"]}), "v1.a (any value)")]
#[case::rule(json!({"type": "string", (RULES): [{"rule": "r"}]}), json!({"type": "string"}), "v1.a (rule r)")]
#[case::free(json!({(PRESERVE): true}), json!({"type": "string"}), "v1.a (x-kubernetes-preserve-unknown-fields)")]
#[case::map(json!({"type": "object", "additionalProperties": {"type": "object", "properties": {"n": {}}}}),
    json!({"type": "object", "additionalProperties": {"type": "object"}}), "v1.a.*.n")]
fn what_ours_lacks_is_kept(#[case] live: Value, #[case] ours: Value, #[case] newer: &str) {
    let plan = plan(&of(&json!({ "a": live })), &of(&json!({ "a": ours })));
    assert_eq!(plan, Ok(Plan::Keep { newer: newer.to_owned() }));
}

#[test]
fn both_sides_make_a_union_with_the_constraints_of_the_cluster() {
    let live = of(&json!({"a": {"type": "string", "maxLength": 9}, "theirs": {"type": "string"},
        "e": {"type": "string", "enum": ["x", "y"]}}));
    let ours = of(&json!({"a": {"type": "string", "maxLength": 5}, "ours": {"type": "string"},
        "e": {"type": "string", "enum": ["x", "z"]}}));
    let Ok(Plan::Union { definition, newer }) = plan(&live, &ours) else { panic!("no union") };
    assert_eq!(newer, "v1.e (value \"y\")");
    let want = json!({"a": {"type": "string", "maxLength": 9}, "theirs": {"type": "string"},
        "ours": {"type": "string"}, "e": {"type": "string", "enum": ["x", "y", "z"]}});
    assert_eq!(properties(&definition), &want);
}

#[test]
fn versions_of_either_side_stay_and_one_is_stored() {
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage,
        "schema": {"openAPIV3Schema": {"type": "object"}}})
    };
    let live = definition(&json!([version("v1", false), version("v3", true)]));
    let ours = definition(&json!([version("v1", false), version("v2", true)]));
    let Ok(Plan::Union { definition, newer }) = plan(&live, &ours) else { panic!("no union") };
    assert_eq!(newer, "version v3");
    let versions = list(&definition, "/spec/versions");
    let seen: Vec<_> = versions.iter().map(|v| (text(v, "name"), v["storage"] == true)).collect();
    assert_eq!(seen, [("v1", false), ("v2", false), ("v3", true)]);
}

#[test]
fn the_status_and_columns_that_the_operator_added_stay_and_are_not_newer() {
    let ours = of(&json!({"spec": {"type": "object"}}));
    let mut live = of(&json!({"spec": {"type": "object"}, "status": {"type": "object"}}));
    let columns = json!([{"name": "Type", "type": "string", "jsonPath": ".spec.type"}]);
    let version = live.pointer_mut("/spec/versions/0").unwrap();
    set(version, "subresources", json!({"status": {}}));
    set(version, "additionalPrinterColumns", columns.clone());
    let Ok(Plan::Apply(applied)) = plan(&live, &ours) else { panic!("not applied") };
    assert_eq!(properties(&applied), properties(&live));
    assert_eq!(at(&applied, "/spec/versions/0/subresources"), &json!({"status": {}}));
    assert_eq!(at(&applied, "/spec/versions/0/additionalPrinterColumns"), &columns);
}

#[rstest::rstest]
#[case::types(json!({"a": {"type": "string"}}), json!({"a": {"type": "array"}}), "v1.a is \"string\" in the cluster")]
#[case::below(json!({"a": {"type": "array", "items": {"type": "string"}}}),
    json!({"a": {"type": "array", "items": {"type": "object"}}}), "v1.a[] is")]
fn a_member_of_another_type_is_refused_by_name(
    #[case] live: Value,
    #[case] ours: Value,
    #[case] says: &str,
) {
    let error = plan(&of(&live), &of(&ours)).unwrap_err().to_string();
    assert!(error.starts_with(says), "{error}");
}

#[test]
fn another_kind_of_the_same_name_is_refused() {
    let mut live = of(&json!({}));
    *live.pointer_mut("/spec/names/kind").unwrap() = json!("Other");
    let error = plan(&live, &of(&json!({}))).unwrap_err().to_string();
    assert!(error.starts_with(".spec.names.kind is \"Other\" in the cluster"), "{error}");
}

/// Schema trees with few names, so that two of them have much in common. The type depends on the
/// name: a difference in type is an error, not a merge.
fn schema(depth: u32) -> BoxedStrategy<Value> {
    let leaf = proptest::option::of(proptest::sample::subsequence(vec!["x", "y", "z"], 1..3))
        .prop_map(|values| match values {
            Some(values) => json!({"type": "string", "enum": values}),
            None => json!({"type": "string"}),
        });
    if depth == 0 {
        return leaf.boxed();
    }
    let object = |inner: BoxedStrategy<Value>| {
        proptest::collection::btree_map("[ab]", inner, 0..3)
            .prop_map(|members| json!({"type": "object", "properties": members}))
    };
    let members = (
        proptest::option::of(leaf),
        proptest::option::of(object(schema(depth - 1))),
        proptest::option::of(schema(depth - 1)),
        proptest::option::of(Just(json!([{"rule": "r"}]))),
    );
    members
        .prop_map(|(text, object, list, rule)| {
            let mut members = Map::new();
            members.extend(text.map(|value| ("text".to_owned(), value)));
            members.extend(object.map(|value| ("object".to_owned(), only_objects(value))));
            members.extend(list.map(|value| {
                ("list".to_owned(), json!({"type": "array", "items": only_objects(value)}))
            }));
            let mut node = json!({"type": "object", "properties": members});
            if let Some(rule) = rule {
                set(&mut node, RULES, rule);
            }
            node
        })
        .boxed()
}

/// The same type at the same path in every tree.
fn only_objects(mut value: Value) -> Value {
    if value["type"] == "string" {
        return json!({"type": "object"});
    }
    if let Some(members) = value.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, member) in members.iter_mut() {
            if matches!(name.as_str(), "a" | "b") {
                *member = only_objects(member.take());
            }
        }
    }
    value
}

fn tree() -> impl Strategy<Value = Value> {
    schema(3).prop_map(|schema| {
        definition(&json!([{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": schema}}]))
    })
}

/// Every member, and every value of every enum (`*` where any is allowed).
fn facts(definition: &Value) -> BTreeSet<String> {
    fn walk(path: &str, node: &Value, out: &mut BTreeSet<String>) {
        out.insert(path.to_owned());
        if node["type"] == "string" {
            let values = node["enum"].as_array().cloned().unwrap_or_else(|| vec![json!("*")]);
            out.extend(values.iter().map(|value| format!("{path}={value}")));
        }
        for (name, member) in node["properties"].as_object().into_iter().flatten() {
            walk(&format!("{path}.{name}"), member, out);
        }
        if node["items"].is_object() {
            walk(&format!("{path}[]"), &node["items"], out);
        }
    }
    let mut out = BTreeSet::new();
    for version in list(definition, "/spec/versions") {
        walk(text(version, "name"), at(version, "/schema/openAPIV3Schema"), &mut out);
    }
    out
}

/// Whether `all` allows `fact`, itself or by a member that accepts any value.
fn allows(all: &BTreeSet<String>, fact: &str) -> bool {
    let any = fact.split_once('=').map(|(path, _)| format!("{path}=\"*\""));
    all.contains(fact) || any.is_some_and(|any| all.contains(&any))
}

fn after(live: &Value, plan: &Plan) -> Value {
    match plan {
        Plan::Apply(definition) | Plan::Union { definition, .. } => definition.clone(),
        Plan::Keep { .. } => live.clone(),
    }
}

proptest! {
    #[test]
    fn nothing_of_either_side_is_taken_away(live in tree(), ours in tree()) {
        let after = facts(&after(&live, &plan(&live, &ours).unwrap()));
        for fact in facts(&live).union(&facts(&ours)) {
            prop_assert!(allows(&after, fact), "{fact} is gone");
        }
    }

    #[test]
    fn a_second_run_changes_nothing(live in tree(), ours in tree()) {
        let first = after(&live, &plan(&live, &ours).unwrap());
        let second = after(&first, &plan(&first, &ours).unwrap());
        prop_assert_eq!(first, second);
    }

    #[test]
    fn the_same_definition_is_applied_as_it_is(ours in tree()) {
        prop_assert_eq!(plan(&ours, &ours), Ok(Plan::Apply(ours.clone())));
    }

    #[test]
    fn what_the_union_added_is_newer_than_each_side(a in tree(), b in tree()) {
        let both = after(&a, &plan(&a, &b).unwrap());
        if facts(&both) != facts(&b) {
            let kept = matches!(plan(&both, &b).unwrap(), Plan::Keep { .. } | Plan::Union { .. });
            prop_assert!(kept, "an older release takes over");
        }
    }
}
