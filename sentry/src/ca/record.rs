//! The layout of the Secret and the `ConfigMap`: the CA, the CA of the next rotation stage and the
//! rotation's annotations.
//!
//! Besides Dapr's three keys, sentry uses only keys and annotations that other sentries, the CLI and
//! the chart preserve. One write of the Secret is one rotation step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use identity::BundlePem;
use identity::stored::{PartNames, Published, Stored};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use resources::annotations::ANNOTATION_ROTATION_STAGE;
use resources::names;

use crate::rotation::{Progress, SecretUpdate, Stage};

/// Name of both objects. Source: Dapr 1.18, chart.
pub(crate) const NAME: &str = names::TRUST_BUNDLE;

/// Fingerprint of the trust anchors and the issuer chain that sentry wrote. A CA that does not match
/// it was written by another client.
const ANNOTATION_GENERATED: &str = "dapr.io/generated-ca";
/// Start of the rotation stage, RFC 3339.
const ANNOTATION_SINCE: &str = "dapr.io/ca-rotation-since";
/// Requests a rotation; the value is ignored.
pub(crate) const ANNOTATION_ROTATE: &str = "dapr.io/rotate-ca";

/// Keys of the CA that signs in the next stage.
const NEXT_ANCHORS: &str = "next-ca.crt";
const NEXT_CHAIN: &str = "next-issuer.crt";
const NEXT_KEY: &str = "next-issuer.key";

/// Where the parts of the CA are stored. In Kubernetes the file names are the keys of the Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleNames {
    /// File of the trust anchors.
    pub anchors: PathBuf,
    /// File of the issuer certificate chain.
    pub issuer_chain: PathBuf,
    /// File of the issuer's private key.
    pub issuer_key: PathBuf,
}

impl BundleNames {
    /// The key of the Secret or `ConfigMap` that corresponds to a path: its file name.
    pub(crate) fn key(path: &Path) -> String {
        path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Both objects as they were read.
#[derive(Clone)]
pub(crate) struct Snapshot {
    /// Holds the CA.
    pub(crate) secret: Secret,
    /// Publishes its trust anchors.
    pub(crate) config_map: ConfigMap,
}

/// Sentry's annotations on the Secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Annotations {
    /// Fingerprint of the CA that sentry wrote last.
    pub(crate) generated: Option<String>,
    /// The rotation in progress.
    pub(crate) progress: Option<Progress>,
    /// Whether a rotation is requested.
    pub(crate) requested: bool,
}

/// The keys that hold the CA.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    anchors: String,
    issuer_chain: String,
    issuer_key: String,
}

impl Keys {
    /// The base names of the configured files. Source: Dapr 1.18, sentry.
    pub(crate) fn new(names: &BundleNames) -> Self {
        Self {
            anchors: BundleNames::key(&names.anchors),
            issuer_chain: BundleNames::key(&names.issuer_chain),
            issuer_key: BundleNames::key(&names.issuer_key),
        }
    }

    /// The CA in a Secret.
    pub(crate) fn stored(&self, secret: &Secret) -> Stored {
        let value = |key: &str| value(secret, key);
        let native =
            Stored::new(value(&self.anchors), value(&self.issuer_chain), value(&self.issuer_key));
        let stored = native.or_cert_manager(value(names::KEY_TLS_CHAIN), value(names::KEY_TLS_KEY));
        let namespace = secret.metadata.namespace.iter().map(|name| format!("{name}/"));
        let namespace: String = namespace.collect();
        let native = PartNames {
            object: Some(format!("Secret {namespace}{NAME}")),
            anchors: self.anchors.clone(),
            issuer_chain: self.issuer_chain.clone(),
            issuer_key: self.issuer_key.clone(),
        };
        stored.named(native, [names::KEY_TLS_CHAIN, names::KEY_TLS_KEY].map(str::to_owned))
    }

    /// The published anchors in a `ConfigMap`.
    pub(crate) fn published(&self, config_map: &ConfigMap) -> Published {
        let text = config_map.data.as_ref().and_then(|data| data.get(&self.anchors));
        Published::ConfigMap(text.cloned())
    }

