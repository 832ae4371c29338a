//! What a pod looks like right now.
//!
//! Pure. Objects are read as untyped JSON, so that members newer than our types do no harm.
use kube::core::DynamicObject;
use resources::injection::has_sidecar;
use serde_json::Value;

/// What to do about a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It asks for a sidecar and has none.
    Naked,
    /// It has one, without the injector's label.
    HasSidecar,
    /// It has ended: a new one would come up for nothing.
    Finished,
    /// It is about to go, or is another pod than the one that was seen.
    Gone,
}

/// Reads a pod that was just fetched; `uid` is that of the pod that was seen.
pub fn verdict(pod: &DynamicObject, uid: &str) -> Verdict {
    if pod.metadata.uid.as_deref() != Some(uid) || pod.metadata.deletion_timestamp.is_some() {
        return Verdict::Gone;
    }
    if has_sidecar(&pod.data) {
        return Verdict::HasSidecar;
    }
    match pod.data.pointer("/status/phase").and_then(Value::as_str) {
        Some("Succeeded" | "Failed") => Verdict::Finished,
        _ => Verdict::Naked,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use serde_json::json;

    use super::*;

    fn pod(spec: &Value, phase: &str) -> DynamicObject {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u"}, "spec": spec, "status": {"phase": phase},
        }))
        .unwrap()
    }

    #[rstest]
    #[case::naked(json!({"containers": [{"name": "app"}]}), "Running", Verdict::Naked)]
    #[case::pending(json!({"containers": [{"name": "app"}]}), "Pending", Verdict::Naked)]
    #[case::container(json!({"containers": [{"name": "app"}, {"name": "daprd"}]}), "Running", Verdict::HasSidecar)]
    #[case::native(json!({"initContainers": [{"name": "daprd"}], "containers": [{"name": "app"}]}), "Running", Verdict::HasSidecar)]
    #[case::job(json!({"containers": [{"name": "app"}]}), "Succeeded", Verdict::Finished)]
    #[case::evicted(json!({"containers": [{"name": "app"}]}), "Failed", Verdict::Finished)]
    fn pods_are_told_apart(#[case] spec: Value, #[case] phase: &str, #[case] want: Verdict) {
        assert_eq!(verdict(&pod(&spec, phase), "u"), want);
        assert_eq!(verdict(&pod(&spec, phase), "another"), Verdict::Gone);
    }

    #[test]
    fn terminating_pod_is_gone() {
        let mut naked = pod(&json!({"containers": [{"name": "app"}]}), "Running");
        naked.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(verdict(&naked, "u"), Verdict::Gone);
    }
}
