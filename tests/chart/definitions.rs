//! `operator apply-crds` on a real API server: definitions grow, objects keep every member.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value yields null, no panic")]

use anyhow::{Context as _, Result, ensure};
use blackbox::accounts::kubeconfig;
use blackbox::{ApiCluster, ApiClusterOptions, Deadline, Scratch, apply_crds, until};
use serde_json::{Value, json};

use crate::helm::{NAMESPACE, Objects, folder};

const POLICIES: &str = "workflowaccesspolicies.dapr.io";
/// Where the schema of a workflow rule is in the definition of policies.
const WORKFLOW: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/rules/\
                        items/properties/workflows/items";
const SECONDS: u64 = 120;

fn cluster() -> Result<ApiCluster> {
    let cluster =
        ApiCluster::start_with(ApiClusterOptions { controllers: false, ..Default::default() })?;
    cluster.kubectl(&["create", "namespace", NAMESPACE])?;
    let deployment = ["create", "deployment", "dapr-operator", "--image=localhost/pause:1"];
    cluster.kubectl(&[&deployment[..], &["-n", NAMESPACE]].concat())?;
    Ok(cluster)
}

/// Reasons and notes of the Events on the operator's Deployment.
fn events(cluster: &ApiCluster) -> Result<Vec<(String, String)>> {
    let deployment = cluster.get(&["deployment", "dapr-operator", "-n", NAMESPACE])?;
    let events = cluster.get(&["events", "-n", NAMESPACE])?;
    let events = events["items"].as_array().context("no list")?.iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let about = events.filter(|event| {
        // `kubectl describe` selects by the UID.
        event["involvedObject"]["uid"] == deployment["metadata"]["uid"]
            && event["type"] == "Warning"
    });
    Ok(about.map(|event| (text(&event["reason"]), text(&event["message"]))).collect())
}

fn succeeds(cluster: &ApiCluster) -> Result<String> {
    let (log, success) = apply_crds(cluster.kubeconfig(), NAMESPACE)?;
    ensure!(success, "apply-crds failed: {log}");
    Ok(log)
}

fn patch(cluster: &ApiCluster, operations: &Value) -> Result<()> {
    let operations = operations.to_string();
    cluster.kubectl(&["patch", "crd", POLICIES, "--type=json", "-p", &operations]).map(drop)
}

