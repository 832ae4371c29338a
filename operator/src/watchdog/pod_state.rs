//! Classifies a pod that the watchdog has just read.
//!
//! Pure. The pod is untyped JSON, so members that are newer than our types have no effect.
use kube::core::DynamicObject;
use resources::injection::has_sidecar;
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodState {
    /// It requests a sidecar and has none.
    MissingSidecar,
    /// It has a sidecar, without the injector's label.
    HasSidecar,
    /// It is finished; a replacement would have no use.
    Finished,
    /// It is terminating, or is another pod of the same name.
    Gone,
}

/// Classifies a pod; `uid` is the UID of the candidate.
pub(crate) fn classify(pod: &DynamicObject, uid: &str) -> PodState {
    if pod.metadata.uid.as_deref() != Some(uid) || pod.metadata.deletion_timestamp.is_some() {
        return PodState::Gone;
    }
    if has_sidecar(&pod.data) {
        return PodState::HasSidecar;
    }
    match pod.data.pointer("/status/phase").and_then(Value::as_str) {
        Some("Succeeded" | "Failed") => PodState::Finished,
        _ => PodState::MissingSidecar,
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
    #[case::running(json!({"containers": [{"name": "app"}]}), "Running", PodState::MissingSidecar)]
    #[case::pending(json!({"containers": [{"name": "app"}]}), "Pending", PodState::MissingSidecar)]
    #[case::container(json!({"containers": [{"name": "app"}, {"name": "daprd"}]}), "Running", PodState::HasSidecar)]
    #[case::native(json!({"initContainers": [{"name": "daprd"}], "containers": [{"name": "app"}]}), "Running", PodState::HasSidecar)]
    #[case::job(json!({"containers": [{"name": "app"}]}), "Succeeded", PodState::Finished)]
    #[case::evicted(json!({"containers": [{"name": "app"}]}), "Failed", PodState::Finished)]
    fn classifies_pods(#[case] spec: Value, #[case] phase: &str, #[case] want: PodState) {
        assert_eq!(classify(&pod(&spec, phase), "u"), want);
        assert_eq!(classify(&pod(&spec, phase), "another"), PodState::Gone);
    }

    #[test]
    fn terminating_pod_is_gone() {
        let mut pod_ = pod(&json!({"containers": [{"name": "app"}]}), "Running");
        pod_.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(classify(&pod_, "u"), PodState::Gone);
    }
}
