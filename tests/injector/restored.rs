//! An API server whose etcd was restored from a backup: the injector lists Namespaces and Components
//! again. A watch that is resumed would stay silent, because its resource version is in the future.

use anyhow::Context as _;
use blackbox::injector_fixture::{Rights, names_of, pod};
use blackbox::process::tail;
use blackbox::{Deadline, InjectorFixture, until};
use serde_json::{Value, json};

use super::{container, enabled};

/// Time limit of each wait, in seconds.
const TIMEOUT: u64 = 300;
/// More writes than the programs of the cluster make while they start.
const WRITES: usize = 600;

/// A Namespace with a default and a Component with a container, both at the same `version`.
fn write(it: &InjectorFixture, namespace: &str, version: &str) {
    let annotation = format!("dapr.io/log-level={version}");
    it.api.kubectl(&["annotate", "--overwrite", "namespace", namespace, &annotation]).unwrap();
    let image = json!({"image": format!("store:{version}")}).to_string();
    let component = json!({
        "apiVersion": "dapr.io/v1alpha1", "kind": "Component",
        "metadata": {"name": "store", "namespace": namespace,
            "annotations": {"dapr.io/component-container": image}},
        "spec": {"type": "state.store", "version": "v1", "metadata": []},
    });
    it.api.apply(&component.to_string()).unwrap();
}

/// Waits until a new pod gets the default and the container of this version.
fn wait_for(it: &InjectorFixture, namespace: &str, version: &str, when: &str) {
    let object = pod("probe", &enabled(&json!({"dapr.io/inject-pluggable-components": "true"})));
    let args = ["create", "-n", namespace, "--dry-run=server", "-o", "json", "-f", "-"];
    let mut last = String::new();
    let waited = until(Deadline::seconds(TIMEOUT), &format!("pods as of {version} {when}"), || {
        let output = it.kubectl(&args, &object)?;
        let made: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        last = format!("{} {}", made["spec"], String::from_utf8_lossy(&output.stderr));
        if names_of(&made) != ["app", "daprd", "store"] {
            return Ok(None);
        }
        let image = json!(format!("store:{version}"));
        let level = ["--log-level", version];
        let arguments = container(&made, "daprd")["args"].as_array().cloned().unwrap_or_default();
        let is_set = arguments.windows(2).any(|two| two == level);
        Ok((is_set && container(&made, "store")["image"] == image).then_some(()))
    });
    waited
        .with_context(|| {
            format!("the last pod: {last}\nlog:\n{}", tail(&it.injector.process.log()))
        })
        .unwrap();
}

#[test]
fn a_restored_api_server_is_listed_again() {
    let it = InjectorFixture::start(Rights::Ours).unwrap();
    let namespace = it.api.namespace("history").unwrap();
    write(&it, &namespace, "debug");
    let backup = it.api.backup().unwrap();
    wait_for(&it, &namespace, "debug", "after the backup");
    write(&it, &namespace, "warn");
    wait_for(&it, &namespace, "warn", "before the restore");
    it.api.write_config_maps(&namespace, WRITES).unwrap();
    let newest = it.api.resource_version().unwrap();

    it.api.restore(&backup).unwrap();
    wait_for(&it, &namespace, "debug", "after the restore");
    // The watches work in the restored history too.
    write(&it, &namespace, "error");
    wait_for(&it, &namespace, "error", "in the restored history");
    let version = it.api.resource_version().unwrap();
    assert!(version < newest, "a resumed watch would have stayed silent");
}