    /// Applies an update; other keys and annotations are preserved.
    pub(crate) fn apply(&self, secret: &mut Secret, update: &SecretUpdate) {
        let data = secret.data.get_or_insert_default();
        let annotations = secret.metadata.annotations.get_or_insert_default();
        if let Some(ca) = &update.ca {
            set(data, [&self.anchors, &self.issuer_chain, &self.issuer_key], ca);
            annotations.remove(ANNOTATION_ROTATE);
            annotations.remove(ANNOTATION_GENERATED);
            if update.ours {
                annotations.insert(ANNOTATION_GENERATED.to_owned(), ca.fingerprint());
            }
        }
        let next_keys = [NEXT_ANCHORS, NEXT_CHAIN, NEXT_KEY];
        data.retain(|key, _| !next_keys.contains(&key.as_str()));
        if let Some(ca) = &update.next {
            set(data, next_keys, ca);
        }
        annotations.remove(ANNOTATION_ROTATION_STAGE);
        annotations.remove(ANNOTATION_SINCE);
        if let Some(Progress { stage, since }) = update.progress {
            annotations.insert(ANNOTATION_ROTATION_STAGE.to_owned(), stage.to_string());
            annotations.insert(ANNOTATION_SINCE.to_owned(), since.to_string());
        }
    }

    /// Writes the trust anchors into a `ConfigMap`; its other keys are preserved.
    pub(crate) fn publish(&self, config_map: &mut ConfigMap, anchors: &str) {
        let data = config_map.data.get_or_insert_default();
        data.insert(self.anchors.clone(), anchors.to_owned());
    }
}

/// The CA of the next stage, as far as it is stored.
pub(crate) fn next(secret: &Secret) -> Stored {
    Stored::new(value(secret, NEXT_ANCHORS), value(secret, NEXT_CHAIN), value(secret, NEXT_KEY))
}

/// Sentry's annotations.
pub(crate) fn annotations(secret: &Secret) -> Annotations {
    let read = |name: &str| secret.metadata.annotations.as_ref()?.get(name);
    let stage = read(ANNOTATION_ROTATION_STAGE).and_then(|text| Stage::parse(text));
    // An unreadable start counts as long ago: with cross-signed certificates an early step is safe.
    let since = read(ANNOTATION_SINCE).and_then(|text| text.parse().ok());
    let progress = |stage| Progress { stage, since: since.unwrap_or(Timestamp::MIN) };
    Annotations {
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
    use testkit::ca::Ca;

    use super::*;

    fn keys() -> Keys {
        let key = str::to_owned;
        Keys {
            anchors: key("ca.crt"),
            issuer_chain: key("issuer.crt"),
            issuer_key: key("issuer.key"),
        }
    }

    #[test]
    fn an_update_is_read_back_and_the_last_one_removes_all_traces() {
        let (keys, ca) = (keys(), Ca::new());
        let next_ca = ca.cross_signed();
        let mut secret = Secret::default();
        keys.apply(&mut secret, &SecretUpdate::idle(ca.pem().clone()));
        let idle = secret.clone();
        assert_eq!(annotations(&secret).generated, keys.stored(&secret).fingerprint());

        secret
            .metadata
            .annotations
            .get_or_insert_default()
            .insert(ANNOTATION_ROTATE.into(), String::new());
        assert!(annotations(&secret).requested);
        let progress = Some(Progress { stage: Stage::Distribute, since: runtime::clock::now() });
        let begin = SecretUpdate {
            ca: Some(next_ca.distribute.clone()),
            ours: true,
            progress,
            next: Some(next_ca.sign.clone()),
        };
        keys.apply(&mut secret, &begin);
        let read = annotations(&secret);
        assert_eq!(read.progress, progress);
        assert!(!read.requested, "the request is served");
        assert_eq!(next(&secret).to_pem().as_ref(), Some(&next_ca.sign));
        assert_eq!(keys.stored(&secret).to_pem().as_ref(), Some(&next_ca.distribute));

        keys.apply(&mut secret, &SecretUpdate::idle(ca.pem().clone()));
        assert_eq!(secret, idle);
    }

    #[test]
    fn a_ca_that_was_written_from_outside_is_not_ours() {
        let (keys, mine, theirs) = (keys(), Ca::new(), Ca::new());
        let mut secret = Secret::default();
        keys.apply(&mut secret, &SecretUpdate::idle(mine.pem().clone()));
        // `dapr mtls renew-certificate` writes the three keys and no annotation.
        set(
            secret.data.get_or_insert_default(),
            ["ca.crt", "issuer.crt", "issuer.key"],
            theirs.pem(),
        );
        assert_ne!(annotations(&secret).generated, keys.stored(&secret).fingerprint());
        let abort = SecretUpdate { ca: None, ours: false, progress: None, next: None };
        keys.apply(&mut secret, &abort);
        assert_eq!(keys.stored(&secret).to_pem().as_ref(), Some(theirs.pem()));
    }
}
