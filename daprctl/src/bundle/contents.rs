//! The parts of objects and logs in a bundle. Pure: each function names the members that it
//! copies, so what is not named here is left out.

use serde_json::{Map, Value, json};

use crate::pods::text;

/// Replacement of a log line that may contain a secret.
const HIDDEN_LINE: &str = "(a line that may hold a secret)";

/// The first `max` objects, and how many there are.
pub(super) fn cut(mut objects: Vec<Value>, max: usize) -> Value {
    let total = objects.len();
    objects.truncate(max);
    json!({"total": total, "shown": objects.len(), "items": objects})
}

/// A pod: where it runs, how it is, which images.
pub(super) fn pod(pod: &Value) -> Value {
    let statuses = |list: &str| -> Vec<Value> {
        let statuses = pod.pointer(&format!("/status/{list}")).and_then(Value::as_array);
        statuses.into_iter().flatten().map(container_status).collect()
    };
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let conditions = conditions.into_iter().flatten();
    json!({
        "metadata": metadata(pod),
        "node": pod.pointer("/spec/nodeName"),
        "phase": pod.pointer("/status/phase"),
        "reason": pod.pointer("/status/reason"),
        "conditions": conditions.map(|c| only(c, &["type", "status", "reason", "lastTransitionTime"])).collect::<Vec<_>>(),
        "initContainers": statuses("initContainerStatuses"),
        "containers": statuses("containerStatuses"),
    })
}

fn container_status(status: &Value) -> Value {
    let reduced = |path: &str| {
        let found = status.pointer(path).and_then(Value::as_object);
        let members = found.into_iter().flatten().map(|(name, detail)| {
            (name.clone(), only(detail, &["reason", "exitCode", "startedAt", "finishedAt"]))
        });
        members.collect::<Map<_, _>>()
    };
    let mut shown = only(status, &["name", "image", "ready", "restartCount"]);
    if let Some(members) = shown.as_object_mut() {
        members.insert("state".to_owned(), Value::Object(reduced("/state")));
        members.insert("lastState".to_owned(), Value::Object(reduced("/lastState")));
    }
    shown
}

/// A Deployment or `StatefulSet`: replicas, images, names of flags without their values.
pub(super) fn workload(workload: &Value) -> Value {
    let containers = workload.pointer("/spec/template/spec/containers").and_then(Value::as_array);
    let containers = containers.into_iter().flatten().map(|container| {
        let mut shown = only(container, &["name", "image", "resources"]);
        let args = container.get("args").and_then(Value::as_array).into_iter().flatten();
        let flags: Vec<_> = args
            .filter_map(Value::as_str)
            .filter(|arg| arg.starts_with('-'))
            .filter_map(|arg| arg.split('=').next())
            .collect();
        if let Some(members) = shown.as_object_mut() {
            members.insert("flags".to_owned(), json!(flags));
        }
        shown
    });
    json!({
        "metadata": metadata(workload),
        "replicas": workload.pointer("/spec/replicas"),
        "readyReplicas": workload.pointer("/status/readyReplicas"),
        "updatedReplicas": workload.pointer("/status/updatedReplicas"),
        "containers": containers.collect::<Vec<_>>(),
    })
}

/// What maintainers need of an Event.
pub(super) fn event(event: &Value) -> Value {
    let mut shown =
        only(event, &["type", "reason", "count", "firstTimestamp", "lastTimestamp", "eventTime"]);
    let message = text(event.get("message"));
    if let Some(members) = shown.as_object_mut() {
        let about =
            event.get("involvedObject").map(|object| only(object, &["kind", "namespace", "name"]));
        members.insert("object".to_owned(), about.unwrap_or_default());
        members.insert("message".to_owned(), json!(message));
    }
    shown
}

/// Pod and container of each container that has started.
pub(super) fn containers(pod: &Value) -> Vec<(String, String)> {
    let name = text(pod.pointer("/metadata/name"));
    let statuses = pod.pointer("/status/containerStatuses").and_then(Value::as_array);
    let statuses = statuses.into_iter().flatten();
    let containers = statuses.map(|status| text(status.get("name")));
    containers.map(|container| (name.clone(), container)).collect()
}

