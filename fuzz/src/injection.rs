//! An installation with the chart's defaults, for the targets of the injector.
use sidecar_injector::offline::{Offline, PodResult, Remark, Source};
use sidecar_injector::{
    Actors, AllowList, AllowedUsers, ControlPlane, Defaults, InjectionContext, NamespacePolicy,
    NativeDefault, Platform, Review, Security, Settings,
};

const ANCHORS: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

fn settings() -> Option<Settings> {
    let control_plane = ControlPlane::new("dapr-system", "cluster.local");
    Some(Settings {
        image: "ghcr.io/dapr/daprd:1.18.3".to_owned(),
        pull_policy: "IfNotPresent",
        namespace: "dapr-system".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        sentry_id: "spiffe://cluster.local/ns/dapr-system/dapr-sentry".to_owned(),
        actors: Actors::from_settings(true, "", "", &control_plane).ok()?,
        control_plane,
        reminders: None,
        scheduler: true,
        scheduler_replicas: 3,
        native: NativeDefault::Off,
        defaults: Defaults::new(),
        sockets_folder: "/tmp/dapr-components-sockets".to_owned(),
        downward_api: false,
        identity_token: true,
        entrypoint_tolerations: Vec::new(),
        security: Security::default(),
        strict_annotations: false,
    })
}

/// An `AdmissionReview` as JSON: every decision has an answer.
pub(crate) fn review(data: &[u8]) {
    let Ok(review) = Review::parse(data) else { return };
    let (Some(settings), Ok(allowed)) = (settings(), AllowList::parse([])) else { return };
    let context = InjectionContext {
        settings: &settings,
        namespace: "default",
        policy: NamespacePolicy::NONE,
        platform: Platform::default(),
        trust_anchors: ANCHORS,
        mtls_enabled: true,
        components: Ok(&[]),
    };
    let users = AllowedUsers { allowed: &allowed, uids: &[], mark_skipped: true };
    let decision = review.decide(&context, &users);
    let answer = serde_json::to_value(review.answer(&decision));
    assert!(answer.is_ok_and(|answer| answer.get("response").is_some()));
}

/// Manifests as YAML: a second injection adds nothing.
pub(crate) fn manifests(text: &str) {
    let Some(settings) = settings() else { return };
    let offline = Offline {
        settings: &settings,
        trust_anchors: ANCHORS,
        mtls_enabled: true,
        namespace: Some("shop"),
    };
    let inject =
        |text: &str| offline.inject(&[Source { name: "fuzz".to_owned(), text: text.to_owned() }]);
    let Ok(first) = inject(text) else { return };
    let again = inject(&first.texts.concat());
    let injected = |remark: &Remark| matches!(remark.result, PodResult::Injected { .. });
    assert!(again.is_ok_and(|again| !again.remarks.iter().any(injected)), "{:?}", first.texts);
}
