//! Requests that no API server would send, derived from the recorded ones, and annotations made of
//! tokens of their parsers. The same ones for the same seed.

use resources::annotations::POD;
use serde_json::{Value, json};

use testkit::Choice;

/// Tokens of the parsers of annotations: separators, signs, units, words.
const FRAGMENTS: &[&str] = &[
    ",",
    ":",
    "=",
    "-",
    "+",
    ".",
    "/",
    " ",
    "\n",
    "\t",
    "\u{0}",
    "\"",
    "'",
    "\\",
    "{",
    "}",
    "ä",
    "\u{1f980}",
    "\u{feff}",
    "0",
    "1",
    "5",
    "9999999999999999999",
    "e",
    "E",
    "Mi",
    "m",
    "s",
    "h",
    "ms",
    "A",
    "_",
    "B=",
    "A=1",
    "data:/d",
    "true",
    "app",
    "side",
    "http",
    "[::1]",
];

fn text(choice: &mut Choice) -> String {
    let count = choice.below(6);
    (0..count).map(|_| choice.of(FRAGMENTS)).collect()
}

/// A pod in which each annotation in turn has such a text, with some others beside it.
pub(crate) fn annotated(turn: usize, choice: &mut Choice) -> Value {
    let mut annotations = json!({"dapr.io/enabled": "true", "dapr.io/app-id": "app"});
    for (index, key) in POD.iter().enumerate() {
        let subject = index == turn % POD.len() && *key != "dapr.io/enabled";
        if subject || (choice.below(20) == 0 && !key.ends_with("enabled")) {
            annotations[*key] = text(choice).into();
        }
    }
    let env = json!([{"name": "A", "value": "1"}]);
    json!({
        "metadata": {"generateName": "app-", "annotations": annotations},
        "spec": {
            "containers": [{"name": "app", "image": "a", "env": env}, {"name": "side"}],
            "volumes": [{"name": "data"}],
        },
    })
}

/// The JSON with some of its values replaced by values of other types.
pub(crate) fn twist(value: &mut Value, choice: &mut Choice) {
    if choice.below(40) == 0 {
        let others =
            [json!(null), json!(true), json!(-1), json!(1e300), json!(""), json!([{}]), json!({})];
        let others: Vec<&Value> = others.iter().collect();
        *value = choice.of(&others).clone();
        return;
    }
    match value {
        Value::Object(map) => map.values_mut().for_each(|value| twist(value, choice)),
        Value::Array(list) => list.iter_mut().for_each(|value| twist(value, choice)),
        _ => {}
    }
}

/// The bytes with a few of them changed, removed or duplicated, or truncated.
pub(crate) fn spoil(bytes: &mut Vec<u8>, choice: &mut Choice) {
    for _ in 0..=choice.below(4) {
        let place = choice.below(bytes.len().max(1));
        match choice.below(4) {
            0 => bytes.truncate(place),
            1 if place < bytes.len() => drop(bytes.remove(place)),
            2 if place < bytes.len() => bytes.insert(place, bytes[place]),
            _ => bytes.insert(place, u8::try_from(choice.below(256)).unwrap()),
        }
    }
}