/// The value with what stands for a secret in place of each string that may hold one.
pub(super) fn without_secrets(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(dashboard::without_secrets(&text).to_owned()),
        Value::Array(items) => items.into_iter().map(without_secrets).collect(),
        Value::Object(members) => {
            members.into_iter().map(|(name, value)| (name, without_secrets(value))).collect()
        }
        other => other,
    }
}

/// The end of a log of at most `max` bytes in whole lines, without lines that may hold a secret.
pub(super) fn log(log: &str, max: usize) -> String {
    let mut lines: Vec<&str> = Vec::new();
    let mut bytes = 0;
    let checked: Vec<_> = dashboard::checked_lines(log).collect();
    for (line, may_be_secret) in checked.into_iter().rev() {
        let line = if may_be_secret { HIDDEN_LINE } else { line };
        bytes += line.len() + 1;
        if bytes > max {
            break;
        }
        lines.push(line);
    }
    lines.iter().rev().fold(String::new(), |text, line| text + line + "\n")
}

fn metadata(object: &Value) -> Value {
    let metadata = object.get("metadata").unwrap_or(&Value::Null);
    only(
        metadata,
        &["name", "namespace", "labels", "creationTimestamp", "deletionTimestamp", "generation"],
    )
}

/// The members of these names.
fn only(object: &Value, names: &[&str]) -> Value {
    let members =
        names.iter().filter_map(|name| Some(((*name).to_owned(), object.get(name)?.clone())));
    Value::Object(members.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLANTED: &str = "planted-9f3c";

    #[test]
    fn no_part_of_an_object_that_may_hold_a_secret_is_copied() {
        let object = json!({
            "metadata": {"name": "p", "namespace": "ns", "annotations": {"a": PLANTED},
                "managedFields": [{"f": PLANTED}]},
            "spec": {"nodeName": "n", "replicas": 1, "containers": [{"name": "c", "env": [{"value": PLANTED}]}],
                "template": {"spec": {"containers": [{"name": "c", "image": "i",
                    "args": ["--etcd-client-password", PLANTED, format!("--password={PLANTED}"), "--mode=x"],
                    "env": [{"name": "A", "value": PLANTED}]}]}}},
            "status": {"phase": "Running", "containerStatuses": [{"name": "c", "image": "i",
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": PLANTED}}}]},
            "involvedObject": {"kind": "Pod", "name": "p"}, "type": "Warning", "reason": "r",
            "message": format!("password={PLANTED}"),
        });
        for shown in [pod(&object), workload(&object), event(&object)].map(without_secrets) {
            assert!(!shown.to_string().contains(PLANTED), "{shown:#}");
        }
        assert_eq!(
            workload(&object).pointer("/containers/0/flags"),
            Some(&json!(["--etcd-client-password", "--password", "--mode"]))
        );
        assert!(pod(&object).to_string().contains("CrashLoopBackOff"));
    }

    #[test]
    fn every_string_of_a_report_that_may_hold_a_secret_is_hidden() {
        let said = format!(r#"daprd answered {{"token":"{PLANTED}"}}"#);
        let report = json!({"success": false, "checks": [{"text": said, "count": 1}]});
        let shown = json!({"success": false, "checks": [{"text": "(hidden)", "count": 1}]});
        assert_eq!(without_secrets(report), shown);
    }

    #[test]
    fn a_log_keeps_its_last_lines_without_secrets() {
        let text = format!("first\nAuthorization: Bearer {PLANTED}\nlast\n");
        assert_eq!(log(&text, 1_000), format!("first\n{HIDDEN_LINE}\nlast\n"));
    }

    #[test]
    fn a_log_may_be_as_long_as_the_limit() {
        assert_eq!(log("aa\nbb\n", 6), "aa\nbb\n");
        assert_eq!(log("aa\nbb\n", 5), "bb\n");
    }

    #[test]
    fn a_list_says_what_was_left_out() {
        let objects = |count| cut(vec![json!(1); count], 3);
        assert_eq!(objects(3).get("shown"), Some(&json!(3)));
        let longer = objects(4);
        assert_eq!((longer.get("shown"), longer.get("total")), (Some(&json!(3)), Some(&json!(4))));
    }
}
