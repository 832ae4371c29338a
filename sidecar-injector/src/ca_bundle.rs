//! What the API server must know to trust this webhook: the `caBundle` of its configuration.
//!
//! The chart ships none; tools that apply the chart again take it away. While it is missing every
//! call fails and, with the default failure policy, pods silently come up without a sidecar.

use base64::Engine as _;
use identity::{CertChain, TrustAnchors, verify_svid};
use jiff::Timestamp;
use json_patch::Patch;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use resources::names;
use serde_json::json;

/// What is known of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Not known: not watched yet, or not allowed to.
    Unknown,
    /// It does not exist.
    Missing,
    /// It has no webhook of ours.
    WithoutOurs,
    /// It has, at this index with this bundle.
    Ours {
        /// Position in the list of webhooks.
        index: usize,
        /// PEM text of the bundle, `None` when there is none.
        bundle: Option<Vec<u8>>,
    },
}

impl Seen {
    /// From the object itself.
    pub fn of(configuration: &MutatingWebhookConfiguration) -> Self {
        let webhooks = configuration.webhooks.as_deref().unwrap_or_default();
        let ours = webhooks.iter().enumerate().find(|(_, hook)| hook.name == names::WEBHOOK);
        ours.map_or(Self::WithoutOurs, |(index, hook)| Self::Ours {
            index,
            bundle: hook.client_config.ca_bundle.as_ref().map(|bytes| bytes.0.clone()),
        })
    }
}

/// What to do about the configuration.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// It is as it should be.
    Keep,
    /// Send this patch (RFC 6902).
    Send(Patch),
    /// Nothing can be done; the text says what is missing.
    Wait(&'static str),
}

/// The step from what is seen to the wanted bundle. An unknown configuration gets the patch every
/// time: the API server stores nothing when nothing changes.
pub fn plan(seen: &Seen, wanted: &str) -> Step {
    match seen {
        Seen::Unknown => Step::Send(patch(0, wanted)),
        Seen::Missing => Step::Wait(
            "MutatingWebhookConfiguration dapr-sidecar-injector does not exist; install the chart",
        ),
        Seen::WithoutOurs => Step::Wait(
            "MutatingWebhookConfiguration dapr-sidecar-injector has no webhook sidecar-injector.dapr.io; install the chart",
        ),
        Seen::Ours { bundle: Some(bundle), .. } if bundle == wanted.as_bytes() => Step::Keep,
        Seen::Ours { index, .. } => Step::Send(patch(*index, wanted)),
    }
}

/// `test` guards against a list that changed since it was seen; `add` works with and without a
/// bundle in place.
fn patch(index: usize, wanted: &str) -> Patch {
    let encoded = base64::engine::general_purpose::STANDARD.encode(wanted);
    let operations = json!([
        {"op": "test", "path": format!("/webhooks/{index}/name"), "value": names::WEBHOOK},
        {"op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": encoded},
    ]);
    serde_json::from_value(operations).unwrap_or_default()
}

/// The bundle to publish: the anchors, and those before them for as long as the certificate that
/// is served does not yet come from the new ones.
pub fn wanted(
    anchors: &TrustAnchors,
    before: Option<&TrustAnchors>,
    serving: &CertChain,
    now: Timestamp,
) -> String {
    let verifies = |anchors| verify_svid(serving.certs(), anchors, now).is_ok();
    match before {
        Some(before) if !verifies(anchors) && verifies(before) => {
            format!("{}{}", anchors.pem(), before.pem())
        }
        _ => anchors.pem().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use testkit::ca::Ca;

    fn configuration(webhooks: &Value) -> MutatingWebhookConfiguration {
        let value = json!({"metadata": {"name": "dapr-sidecar-injector"}, "webhooks": webhooks});
        serde_json::from_value(value).unwrap()
    }

    fn hook(name: &str, bundle: Option<&str>) -> Value {
        let mut client = json!({"url": "https://x/mutate"});
        if let Some(bundle) = bundle {
            client["caBundle"] = json!(base64::engine::general_purpose::STANDARD.encode(bundle));
        }
        json!({"name": name, "clientConfig": client, "sideEffects": "None", "admissionReviewVersions": ["v1"]})
    }

    fn step(webhooks: &Value) -> Step {
        plan(&Seen::of(&configuration(webhooks)), "PEM")
    }

    #[test]
    fn keeps_the_right_bundle_and_restores_any_other() {
        assert_eq!(step(&json!([hook(names::WEBHOOK, Some("PEM"))])), Step::Keep);
        for wrong in [None, Some("old"), Some("")] {
            let Step::Send(patch) = step(&json!([hook(names::WEBHOOK, wrong)])) else {
                panic!("{wrong:?} is kept")
            };
            assert_eq!(
                json!(patch),
                json!([
                    {"op": "test", "path": "/webhooks/0/name", "value": "sidecar-injector.dapr.io"},
                    {"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": "UEVN"},
                ])
            );
        }
    }

    #[test]
    fn finds_its_webhook_among_others() {
        let Step::Send(patch) = step(&json!([hook("other", None), hook(names::WEBHOOK, None)]))
        else {
            panic!("not found")
        };
        assert_eq!(json!(patch)[1]["path"], "/webhooks/1/clientConfig/caBundle");
    }

    #[test]
    fn waits_where_there_is_nothing_to_patch() {
        assert!(matches!(plan(&Seen::Missing, "PEM"), Step::Wait(_)));
        assert!(matches!(step(&json!([hook("other", None)])), Step::Wait(_)));
        assert!(matches!(step(&Value::Null), Step::Wait(_)));
    }

    #[test]
    fn an_unseen_configuration_is_patched_blindly() {
        assert!(matches!(plan(&Seen::Unknown, "PEM"), Step::Send(_)));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "certificates of the test are made now")]
    fn old_roots_stay_until_the_certificate_comes_from_the_new_ones() {
        let (old, new) = (Ca::new(), Ca::new());
        let now = Timestamp::now();
        let (old_leaf, new_leaf) = (old.svid("ns", "a").chain, new.svid("ns", "a").chain);
        let (before, anchors) = (old.anchors(), new.anchors());
        let both = format!("{}{}", anchors.pem(), before.pem());
        assert_eq!(wanted(&anchors, Some(&before), &old_leaf, now), both);
        assert_eq!(wanted(&anchors, Some(&before), &new_leaf, now), anchors.pem());
        assert_eq!(wanted(&before, None, &old_leaf, now), before.pem());
        assert!(TrustAnchors::parse_pem(both.as_bytes()).is_ok());
    }
}
