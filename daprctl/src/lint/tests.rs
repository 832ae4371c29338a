use std::path::{Path, PathBuf};

use super::documents::split;
use super::*;
use crate::lint::output::LintOutput;

const BAD: &str = r#"
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: state
  namespace: shop
spec:
  type: state.redsi
  version: v1
  metadata:
  - name: redisHost
    value: redis:6379
scope: [cart]
---
apiVersion: dapr.io/v1alpha1
kind: Resilience
metadata: {name: retry}
---
apiVersion: dapr.io/v3
kind: Subscription
metadata: {name: orders}
---
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: tracing}
spec:
  tracing: {samplingRate: 1}
---
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: strict}
spec:
  api: {denied: [{name: state, version: v1}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}
spec:
  template:
    metadata:
      annotations:
        dapr.io/enabled: "true"
        dapr.io/app-id: cart
        dapr.io/app-port: "eighty"
    spec: {containers: [{name: app, image: cart}]}
---
a: b: c
"#;

fn file(name: &str, text: &str) -> File {
    File { name: name.to_owned(), documents: split(text) }
}

fn found() -> Vec<Finding> {
    findings(&[file("bad.yaml", BAD)], Timestamp::UNIX_EPOCH)
}

#[test]
fn text_output() {
    insta::assert_snapshot!(output::print(LintOutput::Text, &found(), 1).unwrap());
}

#[test]
fn json_output() {
    insta::assert_snapshot!(output::print(LintOutput::Json, &found(), 1).unwrap());
}

#[test]
fn sarif_output() {
    let text = output::print(LintOutput::Sarif, &found(), 1).unwrap();
    insta::assert_snapshot!(text.replace(runtime::VERSION, "VERSION"));
}

#[test]
fn github_output_stays_on_one_line_each() {
    let mut found = found();
    found[0].text = "a\n::set-output name=x::y%".to_owned();
    found[0].file = "a,b:c.yaml".to_owned();
    let text = output::print(LintOutput::Github, &found, 1).unwrap();
    let first = text.lines().next().unwrap();
    assert!(first.contains("file=a%2Cb%3Ac.yaml,line="), "{first}");
    assert!(first.ends_with("::a%0A::set-output name=x::y%25"), "{first}");
    assert_eq!(text.lines().count(), found.len());
}

#[test]
fn our_samples_are_clean() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples");
    let (mut folders, mut paths) = (vec![root], Vec::<PathBuf>::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "yaml") {
                paths.push(path);
            }
        }
    }
    assert!(paths.len() > 5, "{paths:?}");
    let files = documents::read(&paths).unwrap();
    assert_eq!(findings(&files, Timestamp::UNIX_EPOCH), []);
}

#[test]
fn objects_of_other_tools_are_ignored() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nunknown: 1\n";
    assert_eq!(findings(&[file("a.yaml", text)], Timestamp::UNIX_EPOCH), []);
}
