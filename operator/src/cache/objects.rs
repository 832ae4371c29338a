//! The objects of one kind as last observed, and their changes.
//!
//! Pure. The type of a change results from the comparison with the cached object, not from the verb
//! of the watch event. A relist without differences changes nothing (Dapr 1.18), nor does a write
//! that changes only members which sidecars do not receive.
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use jiff::Timestamp;
use kube::core::{DynamicObject, ObjectMeta};
use kubernetes::{ListChange, ListDiff, WatchEvent};
use resources::{CustomResource, GROUP, json, trim_metadata};
use serde_json::Value;

use kubernetes::ObjectKey;

/// A decoded object and its JSON.
pub(crate) struct Entry<K> {
    /// The object as stored, without the values of Secrets.
    pub(crate) object: K,
    /// The member `status`, which is not sent to sidecars; `null` when absent.
    pub(crate) status: Value,
    /// Time of the last write, from the API server.
    pub(crate) written: Option<Timestamp>,
    json: OnceLock<Bytes>,
    /// Hash of the JSON with resolved Secrets that was sent; 0 when it was not sent. Shared by entries
    /// with the same content.
    sent_hash: Arc<AtomicU64>,
}

impl<K: CustomResource> Entry<K> {
    pub(crate) fn new(object: K) -> Self {
        let (status, written) = (Value::Null, None);
        Self { object, status, written, json: OnceLock::new(), sent_hash: Arc::default() }
    }

