//! Recorded results of the official daprd for its components: which types and versions it
//! registers, and which metadata it requires. `tests/fixtures/components/README.md` describes the
//! experiment.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use blackbox::{Deadline, Scratch, Tool, environment, until};
use serde_json::{Value, json};

use super::Additions;

const FILE: &str = "tests/fixtures/components/daprd-1.18.3.txt";
const HEADER: &str = "\
# What daprd 1.18.3, built with all components, answered to generated Components: README.md. Types with the versions that it
# registers; then metadata without which it refused to load a Component that it else loaded or failed to connect.
";
/// Categories of Components.
const CATEGORIES: [&str; 9] = [
    "bindings",
    "configuration",
    "conversation",
    "crypto",
    "lock",
    "middleware.http",
    "pubsub",
    "secretstores",
    "state",
];
const VERSIONS: [&str; 4] = ["v1", "v2", "v3", "v4"];
/// Components of one process. One that panics loses the results of those after it.
const BATCH: usize = 400;
/// Time limit of one process.
const TIMEOUT: u64 = 120;
/// Parts of daprd's error about an unregistered type.
const UNKNOWN: [&str; 2] = ["couldn't find", "has not been registered"];
/// Words of an error about missing metadata.
const LACK: [&str; 5] = ["missing", "required", "empty", "invalid", "not set"];

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Recording {
    types: BTreeMap<String, BTreeSet<String>>,
    /// Type, version and name, with the words of the error.
    required: BTreeMap<(String, String, String), String>,
}

impl Recording {
    /// Reads the recording of the repository.
    pub(super) fn read() -> Result<Self> {
        Self::parse(&fs::read_to_string(environment::workspace().join(FILE)).context(FILE)?)
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut recording = Self::default();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["required", type_, version, name, ":", ..] => {
                    let (_, refusal) = line.split_once(" : ").unwrap_or_default();
                    let key = [type_, version, name].map(|word| (*word).to_owned());
                    recording.required.insert(key.into(), refusal.to_owned());
                }
                [type_, versions @ ..] if !versions.is_empty() => {
                    let versions = versions.iter().map(|version| (*version).to_owned());
                    recording.types.insert((*type_).to_owned(), versions.collect());
                }
                _ => bail!("{FILE}: {line:?} is neither a type with versions nor a requirement"),
            }
        }
        Ok(recording)
    }

    /// Whether daprd rejected one of these names of a type (separated by commas) without that
    /// metadata.
    pub(super) fn requires(&self, types: &str, version: &str, name: &str) -> bool {
        types.split(',').any(|type_| {
            let key = [type_, version, name].map(str::to_owned);
            self.required.contains_key(&key.into())
        })
    }

    fn text(&self) -> String {
        let mut text = HEADER.to_owned();
        for (type_, versions) in &self.types {
            let versions: Vec<_> = versions.iter().map(String::as_str).collect();
            let _ = writeln!(text, "{type_} {}", versions.join(" "));
        }
        for ((type_, version, name), refusal) in &self.required {
            let _ = writeln!(text, "required {type_} {version} {name} : {refusal}");
        }
        text
    }
}

/// A type, a version and the metadata that its authors call required.
pub(super) type Described = (String, String, Vec<String>);

/// Runs daprd with every name that is known for any category, and writes the recording.
pub(super) fn record(described: Vec<Described>, additions: &Additions) -> Result<()> {
    let daprd = Daprd { program: Tool::DAPRD_ALL_COMPONENTS.path()? };
    let mut types: BTreeSet<String> = Recording::read()?.types.into_keys().collect();
    types.extend(described.iter().map(|(type_, ..)| type_.clone()));
    types.extend(additions.aliases.values().flatten().cloned());
    types.extend(additions.unknown.iter().map(|(type_, _)| type_.clone()));
    let mut recording = Recording { types: daprd.registered(&types)?, ..Recording::default() };
    for (type_, version, names) in described {
        let all = additions.names(&type_);
        let registered = |type_: &&str| {
            recording.types.get(*type_).is_some_and(|versions| versions.contains(&version))
        };
        let Some(found) = all.split(',').find(registered) else { continue };
        for (name, refusal) in daprd.required(found, &version, &names)? {
            recording.required.insert((found.to_owned(), version.clone(), name), refusal);
        }
    }
    fs::write(environment::workspace().join(FILE), recording.text()).context(FILE)
}

/// The outcome of a Component.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Loaded,
    Failed(String),
    /// The process ended earlier.
    None,
}

struct Daprd {
    program: PathBuf,
}

impl Daprd {
    /// The registered versions of the name of each type in each category.
    fn registered(&self, types: &BTreeSet<String>) -> Result<BTreeMap<String, BTreeSet<String>>> {
        let names: BTreeSet<&str> = types.iter().filter_map(|type_| name(type_)).collect();
        let mut queries = Vec::new();
        for category in CATEGORIES {
            for (name, version) in names.iter().flat_map(|name| VERSIONS.map(|v| (name, v))) {
                queries.push((format!("{category}.{name}"), version.to_owned(), Value::Null));
            }
        }
        let mut registered = BTreeMap::<String, BTreeSet<String>>::new();
        for batch in queries.chunks(BATCH) {
            let answers = self.run_all(batch)?;
            for (i, component) in batch.iter().enumerate() {
                let mut answer = answers.get(i).cloned().unwrap_or(Answer::None);
                if answer == Answer::None {
                    // Another one ended the process. One that ends it alone is registered.
                    let alone = self.run_all(std::slice::from_ref(component))?;
                    answer = alone.into_iter().next().unwrap_or(Answer::None);
                }
                let unknown = matches!(&answer, Answer::Failed(text)
                    if UNKNOWN.iter().any(|words| text.contains(words)));
                if !unknown {
                    let (asked_type, version, _) = component;
                    registered.entry(asked_type.clone()).or_default().insert(version.clone());
                }
            }
        }
        Ok(registered)
    }

