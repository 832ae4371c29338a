//! How the CA, its successor and the marks of a rotation stand in the Secret and the `ConfigMap`.
//!
//! Everything beside the three native keys is in keys and annotations that other sentries, the CLI
//! and the chart leave alone. One write of the Secret is one step.

use std::collections::BTreeMap;

use identity::BundlePem;
use identity::stored::{Published, Stored};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use resources::annotations::ANNOTATION_ROTATION_STAGE;
use resources::names;

use crate::config::BundleNames;
use crate::rotation::{Progress, Stage};

/// Marks a Secret whose CA sentry wrote: the fingerprint of anchors and issuer chain. Whatever does
/// not match was put there by somebody else.
const ANNOTATION_GENERATED: &str = "dapr.io/generated-ca";
/// When the stage began, RFC 3339.
const ANNOTATION_SINCE: &str = "dapr.io/ca-rotation-since";
/// Asks for a rotation; the value does not matter.
pub const ANNOTATION_ROTATE: &str = "dapr.io/rotate-ca";

/// The CA that signs in the next stage.
const NEXT_ANCHORS: &str = "next-ca.crt";
const NEXT_CHAIN: &str = "next-issuer.crt";
const NEXT_KEY: &str = "next-issuer.key";

/// Both objects as they were read.
#[derive(Clone)]
pub struct Snapshot {
    /// The CA.
    pub secret: Secret,
    /// Its anchors, for everybody.
    pub config_map: ConfigMap,
}

/// What sentry noted beside the CA.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// The fingerprint of the CA that sentry wrote last.
    pub generated: Option<String>,
    /// A rotation under way.
    pub progress: Option<Progress>,
    /// Whether somebody asks for a rotation.
    pub requested: bool,
}

/// A step: what the Secret says afterwards. Members that are `None` are taken away, but for the CA.
#[derive(Debug, Clone)]
pub struct Change {
    /// The CA; `None` leaves the present one.
    pub ca: Option<BundlePem>,
    /// Whether this CA is sentry's own.
    pub ours: bool,
    /// The rotation under way.
    pub progress: Option<Progress>,
    /// The CA of the next stage.
    pub prepared: Option<BundlePem>,
}

impl Change {
    /// A CA of sentry's own, and no rotation.
    pub fn at_rest(ca: BundlePem) -> Self {
        Self { ca: Some(ca), ours: true, progress: None, prepared: None }
    }
}

/// Under which keys the CA stands.
#[derive(Debug, Clone)]
pub struct Keys {
    anchors: String,
    issuer_chain: String,
    issuer_key: String,
}

impl Keys {
    /// The base names of the configured files. Source: Dapr 1.18, sentry.
    pub fn new(names: &BundleNames) -> Self {
        Self {
            anchors: BundleNames::key(&names.anchors),
            issuer_chain: BundleNames::key(&names.issuer_chain),
            issuer_key: BundleNames::key(&names.issuer_key),
        }
    }

    /// The CA in a Secret.
    pub fn stored(&self, secret: &Secret) -> Stored {
        let value = |key: &str| value(secret, key);
        let native =
            Stored::new(value(&self.anchors), value(&self.issuer_chain), value(&self.issuer_key));
        native.or_cert_manager(value(names::KEY_TLS_CHAIN), value(names::KEY_TLS_KEY))
    }

    /// The published anchors in a `ConfigMap`.
    pub fn published(&self, config_map: &ConfigMap) -> Published {
        let text = config_map.data.as_ref().and_then(|data| data.get(&self.anchors));
        Published::ConfigMap(text.cloned())
    }

    /// Carries out a step; what it does not speak of stays.
    pub fn apply(&self, secret: &mut Secret, change: &Change) {
        let data = secret.data.get_or_insert_default();
        let annotations = secret.metadata.annotations.get_or_insert_default();
        if let Some(ca) = &change.ca {
            set(data, [&self.anchors, &self.issuer_chain, &self.issuer_key], ca);
            annotations.remove(ANNOTATION_ROTATE);
            annotations.remove(ANNOTATION_GENERATED);
            if change.ours {
                annotations.insert(ANNOTATION_GENERATED.to_owned(), ca.fingerprint());
            }
        }
        let next = [NEXT_ANCHORS, NEXT_CHAIN, NEXT_KEY];
        data.retain(|key, _| !next.contains(&key.as_str()));
        if let Some(ca) = &change.prepared {
            set(data, next, ca);
        }
        annotations.remove(ANNOTATION_ROTATION_STAGE);
        annotations.remove(ANNOTATION_SINCE);
        if let Some(Progress { stage, since }) = change.progress {
            annotations.insert(ANNOTATION_ROTATION_STAGE.to_owned(), stage.to_string());
            annotations.insert(ANNOTATION_SINCE.to_owned(), since.to_string());
        }
    }

