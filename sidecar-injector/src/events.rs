//! What the owner of a pod is told. Admission warnings reach only the client that creates the pod,
//! which for most pods is a controller that shows them to nobody.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::ObjectMeta;
use resources::names;
use runtime::printable;

use crate::review::{Ending, Review, Verdict};

/// One event for an owner and a reason in this time: an owner with a hundred pods has one story.
const QUIET: Duration = Duration::from_mins(10);
/// Owners remembered; with more at once, events are left out.
const MAX_REMEMBERED: usize = 4096;
/// Longest text that the API server takes, in characters (`events.k8s.io/v1`).
const MAX_NOTE_CHARS: usize = 1024;

/// What happened, as the event's reason says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The pod got its sidecar.
    Injected,
    /// The pod wanted a sidecar and goes on without one.
    Skipped,
    /// The pod was refused.
    Denied,
    /// The API server does not call the webhook.
    NotCalled,
}

/// An event that is not sent yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    owner: Owner,
    namespace: String,
    reason: Reason,
    note: String,
    is_warning: bool,
}

/// The object that controls a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// For example `apps/v1`.
    pub api_version: String,
    /// For example `ReplicaSet`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl Report {
    /// What to tell about this request; nothing for dry runs (the webhook declares that they have
    /// no side effects), for pods without an owner, and for pods that wanted nothing.
    pub fn of(review: &Review, verdict: &Verdict) -> Option<Self> {
        if review.is_dry_run() {
            return None;
        }
        let owner = review.owner()?;
        let told: Vec<&str> = verdict.warnings().iter().map(|w| w.text.as_str()).collect();
        let told = told.join("; ");
        let (reason, is_warning, note) = match &verdict.ending {
            Ending::Injected { .. } if told.is_empty() => {
                (Reason::Injected, false, format!("sidecar of app {} injected", verdict.app))
            }
            Ending::Injected { .. } => {
                let note = format!("sidecar of app {} injected, but: {told}", verdict.app);
                (Reason::Injected, true, note)
            }
            Ending::NotAllowed { .. } if !told.is_empty() => (Reason::Skipped, true, told),
            Ending::Refused(why) => (Reason::Denied, true, why.clone()),
            Ending::NotAllowed { .. } | Ending::Skipped(_) | Ending::WrongKind { .. } => {
                return None;
            }
        };
        let note = printable(&note).chars().take(MAX_NOTE_CHARS).collect();
        let namespace = review.namespace().to_owned();
        Some(Self { owner, namespace, reason, note, is_warning })
    }

    /// The namespace of pod, owner and event.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The event as the API server takes it; `instance` is the name of this process's pod.
    pub fn into_event(self, instance: &str, now: jiff::Timestamp) -> Event {
        let reason = match self.reason {
            Reason::Injected => "DaprInjected",
            Reason::Skipped => "DaprInjectionSkipped",
            Reason::Denied => "DaprInjectionDenied",
            Reason::NotCalled => "DaprInjectorNotCalled",
        };
        Event {
            metadata: ObjectMeta {
                generate_name: Some("dapr-injection-".to_owned()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            action: Some("Inject".to_owned()),
            event_time: Some(MicroTime(now)),
            note: Some(self.note),
            reason: Some(reason.to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some(self.owner.api_version),
                kind: Some(self.owner.kind),
                name: Some(self.owner.name),
                namespace: Some(self.namespace),
                uid: Some(self.owner.uid).filter(|uid| !uid.is_empty()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some("dapr.io/sidecar-injector".to_owned()),
            reporting_instance: Some(instance.to_owned()),
            type_: Some(if self.is_warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        }
    }
}

/// The event about the injector's own Deployment: the API server does not reach the webhook.
pub fn unreached(count: u64, namespace: &str, instance: &str, now: jiff::Timestamp) -> Event {
    let report = Report {
        owner: Owner {
            api_version: "apps/v1".to_owned(),
            kind: "Deployment".to_owned(),
            name: names::SERVICE_INJECTOR.to_owned(),
            uid: String::new(),
        },
        namespace: namespace.to_owned(),
        reason: Reason::NotCalled,
        note: format!(
            "not called by the API server since start, but {count} pods since then asked for a sidecar: \
             check that the API server can reach the webhook's port, 4000 by default, of the injector's pods"
        ),
        is_warning: true,
    };
    report.into_event(instance, now)
}

/// Lets one event for each owner and reason through in ten minutes.
#[derive(Debug, Default)]
pub struct Limiter {
    sent: HashMap<(String, Reason), Instant>,
}

impl Limiter {
    /// Whether this report may be sent now; it then counts as sent.
    pub fn admits(&mut self, report: &Report, now: Instant) -> bool {
        if self.sent.len() >= MAX_REMEMBERED {
            self.sent.retain(|_, at| now.duration_since(*at) < QUIET);
        }
        let key = (report.owner.uid.clone(), report.reason);
        let last = self.sent.get(&key);
        if last.is_some_and(|at| now.duration_since(*at) < QUIET)
            || (last.is_none() && self.sent.len() >= MAX_REMEMBERED)
        {
            return false;
        }
        self.sent.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(uid: &str, reason: Reason) -> Report {
        let text = |text: &str| text.to_owned();
        let owner = Owner {
            api_version: text("apps/v1"),
            kind: text("ReplicaSet"),
            name: text("web"),
            uid: text(uid),
        };
        Report { owner, namespace: text("ns"), reason, note: text("note"), is_warning: true }
    }

    #[test]
    fn one_event_for_an_owner_and_a_reason_in_ten_minutes() {
        let start = runtime::clock::monotonic();
        let mut limiter = Limiter::default();
        let web = report("u1", Reason::Denied);
        assert!(limiter.admits(&web, start));
        assert!(!limiter.admits(&web, start + Duration::from_mins(9)));
        assert!(limiter.admits(&report("u1", Reason::Injected), start));
        assert!(limiter.admits(&report("u2", Reason::Denied), start));
        assert!(limiter.admits(&web, start + Duration::from_mins(10)));
    }

    #[test]
    fn remembers_a_bounded_number_of_owners() {
        let start = runtime::clock::monotonic();
        let mut limiter = Limiter::default();
        let count = (0..MAX_REMEMBERED + 10)
            .filter(|n| limiter.admits(&report(&n.to_string(), Reason::Injected), start))
            .count();
        assert_eq!(count, MAX_REMEMBERED);
        assert!(limiter.admits(&report("new", Reason::Injected), start + QUIET));
    }

    #[test]
    fn the_injectors_deployment_is_told_that_nobody_calls() {
        let event = unreached(3, "dapr-system", "pod-1", jiff::Timestamp::UNIX_EPOCH);
        let regarding = event.regarding.unwrap();
        assert_eq!(regarding.name.as_deref(), Some("dapr-sidecar-injector"));
        assert_eq!((regarding.kind.as_deref(), regarding.uid), (Some("Deployment"), None));
        assert_eq!(event.reason.as_deref(), Some("DaprInjectorNotCalled"));
        assert!(event.note.unwrap().starts_with("not called by the API server since start"));
    }

    #[test]
    fn the_event_names_the_owner() {
        let event = report("u1", Reason::Skipped).into_event("pod-1", jiff::Timestamp::UNIX_EPOCH);
        insta::assert_json_snapshot!(event);
    }
}
