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
fn github_output() {
    insta::assert_snapshot!(output::print(LintOutput::Github, &found(), 1).unwrap());
}

/// What is printed about files without a finding.
#[test]
fn output_without_findings() {
    let formats = [LintOutput::Text, LintOutput::Json, LintOutput::Sarif, LintOutput::Github];
    let printed = formats.map(|format| {
        let text = output::print(format, &[], 2).unwrap();
        format!("== {format:?}\n{}", text.replace(runtime::VERSION, "VERSION"))
    });
    insta::assert_snapshot!(printed.concat());
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

/// The YAML files below a folder of the repository, by their path in it.
fn files_of(folder: &str) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let (mut folders, mut paths) = (vec![root.clone()], Vec::<PathBuf>::new());
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
    paths.sort_unstable();
    let mut files = documents::read(&paths).unwrap();
    for (file, path) in files.iter_mut().zip(&paths) {
        path.strip_prefix(&root).unwrap().to_str().unwrap().clone_into(&mut file.name);
    }
    files
}

#[test]
fn our_samples_are_clean() {
    assert_eq!(findings(&files_of("deploy/samples"), Timestamp::UNIX_EPOCH), []);
}

/// Manifests from public reports: each finding that they should have, and no other.
#[test]
fn manifests_of_public_reports_have_their_findings_and_no_other() {
    let want = [
        (
            "13-objects-inside-objects/openshift-template.yaml",
            "refers to a parameter of the Template",
        ),
        (
            "16-ports-already-taken/pods.yaml",
            "port 9090 of container gateway is also the metrics port",
        ),
        ("16-ports-already-taken/pods.yaml", "port 50001 of container agent is also the gRPC API"),
        ("16-ports-already-taken/pods.yaml", "port 3500 of container agent is also the HTTP API"),
        (
            "16-ports-already-taken/pods.yaml",
            "daprd uses ports 3500, 3501, 9090, 50001, 50002 of the node",
        ),
        ("17-no-service-account-token/pod.yaml", "the pod has no service account token"),
        ("20-annotations-of-old/deployments.yaml", "did you mean dapr.io/app-port?"),
        ("20-annotations-of-old/deployments.yaml", "did you mean dapr.io/app-id?"),
        ("32-config-annotation-empty/pod.yaml", "dapr.io/log-level: is empty; the default applies"),
        ("32-config-annotation-empty/pod.yaml", "dapr.io/config is empty and was removed"),
    ];
    let found = findings(&files_of("tests/fixtures/cases"), Timestamp::UNIX_EPOCH);
    assert_eq!(found.len(), want.len(), "{found:#?}");
    for (finding, (file, words)) in found.iter().zip(want) {
        assert_eq!(finding.file, file, "{finding:?}");
        assert!(finding.text.contains(words), "{words}: {finding:?}");
    }
}

#[test]
fn a_vault_store_of_two_tokens_has_a_finding() {
    let store = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: strongbox}\nspec:\n  type: secretstores.hashicorp.vault\n  version: v1\n  metadata:\n  - {name: vaultToken, value: a}\n  - {name: vaultTokenMountPath, value: /token}\n";
    let found = findings(&[file("a.yaml", store)], Timestamp::UNIX_EPOCH);
    let text = &found.first().unwrap().text;
    assert!(found.len() == 1 && text.contains("vaultTokenMountPath"), "{found:?}");
}

#[test]
fn objects_of_other_tools_are_ignored() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nunknown: 1\n";
    assert_eq!(findings(&[file("a.yaml", text)], Timestamp::UNIX_EPOCH), []);
}
