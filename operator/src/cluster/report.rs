//! Warning Events on the objects that cause a problem.
use k8s_openapi::api::core::v1::ObjectReference;
use kubernetes::{Event, EventType, Recorder, Repeat};
use runtime::Scope;

/// Records Warning Events, once in ten minutes per object and reason.
#[derive(Clone)]
pub(crate) struct Reports {
    recorder: Recorder,
    scope: Scope,
}

impl Reports {
    /// Records through `recorder` until the scope ends.
    pub(crate) fn new(recorder: Recorder, scope: Scope) -> Self {
        Self { recorder, scope }
    }

    /// Records a Warning Event on `object` without waiting for the API server.
    pub(crate) fn warn(&self, object: ObjectReference, reason: &'static str, note: String) {
        let event = warning(reason, note, Repeat::PerReason);
        self.recorder.record_event_in_background(&self.scope, object, event);
    }

    /// As [`Reports::warn`], once in ten minutes per object, reason and note.
    pub(crate) fn warn_each(&self, object: ObjectReference, reason: &'static str, note: String) {
        let event = warning(reason, note, Repeat::PerNote);
        self.recorder.record_event_in_background(&self.scope, object, event);
    }

    /// Records a Warning Event on `object` and waits for the API server. Returns whether it was
    /// due. Dropping the future may lose the Event.
    pub(crate) async fn record_event(
        &self,
        object: &ObjectReference,
        reason: &'static str,
        note: String,
    ) -> bool {
        let event = warning(reason, note, Repeat::PerReason);
        self.recorder.record_event(object, event).await
    }

    /// As [`Reports::record_event`], each time.
    pub(crate) async fn record_always(
        &self,
        object: &ObjectReference,
        reason: &'static str,
        note: String,
    ) {
        self.recorder.record_event(object, warning(reason, note, Repeat::Always)).await;
    }
}

fn warning(reason: &'static str, note: String, repeat: Repeat) -> Event {
    Event { type_: EventType::Warning, reason, action: "Serve", note, repeat }
}