    /// Whether both have the same content for sidecars: one replaced the other in the cache without
    /// an event.
    pub(crate) fn is_same_content(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.sent_hash, &other.sent_hash)
    }

    /// Records that the object was sent as `body`, with resolved Secrets; empty when they could not be
    /// resolved. Only the first call has an effect: the first sidecar needs an update for any other
    /// value.
    pub(crate) fn record_sent(&self, body: &[u8]) {
        let _ =
            self.sent_hash.compare_exchange(0, hash(body), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether the object was sent with resolved Secrets.
    pub(crate) fn was_sent(&self) -> bool {
        self.sent_hash.load(Ordering::Relaxed) != 0
    }

    /// Records that the object is sent again as `body`; returns whether it differs from what was sent.
    pub(crate) fn replace_sent_hash(&self, body: &[u8]) -> bool {
        let now = hash(body);
        self.sent_hash.swap(now, Ordering::Relaxed) != now
    }

    /// The JSON of the object as stored; serialized once and shared.
    ///
    /// # Errors
    /// The object cannot be serialized; a decoded object always can.
    pub(crate) fn json(&self) -> serde_json::Result<Bytes> {
        if let Some(bytes) = self.json.get() {
            return Ok(bytes.clone());
        }
        let bytes = Bytes::from(json::to_vec(&self.object)?);
        Ok(self.json.get_or_init(|| bytes).clone())
    }

    /// The JSON of an event, from the JSON of a list or get: without `kind` and `apiVersion`, as
    /// sidecars receive objects that the reference obtained from a watch (Dapr 1.19).
    pub(crate) fn event_json(body: &[u8]) -> Option<Bytes> {
        let type_meta = format!(r#"{{"kind":"{}","apiVersion":"{GROUP}/{}","#, K::KIND, K::VERSION);
        let members = body.strip_prefix(type_meta.as_bytes())?;
        let mut event = Vec::with_capacity(members.len() + 1);
        event.push(b'{');
        event.extend_from_slice(members);
        Some(event.into())
    }

    pub(crate) fn name(&self) -> &str {
        self.object.meta().name.as_deref().unwrap_or_default()
    }
}

/// Never 0. Used in this process only, so it need not be collision resistant.
fn hash(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(body);
    hasher.finish().max(1)
}

/// An object that cannot be decoded; sidecars could not decode it either.
#[derive(Debug, thiserror::Error)]
#[error("decode {} {}/{}", kind, key.namespace, key.name)]
pub(crate) struct Undecodable {
    pub(crate) kind: &'static str,
    pub(crate) api_version: String,
    pub(crate) key: ObjectKey,
    pub(crate) uid: Option<String>,
    pub(crate) source: serde_json::Error,
}

/// Decodes one object.
///
/// # Errors
/// [`Undecodable`] when a member has the wrong type or an invalid value.
pub(crate) fn decode<K: CustomResource>(raw: DynamicObject) -> Result<Entry<K>, Undecodable> {
    let key = ObjectKey::of(&raw.metadata);
    let mut data = if raw.data.is_null() { serde_json::json!({}) } else { raw.data };
    let status = data.as_object_mut().and_then(|members| members.remove("status"));
    let mut object: K = serde_json::from_value(data).map_err(|source| Undecodable {
        kind: K::KIND,
        api_version: K::api_version(&()).into_owned(),
        key,
        uid: raw.metadata.uid.clone(),
        source,
    })?;
    let written = written(&raw.metadata);
    *object.meta_mut() = raw.metadata;
    trim_metadata(object.meta_mut());
    Ok(Entry { status: status.unwrap_or_default(), written, ..Entry::new(object) })
}

/// Time of the last write (Kubernetes, `managedFields`).
fn written(metadata: &ObjectMeta) -> Option<Timestamp> {
    let writers = metadata.managed_fields.iter().flatten();
    let times = writers.filter_map(|writer| writer.time.as_ref());
    times.chain(&metadata.creation_timestamp).map(|time| time.0).max()
}

/// A difference between two states of an object.
pub(crate) struct Change<K> {
    pub(crate) namespace: String,
    /// The state before; `None` when the object was created.
    pub(crate) old: Option<Arc<Entry<K>>>,
    /// The state after; `None` when the object was deleted.
    pub(crate) new: Option<Arc<Entry<K>>>,
}

/// The objects of one kind, by namespace and name.
pub(crate) struct Cache<K> {
    namespaces: BTreeMap<String, BTreeMap<String, Arc<Entry<K>>>>,
    diff: ListDiff<ObjectKey>,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self { namespaces: BTreeMap::new(), diff: ListDiff::default() }
    }
}

impl<K: CustomResource> Cache<K> {
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Entry<K>>> {
        self.namespaces.get(namespace)?.get(name)
    }

    /// The objects of a namespace, sorted by name.
    pub(crate) fn list(&self, namespace: &str) -> impl Iterator<Item = &Arc<Entry<K>>> {
        self.namespaces.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Entry<K>>> {
        self.namespaces.values().flat_map(BTreeMap::values)
    }

    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.namespaces.keys().map(String::as_str)
    }

    pub(crate) fn len(&self) -> usize {
        self.namespaces.values().map(BTreeMap::len).sum()
    }

    /// Applies a watch event. The last valid state of an object that cannot be decoded remains: an
    /// invalid edit must not remove a working Component or an access policy.
    ///
    /// # Errors
    /// [`Undecodable`].
    pub(crate) fn apply(
        &mut self,
        event: WatchEvent<DynamicObject>,
    ) -> Result<Vec<Change<K>>, Undecodable> {
        let known = self.namespaces.iter().flat_map(|(namespace, objects)| {
            let key =
                |name: &String| ObjectKey { namespace: namespace.clone(), name: name.clone() };
            objects.keys().map(key)
        });
        let event = event.map(|raw| (ObjectKey::of(&raw.metadata), raw));
        Ok(match self.diff.apply(event, known) {
            ListChange::Unchanged => Vec::new(),
            ListChange::Apply(_, raw) => self.upsert(decode(raw)?).into_iter().collect(),
            ListChange::Remove(keys) => keys.iter().filter_map(|key| self.remove(key)).collect(),
        })
    }

    /// Inserts or replaces an object. `None` when nothing changed for sidecars.
    fn upsert(&mut self, mut entry: Entry<K>) -> Option<Change<K>> {
        let key = ObjectKey::of(entry.object.meta());
        let objects = self.namespaces.entry(key.namespace.clone()).or_default();
        let old = objects.get(&key.name);
        if old.is_some_and(|old| same_version(old.object.meta(), entry.object.meta())) {
            return None;
        }
        let same = old.filter(|old| same_content(&old.object, &mut entry.object));
        if let Some(same) = same {
            entry.sent_hash = same.sent_hash.clone();
            objects.insert(key.name, Arc::new(entry));
            return None;
        }
        let new = Arc::new(entry);
        let old = objects.insert(key.name, new.clone());
        Some(Change { namespace: key.namespace, old, new: Some(new) })
    }

    /// Removes an object. `None` when it was not cached.
    fn remove(&mut self, key: &ObjectKey) -> Option<Change<K>> {
        let objects = self.namespaces.get_mut(&key.namespace)?;
        let old = objects.remove(&key.name)?;
        if objects.is_empty() {
            self.namespaces.remove(&key.namespace);
        }
        Some(Change { namespace: key.namespace.clone(), old: Some(old), new: None })
    }
}

/// Equal, non-empty resource versions of the same object mean equal content (Kubernetes API).
fn same_version(old: &ObjectMeta, new: &ObjectMeta) -> bool {
    let version = |metadata: &ObjectMeta| metadata.resource_version.clone().unwrap_or_default();
    !version(old).is_empty() && version(old) == version(new) && old.uid == new.uid
}

/// Whether the objects differ in their resource version only, as after a write of the status. `new` is
/// unchanged when the function returns.
fn same_content<K: CustomResource>(old: &K, new: &mut K) -> bool {
    let old_version = old.meta().resource_version.clone();
    let new_version = std::mem::replace(&mut new.meta_mut().resource_version, old_version);
    let same = old == new;
    new.meta_mut().resource_version = new_version;
    same
}

#[cfg(test)]
mod tests {
    use kubernetes::{FailureKind, WatchFailure};
    use resources::Component;
    use serde_json::json;

    use super::*;

    /// A Component whose content depends on its version.
    fn component(name: &str, version: &str) -> Entry<Component> {
        entry(name, version, &json!({"type": "state.redis", "version": version}), &Value::Null)
    }

    fn entry(name: &str, version: &str, spec: &Value, status: &Value) -> Entry<Component> {
        let raw: DynamicObject = serde_json::from_value(json!({
            "kind": "Component", "apiVersion": "dapr.io/v1alpha1",
            "metadata": {"name": name, "namespace": "n", "resourceVersion": version, "uid": "u"},
            "spec": spec, "status": status,
        }))
        .unwrap();
        decode(raw).unwrap()
    }

    fn shape<K>(change: Option<Change<K>>) -> Option<(bool, bool)> {
        change.map(|c| (c.old.is_some(), c.new.is_some()))
    }

    #[test]
    fn change_comes_from_comparison() {
        let mut cache = Cache::default();
        assert_eq!(shape(cache.upsert(component("a", "1"))), Some((false, true)));
        assert_eq!(shape(cache.upsert(component("a", "1"))), None, "resync is silent");
        assert_eq!(shape(cache.upsert(component("a", "2"))), Some((true, true)));
        let key = ObjectKey { namespace: "n".into(), name: "a".into() };
        assert_eq!(shape(cache.remove(&key)), Some((true, false)));
        assert_eq!(shape(cache.remove(&key)), None, "unknown objects cannot be deleted");
        assert_eq!(cache.len(), 0);
    }

    #[test]
    fn sent_hash_is_kept_until_other_content_is_sent() {
        let entry = component("a", "1");
        assert!(!entry.was_sent());
        entry.record_sent(b"old");
        entry.record_sent(b"new"); // a second sidecar, after the Secret changed
        assert!(entry.was_sent());
        assert!(entry.replace_sent_hash(b"new"), "the first sidecar still has the old value");
        assert!(!entry.replace_sent_hash(b"new"));
        assert!(entry.replace_sent_hash(b""), "the Secret was deleted");
    }

    #[test]
    fn status_is_cached_and_not_sent() {
        let (spec, mut cache) = (json!({"type": "state.redis"}), Cache::default());
        cache.upsert(entry("a", "1", &spec, &Value::Null));
        let before = cache.get("n", "a").unwrap().clone();
        before.record_sent(b"x");
        let status = json!({"conditions": []});
        assert!(cache.upsert(entry("a", "2", &spec, &status)).is_none());
        let after = cache.get("n", "a").unwrap();
        assert_eq!(after.status, status);
        assert_eq!(after.object.metadata.resource_version.as_deref(), Some("2"));
        assert!(after.is_same_content(&before) && after.was_sent());
        assert!(!String::from_utf8_lossy(&after.json().unwrap()).contains("status"));
        assert!(cache.upsert(entry("a", "3", &json!({"type": "x"}), &status)).is_some());
        assert!(!cache.get("n", "a").unwrap().is_same_content(&before));
    }

    #[test]
    fn objects_without_a_version_are_compared_by_content() {
        let (spec, mut cache) = (json!({"type": "state.redis"}), Cache::default());
        cache.upsert(entry("a", "", &spec, &Value::Null));
        assert!(cache.upsert(entry("a", "", &spec, &Value::Null)).is_none());
        assert!(cache.upsert(entry("a", "", &json!({"type": "x"}), &Value::Null)).is_some());
    }

    #[test]
    fn a_new_list_removes_objects_that_it_does_not_contain() {
        let raw = |name: &str, spec: &Value| -> DynamicObject {
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "n", "resourceVersion": "1", "uid": "u"},
                "spec": spec,
            }))
            .unwrap()
        };
        let valid = |name: &str| raw(name, &json!({"type": "state.redis", "version": "1"}));
        let mut cache = Cache::<Component>::default();
        for name in ["a", "b", "c"] {
            assert_eq!(cache.apply(WatchEvent::Apply(valid(name))).unwrap().len(), 1);
        }
        assert!(cache.apply(WatchEvent::Init).unwrap().is_empty());
        assert!(cache.apply(WatchEvent::InitApply(valid("b"))).unwrap().is_empty());
        let bad = raw("c", &json!({"type": 7}));
        assert!(cache.apply(WatchEvent::InitApply(bad)).is_err());
        let removed = cache.apply(WatchEvent::InitDone).unwrap();
        let removed: Vec<_> = removed.into_iter().filter_map(|change| change.old).collect();
        assert_eq!(removed.iter().map(|e| e.name()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(cache.list("n").map(|e| e.name()).collect::<Vec<_>>(), ["b", "c"]);
        let (kind, message) = (FailureKind::NotServed, String::new());
        let not_served = WatchEvent::Failed(WatchFailure { kind, message });
        assert_eq!(cache.apply(not_served).unwrap().len(), 2);
    }

    #[test]
    fn object_without_spec_is_decoded() {
        let raw: DynamicObject =
            serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "n"}})).unwrap();
        let component: Component = decode(raw).unwrap().object;
        assert_eq!(component.kind, "Component");
        assert_eq!(component.metadata.name.as_deref(), Some("a"));
    }
}
