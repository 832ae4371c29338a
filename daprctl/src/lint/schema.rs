//! Compares a value with the schema of a definition: members, types, required members, enums, lengths
//! and ranges. Patterns and CEL rules are left to the API server (`kubectl apply --dry-run=server`).

use resources::spelling;
use serde_json::Value;

use crate::pods::text;

/// Problems of one object; the first explain the others.
const MAX_PROBLEMS: usize = 20;
/// Nesting that is followed; definitions have half of it.
const MAX_DEPTH: usize = 64;

/// The problems of an object. `metadata` is not compared: its schema is the API server's.
pub(crate) fn problems(schema: &Value, object: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    walk(schema, object, &mut Vec::new(), &mut problems);
    problems.truncate(MAX_PROBLEMS);
    problems
}

fn walk(schema: &Value, value: &Value, path: &mut Vec<String>, problems: &mut Vec<String>) {
    if problems.len() >= MAX_PROBLEMS || path.len() > MAX_DEPTH {
        return;
    }
    let mut problem = |words: &str| problems.push(format!("{}{words}", at(path)));
    let is = |key: &str| schema.get(key).and_then(Value::as_bool) == Some(true);
    if value.is_null()
        || is("x-kubernetes-preserve-unknown-fields") && schema.get("properties").is_none()
    {
        return; // the API server drops null, or takes anything
    }
    let wanted = text(schema.get("type"));
    let fits = match (wanted.as_str(), value) {
        _ if is("x-kubernetes-int-or-string") => value.is_i64() || value.is_string(),
        ("object", Value::Object(_))
        | ("array", Value::Array(_))
        | ("string", Value::String(_))
        | ("boolean", Value::Bool(_))
        | ("number", Value::Number(_))
        | ("", _) => true,
        ("integer", Value::Number(number)) => number.is_i64() || number.is_u64(),
        _ => false,
    };
    if !fits {
        problem(&format!("is {}, but must be {}", kind(value), article(&wanted)));
        return;
    }
    let limit = |key: &str| schema.get(key).and_then(Value::as_f64);
    if let Some(choices) = schema.get("enum").and_then(Value::as_array)
        && !choices.contains(value)
    {
        let choices: Vec<_> = choices.iter().map(ToString::to_string).collect();
        problem(&format!("is {value}, but must be one of {}", choices.join(", ")));
    }
    if let Some(number) = value.as_f64() {
        if limit("minimum").is_some_and(|minimum| number < minimum) {
            problem(&format!("is {value}, below the minimum"));
        }
        if limit("maximum").is_some_and(|maximum| number > maximum) {
            problem(&format!("is {value}, above the maximum"));
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "lengths of manifests")]
    let size = match value {
        Value::String(text) => Some((text.chars().count() as f64, "minLength", "maxLength")),
        Value::Array(items) => Some((items.len() as f64, "minItems", "maxItems")),
        _ => None,
    };
    if let Some((size, min, max)) = size {
        if limit(min).is_some_and(|minimum| size < minimum) {
            problem("is too short");
        }
        if limit(max).is_some_and(|maximum| size > maximum) {
            problem("is too long");
        }
    }
    match value {
        Value::Object(members) => object(schema, members, path, problems),
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return };
            for (index, item) in items.iter().enumerate() {
                path.push(format!("[{index}]"));
                walk(schema, item, path, problems);
                path.pop();
            }
        }
        _ => {}
    }
}

fn object(
    schema: &Value,
    members: &serde_json::Map<String, Value>,
    path: &mut Vec<String>,
    problems: &mut Vec<String>,
) {
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    for name in required.filter_map(Value::as_str) {
        if members.get(name).is_none_or(Value::is_null) {
            problems.push(format!("{}misses {name:?}", at(path)));
        }
    }
    let known = schema.get("properties").and_then(Value::as_object);
    let others = schema.get("additionalProperties");
    for (name, value) in members {
        let root = path.is_empty();
        if root && matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status") {
            continue;
        }
        let member = known.and_then(|known| known.get(name)).or(others.filter(|o| o.is_object()));
        match member {
            Some(schema) => {
                path.push(if root { name.clone() } else { format!(".{name}") });
                walk(schema, value, path, problems);
                path.pop();
            }
            None if known.is_some() && others.is_none() => {
                let names = known.into_iter().flat_map(serde_json::Map::keys);
                let near = spelling::nearest(name, names.map(String::as_str));
                let guess = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                let words = "which the API server drops";
                problems
                    .push(format!("{}has an unknown member {name:?}, {words}{guess}", at(path)));
            }
            None => {}
        }
    }
}

