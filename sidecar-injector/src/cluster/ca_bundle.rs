//! The `caBundle` of the webhook configuration, with which the API server verifies the injector.
//!
//! The chart renders none, and tools that apply the chart again can remove it. Without it each call
//! fails and, with the default failure policy, pods start without a sidecar.

use base64::Engine as _;
use identity::{CertChain, TrustAnchors, verify_svid};
use jiff::Timestamp;
use json_patch::Patch;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use resources::names;
use serde_json::json;

/// The observed state of the webhook configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ObservedWebhook {
    /// Not observed: the watch has not started or is forbidden.
    Unknown,
    /// The configuration does not exist.
    Missing,
    /// The configuration does not contain the webhook of the injector.
    WithoutWebhook,
    /// The webhook of the injector.
    Present {
        /// Position in the list of webhooks.
        index: usize,
        /// PEM bundle; `None` without one.
        bundle: Option<Vec<u8>>,
    },
}

impl ObservedWebhook {
    pub(crate) fn of(configuration: &MutatingWebhookConfiguration) -> Self {
        let webhooks = configuration.webhooks.as_deref().unwrap_or_default();
        let own = webhooks.iter().enumerate().find(|(_, hook)| hook.name == names::WEBHOOK);
        own.map_or(Self::WithoutWebhook, |(index, hook)| Self::Present {
            index,
            bundle: hook.client_config.ca_bundle.as_ref().map(|bytes| bytes.0.clone()),
        })
    }
}

/// The change to the webhook configuration.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Plan {
    /// No change.
    Keep,
    /// Apply this patch (RFC 6902).
    Apply(Patch),
    /// Wait for an object that is missing; the text names it and the remedy.
    Wait(&'static str),
}

/// Plans the change from the observed to the desired bundle. An unknown configuration is patched
/// every time: the API server does not write an unchanged object.
pub(crate) fn plan(observed: &ObservedWebhook, desired: &str) -> Plan {
    match observed {
        ObservedWebhook::Unknown => Plan::Apply(patch(0, desired)),
        ObservedWebhook::Missing => Plan::Wait(
            "MutatingWebhookConfiguration dapr-sidecar-injector does not exist; install the chart",
        ),
        ObservedWebhook::WithoutWebhook => Plan::Wait(
            "MutatingWebhookConfiguration dapr-sidecar-injector has no webhook sidecar-injector.dapr.io; upgrade or install the chart",
        ),
        ObservedWebhook::Present { bundle: Some(bundle), .. } if bundle == desired.as_bytes() => {
            Plan::Keep
        }
        ObservedWebhook::Present { index, .. } => Plan::Apply(patch(*index, desired)),
    }
}

/// `test` fails if the list of webhooks changed since it was observed; `add` also replaces.
fn patch(index: usize, desired: &str) -> Patch {
    let encoded = base64::engine::general_purpose::STANDARD.encode(desired);
    let operations = json!([
        {"op": "test", "path": format!("/webhooks/{index}/name"), "value": names::WEBHOOK},
        {"op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": encoded},
    ]);
    serde_json::from_value(operations).unwrap_or_default()
}

/// The desired bundle: the trust anchors, and the previous ones as long as the serving certificate
/// does not verify with the new ones.
pub(crate) fn desired(
    anchors: &TrustAnchors,
    previous: Option<&TrustAnchors>,
    serving: &CertChain,
    now: Timestamp,
) -> String {
    let verifies = |anchors| verify_svid(serving.certs(), anchors, now).is_ok();
    match previous {
        Some(previous) if !verifies(anchors) && verifies(previous) => {
            format!("{}{}", anchors.pem(), previous.pem())
        }
        _ => anchors.pem().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use testkit::ca::Ca;

    use super::*;

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

    fn plan_for(webhooks: &Value) -> Plan {
        plan(&ObservedWebhook::of(&configuration(webhooks)), "PEM")
    }

    #[test]
    fn keeps_the_desired_bundle_and_replaces_any_other() {
        assert_eq!(plan_for(&json!([hook(names::WEBHOOK, Some("PEM"))])), Plan::Keep);
        for wrong in [None, Some("old"), Some("")] {
            let Plan::Apply(patch) = plan_for(&json!([hook(names::WEBHOOK, wrong)])) else {
                panic!("{wrong:?} is not replaced")
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
        let Plan::Apply(patch) =
            plan_for(&json!([hook("other", None), hook(names::WEBHOOK, None)]))
        else {
            panic!("not found")
        };
        assert_eq!(json!(patch)[1]["path"], "/webhooks/1/clientConfig/caBundle");
    }

    #[test]
    fn waits_for_a_missing_configuration() {
        assert!(matches!(plan(&ObservedWebhook::Missing, "PEM"), Plan::Wait(_)));
        assert!(matches!(plan_for(&json!([hook("other", None)])), Plan::Wait(_)));
        assert!(matches!(plan_for(&Value::Null), Plan::Wait(_)));
    }

    #[test]
    fn an_unknown_configuration_is_patched() {
        assert!(matches!(plan(&ObservedWebhook::Unknown, "PEM"), Plan::Apply(_)));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "certificates of the test are made now")]
    fn keeps_previous_roots_until_the_certificate_verifies_with_the_new_ones() {
        let (old, new) = (Ca::new(), Ca::new());
        let now = Timestamp::now();
        let (old_leaf, new_leaf) = (old.svid("ns", "a").chain, new.svid("ns", "a").chain);
        let (before, anchors) = (old.anchors(), new.anchors());
        let both = format!("{}{}", anchors.pem(), before.pem());
        assert_eq!(desired(&anchors, Some(&before), &old_leaf, now), both);
        assert_eq!(desired(&anchors, Some(&before), &new_leaf, now), anchors.pem());
        assert_eq!(desired(&before, None, &old_leaf, now), before.pem());
        assert!(TrustAnchors::parse_pem(both.as_bytes()).is_ok());
    }
}
