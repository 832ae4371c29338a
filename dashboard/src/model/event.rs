//! Events of the control plane about Pods and objects of `dapr.io`.

use jiff::Timestamp;
use serde_json::Value;

use super::{redaction, string};

/// An Event, reduced to what pages show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Namespace of the object that it is about.
    pub(crate) namespace: String,
    /// Kind of the object.
    pub(crate) kind: String,
    /// Name of the object.
    pub(crate) name: String,
    pub(crate) is_warning: bool,
    pub(crate) reason: String,
    pub(crate) note: String,
    pub(crate) at: Option<Timestamp>,
}

impl Event {
    /// Reads an Event of `v1`; `None` for those that neither the control plane recorded nor are
    /// about an object of `dapr.io`.
    pub(crate) fn read(event: &Value) -> Option<Self> {
        let at = |path: &str| string(event.pointer(path));
        let about_dapr = at("/involvedObject/apiVersion").starts_with("dapr.io/");
        let reporter = [at("/reportingComponent"), at("/source/component")];
        if !about_dapr && !reporter.iter().any(|name| name.starts_with("dapr-")) {
            return None;
        }
        let times = ["/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"];
        let note = at("/message");
        Some(Self {
            namespace: at("/involvedObject/namespace"),
            kind: at("/involvedObject/kind"),
            name: at("/involvedObject/name"),
            is_warning: at("/type") == "Warning",
            reason: at("/reason"),
            note: if redaction::is_secret_text(&note) {
                redaction::HIDDEN.to_owned()
            } else {
                note
            },
            at: times.iter().find_map(|path| at(path).parse().ok()),
        })
    }

    /// Whether it is about this object.
    pub(crate) fn is_about(&self, kind: &str, namespace: &str, name: &str) -> bool {
        self.kind == kind && self.namespace == namespace && self.name == name
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_events_of_the_control_plane_and_about_its_kinds_are_kept() {
        let event = |reporter: &str, version: &str| {
            Event::read(
                &json!({"type": "Warning", "reason": "UnknownType", "message": "no such type",
                "reportingComponent": reporter, "eventTime": "2026-11-01T10:00:00.000000Z",
                "involvedObject": {"apiVersion": version, "kind": "Component", "namespace": "shop",
                    "name": "state"}}),
            )
        };
        let kept = event("dapr-operator", "dapr.io/v1alpha1").unwrap();
        assert!(kept.is_warning && kept.is_about("Component", "shop", "state"));
        assert_eq!(kept.at.unwrap().to_string(), "2026-11-01T10:00:00Z");
        assert!(event("dapr-operator", "v1").is_some());
        assert!(event("argocd", "dapr.io/v1alpha1").is_some());
        assert!(event("kubelet", "v1").is_none());
    }

    #[test]
    fn a_note_with_a_secret_is_hidden() {
        let event =
            json!({"message": "dial redis://u:p@host", "reportingComponent": "dapr-operator"});
        assert_eq!(Event::read(&event).unwrap().note, redaction::HIDDEN);
    }
}