fn policy(name: &str, rules: &Value) -> Value {
    json!({"apiVersion": "dapr.io/v1alpha1", "kind": "WorkflowAccessPolicy",
        "metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"rules": rules}})
}

/// Writes an object without client-side validation, as most clients do.
fn write(cluster: &ApiCluster, verb: &str, object: &Value) -> Result<String> {
    let args = [verb, "--validate=false", "-f", "-"];
    cluster.cluster().kubectl_with_input(&args, &object.to_string())
}

fn read(cluster: &ApiCluster, name: &str) -> Result<Value> {
    cluster.get(&[POLICIES, name, "-n", NAMESPACE])
}

fn gated() -> Value {
    json!([{"callers": [{"appID": "shop"}],
        "workflows": [{"name": "refund", "operations": ["schedule"],
            "requires": [{"eventType": "activity.completed", "name": "approve", "appID": "till"}]}],
        "activities": [{"name": "pay", "requires":
            [{"eventType": "event.raised", "name": "paid", "appID": "till"}]}]}])
}

#[test]
fn definitions_grow_and_objects_keep_every_member() -> Result<()> {
    let cluster = cluster()?;
    succeeds(&cluster)?;
    let ours = cluster.get(&["crd", POLICIES])?;
    write(&cluster, "create", &policy("gated", &gated()))?;
    assert_eq!(read(&cluster, "gated")?["spec"]["rules"], gated(), "nothing is pruned");

    newer_definitions_stay(&cluster)?;
    mixed_definitions_become_the_union(&cluster)?;
    older_definitions_become_ours(&cluster, &ours)
}

/// A later release has one more member, and an object uses it.
fn newer_definitions_stay(cluster: &ApiCluster) -> Result<()> {
    let member = format!("{WORKFLOW}/properties/later");
    patch(cluster, &json!([{"op": "add", "path": member, "value": {"type": "string"}}]))?;
    let mut object = read(cluster, "gated")?;
    object["spec"]["rules"][0]["workflows"][0]["later"] = json!("gate");
    until(Deadline::seconds(SECONDS), "the new member to be served", || {
        write(cluster, "replace", &object)?;
        object = read(cluster, "gated")?;
        let served = object["spec"]["rules"][0]["workflows"][0]["later"] == "gate";
        if !served {
            object["spec"]["rules"][0]["workflows"][0]["later"] = json!("gate");
        }
        Ok(served.then_some(()))
    })?;
    let before = cluster.get(&["crd", POLICIES])?;

    let log = succeeds(cluster)?;
    let want = format!(
        "kept {POLICIES}: newer than this release (e.g. v1alpha1.spec.rules[].workflows[].later)"
    );
    ensure!(log.contains(&want), "{log}");
    let after = cluster.get(&["crd", POLICIES])?;
    assert_eq!(after["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
    assert_eq!(read(cluster, "gated")?, object);
    let note = format!("{want}; upgrade the control plane, which knows nothing of it");
    assert_eq!(events(cluster)?, [("DefinitionNewer".to_owned(), note)]);
    Ok(())
}

/// Each side has a member that the other lacks.
fn mixed_definitions_become_the_union(cluster: &ApiCluster) -> Result<()> {
    let operations = json!([
        {"op": "remove", "path": format!("{WORKFLOW}/x-kubernetes-validations")},
        {"op": "remove", "path": format!("{WORKFLOW}/properties/requires")},
        {"op": "remove", "path": format!("{WORKFLOW}/properties/name/maxLength")},
    ]);
    patch(cluster, &operations)?;
    let log = succeeds(cluster)?;
    ensure!(log.contains(&format!("kept {POLICIES}: newer than this release")), "{log}");
    let crd = cluster.get(&["crd", POLICIES])?;
    let members = crd.pointer(WORKFLOW).context("no schema")?["properties"].clone();
    assert_eq!(members["later"]["type"], "string", "theirs");
    assert_eq!(members["requires"]["maxItems"], 20, "ours");
    assert_eq!(members["name"].get("maxLength"), None, "the constraints of the cluster");
    let rules = read(cluster, "gated")?["spec"]["rules"].clone();
    assert_eq!(rules[0]["workflows"][0]["later"], "gate");
    assert_eq!(rules[0]["workflows"][0]["requires"][0]["name"], "approve");
    Ok(())
}

fn older_definitions_become_ours(cluster: &ApiCluster, ours: &Value) -> Result<()> {
    patch(
        cluster,
        &json!([
            {"op": "remove", "path": format!("{WORKFLOW}/properties/later")},
            {"op": "remove", "path": format!("{WORKFLOW}/properties/requires")},
        ]),
    )?;
    let log = succeeds(cluster)?;
    ensure!(log.contains(&format!("applied {POLICIES}")), "{log}");
    assert_eq!(cluster.get(&["crd", POLICIES])?["spec"], ours["spec"]);
    Ok(())
}

#[test]
fn without_the_right_to_read_nothing_is_written() -> Result<()> {
    let cluster = cluster()?;
    cluster.kubectl(&["create", "serviceaccount", "weak", "-n", NAMESPACE])?;
    let scratch = Scratch::new("weak")?;
    let weak = kubeconfig(&cluster, &scratch, "weak.kubeconfig", "weak")?;
    let (log, success) = apply_crds(&weak, NAMESPACE)?;
    ensure!(!success, "{log}");
    ensure!(log.contains("grant get on customresourcedefinitions.apiextensions.k8s.io"), "{log}");
    assert_eq!(cluster.get(&["crd"])?["items"], json!([]));
    Ok(())
}

/// The hook's account with only the rights of the chart applies, keeps, and records its Event.
#[test]
fn the_rights_of_the_hook_suffice() -> Result<()> {
    let cluster = cluster()?;
    let rendered = Objects::render(&[])?;
    let rights = ["ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"];
    for kind in rights {
        let object = rendered.get(&format!("{kind}/dapr-crds"))?;
        cluster.cluster().kubectl_with_input(&["apply", "-f", "-"], &object.to_string())?;
    }
    let scratch = Scratch::new("hook")?;
    let hook = kubeconfig(&cluster, &scratch, "hook.kubeconfig", "dapr-crds")?;
    let (log, success) = apply_crds(&hook, NAMESPACE)?;
    ensure!(success, "created: {log}");
    let gone = ["x-kubernetes-validations", "properties/requires"];
    let gone = gone.map(|part| json!({"op": "remove", "path": format!("{WORKFLOW}/{part}")}));
    patch(&cluster, &json!(gone))?;
    let (log, success) = apply_crds(&hook, NAMESPACE)?;
    ensure!(success && log.contains(&format!("applied {POLICIES}")), "brought up: {log}");
    let member = format!("{WORKFLOW}/properties/later");
    patch(&cluster, &json!([{"op": "add", "path": member, "value": {"type": "string"}}]))?;
    let (log, success) = apply_crds(&hook, NAMESPACE)?;
    ensure!(success && log.contains(&format!("kept {POLICIES}")), "kept: {log}");
    let reasons: Vec<_> = events(&cluster)?.into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, ["DefinitionNewer"], "{log}");
    Ok(())
}

#[test]
fn a_member_of_another_type_is_refused_by_name() -> Result<()> {
    let cluster = cluster()?;
    succeeds(&cluster)?;
    let member = format!("{WORKFLOW}/properties/requires");
    patch(
        &cluster,
        &json!([
            {"op": "remove", "path": format!("{WORKFLOW}/x-kubernetes-validations")},
            {"op": "replace", "path": member, "value": {"type": "string"}},
        ]),
    )?;
    let (log, success) = apply_crds(cluster.kubeconfig(), NAMESPACE)?;
    ensure!(!success, "{log}");
    for part in [POLICIES, "v1alpha1.spec.rules[].workflows[].requires is", "string", "array"] {
        ensure!(log.contains(part), "no {part} in {log}");
    }
    let [(reason, note)] = &events(&cluster)?[..] else { anyhow::bail!("not one Event") };
    assert_eq!(reason, "DefinitionNotApplied");
    ensure!(note.starts_with(&format!("merge {POLICIES}: v1alpha1.spec.rules[]")), "{note}");
    Ok(())
}

/// The limits and rules of Dapr 1.19, each with the API server's message.
#[test]
fn policies_beyond_a_limit_are_refused() -> Result<()> {
    let cluster = cluster()?;
    succeeds(&cluster)?;
    let rule = |change: &dyn Fn(&mut Value)| {
        let mut rules = gated();
        change(&mut rules[0]);
        rules
    };
    let long = "x".repeat(257);
    let many = |value: &Value, count: usize| Value::Array(vec![value.clone(); count]);
    let event = json!({"eventType": "event.raised", "name": "paid", "appID": "till"});
    let refused = [
        (many(&gated()[0], 101), "must have at most 100 items"),
        (
            rule(&|r| r["callers"] = many(&json!({"appID": "a"}), 101)),
            "must have at most 100 items",
        ),
        (
            rule(&|r| r["activities"] = many(&json!({"name": "a"}), 101)),
            "must have at most 100 items",
        ),
        (
            rule(&|r| r["activities"][0]["requires"] = many(&event, 21)),
            "must have at most 20 items",
        ),
        (rule(&|r| r["callers"][0]["appID"] = json!(long)), "may not be more than 256"),
        (rule(&|r| r["workflows"][0]["name"] = json!(long)), "may not be more than 256"),
        (rule(&|r| r["workflows"][0]["requires"][0]["appID"] = json!("")), "at least 1 chars long"),
        (
            rule(&|r| r["workflows"][0]["requires"][0]["eventType"] = json!("done")),
            "Unsupported value",
        ),
        (rule(&|r| r["workflows"][0]["requires"][0] = json!({"name": "a"})), "Required value"),
        (
            rule(&|r| r["workflows"][0]["operations"] = json!(["schedule", "get"])),
            "requires is only valid when the rule's only operation is 'schedule'",
        ),
        (
            rule(&|r| *r = json!({"callers": [{"appID": "a"}]})),
            "at least one of workflows or activities must contain a rule",
        ),
    ];
    for (rules, says) in refused {
        let Err(error) = write(&cluster, "create", &policy("refused", &rules)) else {
            anyhow::bail!("not refused: {says}")
        };
        let text = format!("{error:#}");
        ensure!(text.contains(says), "{says}: {text}");
    }
    let at_the_limit = [
        many(&gated()[0], 100),
        rule(&|r| r["activities"][0]["requires"] = many(&event, 20)),
        rule(&|r| r["workflows"][0]["name"] = json!("x".repeat(256))),
        rule(&|r| r["workflows"][0]["operations"] = json!(["schedule"])),
    ];
    for (index, rules) in at_the_limit.iter().enumerate() {
        write(&cluster, "create", &policy(&format!("allowed-{index}"), rules))?;
    }
    Ok(())
}

/// What Artifact Hub shows about the definitions is what the chart has.
#[test]
fn the_annotation_for_artifact_hub_lists_the_definitions() -> Result<()> {
    let read = |path: std::path::PathBuf| -> Result<Value> {
        let text = std::fs::read_to_string(&path)?;
        Ok(serde_saphyr::from_str(&text)?)
    };
    let chart = read(folder().join("Chart.yaml"))?;
    let listed = chart["annotations"]["artifacthub.io/crds"].as_str().unwrap_or_default();
    let listed: Value = serde_saphyr::from_str(listed)?;
    let name = |crd: &Value| crd["name"].as_str().map(str::to_owned);
    let listed: std::collections::BTreeSet<_> =
        listed.as_array().into_iter().flatten().filter_map(name).collect();
    let mut there = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(folder().join("crds"))? {
        there.extend(name(&read(entry?.path())?["metadata"]));
    }
    ensure!(listed == there, "{listed:?} are listed, {there:?} are in the chart");
    Ok(())
}