    /// Writes the anchors into a `ConfigMap`; its other keys stay.
    pub fn publish(&self, config_map: &mut ConfigMap, anchors: &str) {
        let data = config_map.data.get_or_insert_default();
        data.insert(self.anchors.clone(), anchors.to_owned());
    }
}

/// The CA of the next stage, as far as it is there.
pub fn prepared(secret: &Secret) -> Stored {
    Stored::new(value(secret, NEXT_ANCHORS), value(secret, NEXT_CHAIN), value(secret, NEXT_KEY))
}

/// What sentry noted.
pub fn marks(secret: &Secret) -> Marks {
    let read = |name: &str| secret.metadata.annotations.as_ref()?.get(name);
    let stage = read(ANNOTATION_ROTATION_STAGE).and_then(|text| Stage::parse(text));
    // A start that nobody can read counts as long ago: the crosses make every haste safe.
    let since = read(ANNOTATION_SINCE).and_then(|text| text.parse().ok());
    let progress = |stage| Progress { stage, since: since.unwrap_or(Timestamp::MIN) };
    Marks {
        generated: read(ANNOTATION_GENERATED).cloned(),
        progress: stage.map(progress),
        requested: read(ANNOTATION_ROTATE).is_some(),
    }
}

fn value(secret: &Secret, key: &str) -> Option<Vec<u8>> {
    Some(secret.data.as_ref()?.get(key)?.0.clone())
}

fn set(data: &mut BTreeMap<String, ByteString>, keys: [&str; 3], ca: &BundlePem) {
    let values = [&*ca.anchors, &*ca.issuer_chain, ca.issuer_key.as_str()];
    for (key, value) in keys.into_iter().zip(values) {
        data.insert(key.to_owned(), ByteString(value.as_bytes().to_vec()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::ca::Ca;

    fn keys() -> Keys {
        let key = str::to_owned;
        Keys {
            anchors: key("ca.crt"),
            issuer_chain: key("issuer.crt"),
            issuer_key: key("issuer.key"),
        }
    }

    #[test]
    fn a_step_is_read_back_and_leaves_no_trace_at_the_end() {
        let (keys, ca) = (keys(), Ca::new());
        let next = ca.successor();
        let mut secret = Secret::default();
        keys.apply(&mut secret, &Change::at_rest(ca.pem().clone()));
        let rested = secret.clone();
        assert_eq!(marks(&secret).generated, keys.stored(&secret).fingerprint());

        secret
            .metadata
            .annotations
            .get_or_insert_default()
            .insert(ANNOTATION_ROTATE.into(), String::new());
        assert!(marks(&secret).requested);
        let progress = Some(Progress { stage: Stage::Distribute, since: runtime::clock::now() });
        let begin = Change {
            ca: Some(next.distribute.clone()),
            ours: true,
            progress,
            prepared: Some(next.sign.clone()),
        };
        keys.apply(&mut secret, &begin);
        let read = marks(&secret);
        assert_eq!(read.progress, progress);
        assert!(!read.requested, "the request has been heard");
        assert_eq!(prepared(&secret).to_pem().as_ref(), Some(&next.sign));
        assert_eq!(keys.stored(&secret).to_pem().as_ref(), Some(&next.distribute));

        keys.apply(&mut secret, &Change::at_rest(ca.pem().clone()));
        assert_eq!(secret, rested);
    }

    #[test]
    fn the_ca_of_somebody_else_carries_no_mark() {
        let (keys, mine, theirs) = (keys(), Ca::new(), Ca::new());
        let mut secret = Secret::default();
        keys.apply(&mut secret, &Change::at_rest(mine.pem().clone()));
        // `dapr mtls renew-certificate` writes the three keys and knows no mark.
        set(
            secret.data.get_or_insert_default(),
            ["ca.crt", "issuer.crt", "issuer.key"],
            theirs.pem(),
        );
        assert_ne!(marks(&secret).generated, keys.stored(&secret).fingerprint());
        let cancel = Change { ca: None, ours: false, progress: None, prepared: None };
        keys.apply(&mut secret, &cancel);
        assert_eq!(keys.stored(&secret).to_pem().as_ref(), Some(theirs.pem()));
    }
}