    /// The metadata without which daprd rejects a Component that has all the other `names`, with
    /// the words of the error.
    fn required(
        &self,
        type_: &str,
        version: &str,
        names: &[String],
    ) -> Result<Vec<(String, String)>> {
        let metadata = |without: Option<&String>| {
            let given = names.iter().filter(|name| Some(*name) != without);
            let items = given.map(|name| json!({"name": name, "value": example(name)}));
            Value::Array(items.collect())
        };
        let component = |without| (type_.to_owned(), version.to_owned(), metadata(without));
        let mut queries = vec![component(None)];
        queries.extend(names.iter().map(|name| component(Some(name))));
        let answers = self.run_all(&queries)?;
        let Some((full, without)) = answers.split_first() else { return Ok(Vec::new()) };
        let refusals = names.iter().zip(without).filter_map(|(name, answer)| match answer {
            Answer::Failed(text) if answer != full => {
                let lacks = LACK.iter().any(|word| text.to_lowercase().contains(word));
                (lacks && !text.contains("connect")).then(|| (name.clone(), text.clone()))
            }
            _ => None,
        });
        Ok(refusals.collect())
    }

    /// Runs daprd with these Components in a network namespace without other machines.
    fn run_all(&self, components: &[(String, String, Value)]) -> Result<Vec<Answer>> {
        let folder = Scratch::new("components")?;
        let (resources, log) = (folder.path().join("r"), folder.path().join("log.txt"));
        fs::create_dir(&resources)?;
        let mut text = String::new();
        for (i, (type_, version, metadata)) in components.iter().enumerate() {
            let metadata = if metadata.is_null() { json!([]) } else { metadata.clone() };
            text += &json!({"apiVersion": "dapr.io/v1alpha1", "kind": "Component",
                "metadata": {"name": format!("c{i}")}, "spec": {"type": type_, "version": version,
                "ignoreErrors": true, "initTimeout": "2s", "metadata": metadata}})
            .to_string();
            text += "\n---\n";
        }
        fs::write(resources.join("all.yaml"), text)?;
        let output = fs::File::create(&log)?;
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
            .arg(&self.program)
            .args(["--app-id", "x", "--enable-metrics=false", "--log-as-json", "--resources-path"])
            .arg(&resources)
            .env_clear()
            .envs([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("DAPR_HOST_IP", "127.0.0.1")])
            .current_dir(folder.path())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("run unshare: recording needs root")?;
        let ended = until(Deadline::seconds(TIMEOUT), "the answers of daprd", || {
            let done = fs::read_to_string(&log)?.contains("All outstanding components processed");
            Ok((done || child.try_wait()?.is_some()).then_some(()))
        });
        child.kill()?;
        child.wait()?;
        ended?;
        Ok(answers(&fs::read_to_string(&log)?, components.len()))
    }
}

/// The results in a log of daprd.
fn answers(log: &str, count: usize) -> Vec<Answer> {
    let mut answers = vec![Answer::None; count];
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    for line in lines {
        let message = line.get("msg").and_then(Value::as_str).unwrap_or_default();
        let failed = message.strip_prefix("Failed to init component c");
        let loaded = message.strip_prefix("Component loaded: c");
        let Some((number, rest)) = failed.or(loaded).and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        let Some(answer) = number.parse().ok().and_then(|i: usize| answers.get_mut(i)) else {
            continue;
        };
        *answer = match rest.rsplit_once(&format!("c{number} ")) {
            _ if loaded.is_some() => Answer::Loaded,
            // After "initialization error occurred for c1 (type/version): ".
            Some((_, reason)) => Answer::Failed(first_line(reason)),
            None => Answer::Failed(first_line(rest)),
        };
    }
    answers
}

/// The words after the type, in one line.
fn first_line(reason: &str) -> String {
    let words = reason.split_once("): ").map_or(reason, |(_, words)| words);
    words.lines().next().unwrap_or_default().chars().take(160).collect()
}

/// The part of a type after its category.
fn name(type_: &str) -> Option<&str> {
    let rest =
        CATEGORIES.iter().find_map(|category| type_.strip_prefix(category)?.strip_prefix('.'));
    rest.filter(|rest| !rest.is_empty())
}

/// A value that daprd parses, and that reaches nothing outside of the machine.
fn example(name: &str) -> &'static str {
    let name = name.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    match () {
        () if name == "schedule" => "@every 1h",
        () if has(&["url", "endpoint", "uri"]) => "http://127.0.0.1:1",
        () if has(&["host", "server", "broker", "addr"]) => "127.0.0.1:1",
        () if has(&["timeout", "session"]) => "1s",
        () if has(&["port", "max", "count", "num"]) => "1",
        () => "x1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_is_read_as_it_was_written() {
        let recording = Recording::read().unwrap();
        assert!(recording.types.len() > 100 && recording.required.len() > 50);
        assert_eq!(Recording::parse(&recording.text()).unwrap(), recording);
        assert!(Recording::parse("state.x").is_err());
    }

    #[test]
    fn answers_are_read_from_the_log() {
        let line = |message: &str| json!({ "msg": message }).to_string();
        let log = [
            line(
                "Failed to init component c0 (a/v1): [X]: initialization error occurred for c0 (a/v1): missing b: c",
            ),
            line("Component loaded: c2 (a/v1)"),
            "panic: x".to_owned(),
        ];
        let want = [Answer::Failed("missing b: c".to_owned()), Answer::None, Answer::Loaded];
        assert_eq!(answers(&log.join("\n"), 3), want);
    }
}
