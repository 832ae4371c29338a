//! The requests, and the recorded answers of Dapr's injector.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use blackbox::admission::Decision;
use blackbox::environment;
use serde_json::{Map, Value, json};
use testkit::Choice;

use crate::compare::Outcome;
use crate::differences::DIFFERENCES;
use crate::generator;
use crate::sides::SETTINGS;

/// Another seed makes other pods, whose answers have to be recorded again.
const SEED: u64 = 0x7472_696c_6279;

/// A request and the one that Dapr's injector gets instead, because of listed differences.
#[derive(Debug)]
pub(crate) struct Question {
    original: Value,
    pub(crate) rewritten: Value,
    /// Names of the differences that apply.
    pub(crate) differences: Vec<String>,
}

impl Question {
    pub(crate) fn new(request: &Value) -> Self {
        let mut rewritten = request.clone();
        let apply = DIFFERENCES.iter().filter(|difference| (difference.rewrite)(&mut rewritten));
        let differences = apply.map(|difference| difference.name.to_owned()).collect();
        Self { original: request.clone(), rewritten, differences }
    }

    /// The pod that Dapr's injector would have made of the original request with our rules.
    pub(crate) fn restored(&self, answer: &Decision) -> Outcome {
        if answer.allowed && answer.patch == json!([]) {
            return Outcome::of(&self.original, answer); // unchanged, as with ours
        }
        let mut outcome = Outcome::of(&self.rewritten, answer);
        for difference in DIFFERENCES {
            if self.differences.iter().any(|name| name == difference.name) {
                outcome.edit(|pod| (difference.restore)(&self.original["object"], pod));
            }
        }
        outcome
    }
}

/// Every request with its name and the setting of the injectors: the recorded cases, then the
/// generated ones.
pub(crate) fn requests(pods: usize) -> Vec<(String, usize, Value)> {
    let file = include_str!("../fixtures/injector/dapr-1.18.1.json");
    let file: Value = serde_json::from_str(file).unwrap();
    let single = file["cases"].as_array().unwrap().iter().map(|case| {
        let mut request = case["request"].clone();
        request["namespace"] = json!("default");
        (case["name"].as_str().unwrap().to_owned(), 0, request)
    });
    let mut choice = Choice::new(SEED);
    let generated = (0..pods.max(generator::turns())).map(|number| {
        let request = generator::request(number, &mut choice);
        (format!("generated {number}"), number % SETTINGS.len(), request)
    });
    single.chain(generated).collect()
}

/// A generated request and the answer of Dapr's injector.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) setting: usize,
    pub(crate) request: Value,
    pub(crate) differences: Vec<String>,
    pub(crate) answer: Decision,
}

#[derive(Debug, Default)]
pub(crate) struct Corpus {
    pub(crate) cases: Vec<Case>,
}

impl Corpus {
    /// Reads the recording of the repository.
    pub(crate) fn recorded() -> Self {
        let text = fs::read_to_string(file()).unwrap();
        let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let sidecar = lines.next().unwrap();
        let cases = lines.map(|line| Case {
            name: line["name"].as_str().unwrap().to_owned(),
            setting: usize::try_from(line["setting"].as_u64().unwrap()).unwrap(),
            request: line["request"].clone(),
            differences: serde_json::from_value(line["differences"].clone()).unwrap(),
            answer: Decision {
                allowed: line["refused"].is_null(),
                patch: whole(&line["patch"], &sidecar),
                message: line["refused"].as_str().unwrap_or_default().to_owned(),
                warnings: Vec::new(),
            },
        });
        Self { cases: cases.collect() }
    }

    /// Whether a case of that name is generated, and therefore recorded.
    pub(crate) fn is_generated(name: &str) -> bool {
        name.starts_with("generated")
    }

    pub(crate) fn push(
        &mut self,
        name: &str,
        setting: usize,
        request: &Value,
        question: &Question,
        answer: Decision,
    ) {
        if Self::is_generated(name) {
            let differences = question.differences.clone();
            let (name, request) = (name.to_owned(), request.clone());
            self.cases.push(Case { name, setting, request, differences, answer });
        }
    }

    /// Writes one line per case, so that a diff shows single cases.
    pub(crate) fn write(&self) {
        let sidecars =
            self.cases.iter().find_map(|case| Some(sidecar(&case.answer.patch)?.clone()));
        let sidecar = sidecars.unwrap();
        let mut text = format!("{sidecar}\n");
        for case in &self.cases {
            let line = json!({
                "name": case.name,
                "setting": case.setting,
                "request": case.request,
                "differences": case.differences,
                "refused": (!case.answer.allowed).then_some(&case.answer.message),
                "patch": part(&case.answer.patch, &sidecar),
            });
            writeln!(text, "{line}").unwrap();
        }
        fs::write(file(), text).unwrap();
    }
}

fn file() -> PathBuf {
    environment::workspace().join("tests/fixtures/injector/generated-dapr-1.18.3.jsonl")
}

fn is_sidecar(operation: &Value) -> bool {
    operation["value"]["name"] == "daprd"
}

fn sidecar(patch: &Value) -> Option<&Value> {
    patch.as_array()?.iter().find(|operation| is_sidecar(operation)).map(|o| &o["value"])
}

/// The patch with only those members of the sidecar that differ from the first one's; null for an
/// absent member.
fn part(patch: &Value, first: &Value) -> Value {
    let mut patch = patch.clone();
    for operation in patch.as_array_mut().into_iter().flatten().filter(|o| is_sidecar(o)) {
        let own = operation["value"].as_object().unwrap();
        let mut kept: Map<String, Value> = first.as_object().unwrap().clone();
        kept.values_mut().for_each(|value| *value = Value::Null);
        kept.extend(own.clone());
        kept.retain(|key, value| key == "name" || first.get(key) != Some(value));
        operation["value"] = Value::Object(kept);
    }
    patch
}

fn whole(patch: &Value, first: &Value) -> Value {
    let mut patch = patch.clone();
    for operation in patch.as_array_mut().into_iter().flatten().filter(|o| is_sidecar(o)) {
        let mut all = first.as_object().unwrap().clone();
        all.extend(operation["value"].as_object().unwrap().clone());
        all.retain(|_, value| !value.is_null());
        operation["value"] = Value::Object(all);
    }
    patch
}