/// The path as the subject of a sentence.
fn at(path: &[String]) -> String {
    if path.is_empty() { "the object ".to_owned() } else { format!("{} ", path.concat()) }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn article(wanted: &str) -> &str {
    match wanted {
        "object" => "an object",
        "array" => "a list",
        "string" => "a string",
        "boolean" => "a boolean",
        "integer" => "an integer",
        "number" => "a number",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object",
            "required": ["topic"], "properties": {
                "topic": {"type": "string", "minLength": 1, "maxLength": 3},
                "count": {"type": "integer", "minimum": 1, "maximum": 5},
                "mode": {"type": "string", "enum": ["a", "b"]},
                "list": {"type": "array", "maxItems": 2, "items": {"type": "boolean"}},
                "port": {"x-kubernetes-int-or-string": true},
                "map": {"type": "object", "additionalProperties": {"type": "string"}},
                "any": {"x-kubernetes-preserve-unknown-fields": true}}}}})
    }

    #[rstest]
    #[case(json!({"topic": "t", "count": 5, "mode": "a", "list": [true], "port": "http",
        "map": {"x": "y"}, "any": {"z": [1]}}), None)]
    #[case(json!({"topic": null}), Some("spec misses \"topic\""))]
    #[case(json!({"topic": 1}), Some("spec.topic is a number, but must be a string"))]
    #[case(json!({"topic": ""}), Some("spec.topic is too short"))]
    #[case(json!({"topic": "abc"}), None)]
    #[case(json!({"topic": "abcd"}), Some("spec.topic is too long"))]
    #[case(json!({"topic": "t", "count": 0}), Some("spec.count is 0, below the minimum"))]
    #[case(json!({"topic": "t", "count": 6}), Some("spec.count is 6, above the maximum"))]
    #[case(json!({"topic": "t", "count": 1.5}), Some("spec.count is a number, but must be an integer"))]
    #[case(json!({"topic": "t", "mode": "c"}), Some("spec.mode is \"c\", but must be one of \"a\", \"b\""))]
    #[case(json!({"topic": "t", "list": [true, false, true]}), Some("spec.list is too long"))]
    #[case(json!({"topic": "t", "list": [true, 1]}), Some("spec.list[1] is a number, but must be a boolean"))]
    #[case(json!({"topic": "t", "port": [1]}), Some("spec.port is a list, but must be "))]
    #[case(json!({"topic": "t", "map": {"x": 1}}), Some("spec.map.x is a number, but must be a string"))]
    #[case(json!({"topic": "t", "cuont": 1}),
        Some("spec has an unknown member \"cuont\", which the API server drops; did you mean count?"))]
    fn differences_are_named(#[case] spec: Value, #[case] want: Option<&str>) {
        let object = json!({"apiVersion": "v", "kind": "K", "metadata": {"x": 1}, "spec": spec});
        assert_eq!(problems(&schema(), &object).first().map(String::as_str), want);
    }

    #[test]
    fn problems_have_a_limit() {
        let with = |number: usize| {
            let list: Vec<_> = (0..number).map(|_| json!(1)).collect();
            let mut schema = schema();
            schema["properties"]["spec"]["properties"]["list"]["maxItems"] = json!(1_000);
            problems(&schema, &json!({"spec": {"topic": "t", "list": list}})).len()
        };
        assert_eq!(with(MAX_PROBLEMS), MAX_PROBLEMS);
        assert_eq!(with(MAX_PROBLEMS + 1), MAX_PROBLEMS);
    }
}
