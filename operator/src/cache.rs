//! The objects of one kind as last seen, and what changed.
//!
//! Pure. The type of a change comes from comparison with what is here, not from the verb of the
//! watch: a relist or a resync that brings nothing new changes nothing (Dapr 1.18), nor does a
//! write that changes nothing that sidecars see.
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hasher as _},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use jiff::Timestamp;
use kube::core::{DynamicObject, ObjectMeta};
use resources::{CustomResource, json, trim_metadata};
use serde_json::Value;

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace; empty for none.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// The key of an object.
    pub fn of(metadata: &ObjectMeta) -> Self {
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }
}

/// One object, decoded, with its JSON.
pub struct Entry<K> {
    /// The object as it is stored, without filled-in secrets.
    pub object: K,
    /// Its member `status`, which no sidecar gets; `null` for none.
    pub status: Value,
    /// When it was written last, as the API server noted it.
    pub written: Option<Timestamp>,
    json: OnceLock<Bytes>,
    /// Hash of the JSON with secrets that sidecars have; 0 when it was sent to nobody. Shared by
    /// the entries that are the same to sidecars.
    sent: Arc<AtomicU64>,
}

impl<K: CustomResource> Entry<K> {
    /// An entry without JSON yet.
    pub fn new(object: K) -> Self {
        let (status, written) = (Value::Null, None);
        Self { object, status, written, json: OnceLock::new(), sent: Arc::default() }
    }

    /// Whether both are the same to sidecars: one took the other's place in the cache without a
    /// word to anybody.
    pub fn is_same_content(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.sent, &other.sent)
    }

    /// The object was sent with secrets, as `body`; empty when they could not be filled in. Only
    /// the first time counts: sidecars that got it then have to hear of anything else.
    pub fn sent(&self, body: &[u8]) {
        let _ = self.sent.compare_exchange(0, hash(body), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether it was sent with secrets.
    pub fn was_sent(&self) -> bool {
        self.sent.load(Ordering::Relaxed) != 0
    }

    /// It will be sent again, as `body`. Whether that differs from what was sent.
    pub fn sent_anew(&self, body: &[u8]) -> bool {
        let now = hash(body);
        self.sent.swap(now, Ordering::Relaxed) != now
    }

    /// The JSON of the object as it is stored; made once and shared.
    ///
    /// # Errors
    /// When the object cannot be printed, which no decoded object does.
    pub fn json(&self) -> serde_json::Result<Bytes> {
        if let Some(bytes) = self.json.get() {
            return Ok(bytes.clone());
        }
        let bytes = Bytes::from(json::to_vec(&self.object)?);
        Ok(self.json.get_or_init(|| bytes).clone())
    }

    /// Name of the object.
    pub fn name(&self) -> &str {
        self.object.meta().name.as_deref().unwrap_or_default()
    }
}

/// Never 0. Stays in this process, so it need not withstand anybody who looks for collisions.
fn hash(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(body);
    hasher.finish().max(1)
}

/// An object that the types cannot hold, so that sidecars could not either.
#[derive(Debug, thiserror::Error)]
#[error("decode {} {}/{}", kind, key.namespace, key.name)]
pub struct Undecodable {
    /// Kind of the object.
    pub kind: &'static str,
    /// Group and version it was read in.
    pub api_version: String,
    /// Which object.
    pub key: Key,
    /// Its unique id.
    pub uid: Option<String>,
    /// What is wrong with it.
    pub source: serde_json::Error,
}

/// Decodes one object as the API server sent it.
///
/// # Errors
/// [`Undecodable`] when a member has the wrong type or an illegal value.
pub fn decode<K: CustomResource>(raw: DynamicObject) -> Result<Entry<K>, Undecodable> {
    let key = Key::of(&raw.metadata);
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

/// When somebody wrote the object last (Kubernetes, `managedFields`).
fn written(metadata: &ObjectMeta) -> Option<Timestamp> {
    let writers = metadata.managed_fields.iter().flatten();
    let times = writers.filter_map(|writer| writer.time.as_ref());
    times.chain(&metadata.creation_timestamp).map(|time| time.0).max()
}

/// A difference between two states of an object.
pub struct Change<K> {
    /// Namespace of the object.
    pub namespace: String,
    /// The state before; `None` when there was no such object.
    pub old: Option<Arc<Entry<K>>>,
    /// The state after; `None` when it is gone.
    pub new: Option<Arc<Entry<K>>>,
}

/// The objects of one kind as last seen.
pub struct Cache<K> {
    namespaces: BTreeMap<String, BTreeMap<String, Arc<Entry<K>>>>,
    /// What the list under way has shown; `None` outside of a list.
    listed: Option<BTreeSet<Key>>,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self { namespaces: BTreeMap::new(), listed: None }
    }
}

impl<K: CustomResource> Cache<K> {
    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Entry<K>>> {
        self.namespaces.get(namespace)?.get(name)
    }

    /// The objects of a namespace, by name.
    pub fn list(&self, namespace: &str) -> impl Iterator<Item = &Arc<Entry<K>>> {
        self.namespaces.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    /// All objects.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Entry<K>>> {
        self.namespaces.values().flat_map(BTreeMap::values)
    }

    /// The namespaces that have objects.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.namespaces.keys().map(String::as_str)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.namespaces.values().map(BTreeMap::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }

    /// A list begins: what it does not show is gone at [`Self::end_list`].
    pub fn begin_list(&mut self) {
        self.listed = Some(BTreeSet::new());
    }

    /// The list is complete; returns the objects that it did not show.
    pub fn end_list(&mut self) -> Vec<Change<K>> {
        let Some(seen) = self.listed.take() else { return Vec::new() };
        let gone: Vec<Key> = self
            .namespaces
            .iter()
            .flat_map(|(namespace, objects)| {
                objects.keys().map(|name| Key { namespace: namespace.clone(), name: name.clone() })
            })
            .filter(|key| !seen.contains(key))
            .collect();
        gone.iter().filter_map(|key| self.remove(key)).collect()
    }

    /// The object exists but cannot be decoded. Its last good state, if there is one, stays: a
    /// typing error must not take a working Component away, or lift an access policy.
    pub fn undecodable(&mut self, key: Key) {
        if let Some(seen) = self.listed.as_mut() {
            seen.insert(key);
        }
    }

    /// The object as it is now. `None` when that is nothing new to sidecars.
    pub fn upsert(&mut self, mut entry: Entry<K>) -> Option<Change<K>> {
        let key = Key::of(entry.object.meta());
        if let Some(seen) = self.listed.as_mut() {
            seen.insert(key.clone());
        }
        let objects = self.namespaces.entry(key.namespace.clone()).or_default();
        let old = objects.get(&key.name);
        if old.is_some_and(|old| same_version(old.object.meta(), entry.object.meta())) {
            return None;
        }
        let same = old.filter(|old| same_content(&old.object, &mut entry.object));
        if let Some(same) = same {
            entry.sent = same.sent.clone();
            objects.insert(key.name, Arc::new(entry));
            return None;
        }
        let new = Arc::new(entry);
        let old = objects.insert(key.name, new.clone());
        Some(Change { namespace: key.namespace, old, new: Some(new) })
    }

    /// The object is gone. `None` when it was not there.
    pub fn remove(&mut self, key: &Key) -> Option<Change<K>> {
        let objects = self.namespaces.get_mut(&key.namespace)?;
        let old = objects.remove(&key.name)?;
        if objects.is_empty() {
            self.namespaces.remove(&key.namespace);
        }
        Some(Change { namespace: key.namespace.clone(), old: Some(old), new: None })
    }

    /// All objects are gone, as when the CRD was removed.
    pub fn clear(&mut self) -> Vec<Change<K>> {
        self.begin_list();
        self.end_list()
    }
}

/// Equal, non-empty resource versions of the same object mean equal content (Kubernetes API).
fn same_version(old: &ObjectMeta, new: &ObjectMeta) -> bool {
    let version = |metadata: &ObjectMeta| metadata.resource_version.clone().unwrap_or_default();
    !version(old).is_empty() && version(old) == version(new) && old.uid == new.uid
}

/// Whether the objects differ in their resource version at most, as after a write of the status.
/// `new` is left as it is.
fn same_content<K: CustomResource>(old: &K, new: &mut K) -> bool {
    let old_version = old.meta().resource_version.clone();
    let new_version = std::mem::replace(&mut new.meta_mut().resource_version, old_version);
    let same = old == new;
    new.meta_mut().resource_version = new_version;
    same
}

#[cfg(test)]
mod tests {
    use resources::Component;
    use serde_json::json;

    use super::*;

    /// One whose content follows its version.
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
        let key = Key { namespace: "n".into(), name: "a".into() };
        assert_eq!(shape(cache.remove(&key)), Some((true, false)));
        assert_eq!(shape(cache.remove(&key)), None, "unknown objects cannot be deleted");
        assert!(cache.is_empty());
    }

    #[test]
    fn what_sidecars_have_is_remembered_until_they_are_sent_something_else() {
        let entry = component("a", "1");
        assert!(!entry.was_sent());
        entry.sent(b"old");
        entry.sent(b"new"); // another sidecar, after the Secret changed
        assert!(entry.was_sent());
        assert!(entry.sent_anew(b"new"), "the first one has the old value still");
        assert!(!entry.sent_anew(b"new"));
        assert!(entry.sent_anew(b""), "the Secret is gone");
    }

    #[test]
    fn status_reaches_the_cache_and_no_sidecar() {
        let (spec, mut cache) = (json!({"type": "state.redis"}), Cache::default());
        cache.upsert(entry("a", "1", &spec, &Value::Null));
        let before = cache.get("n", "a").unwrap().clone();
        before.sent(b"x");
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
    fn relist_removes_what_it_does_not_show() {
        let mut cache = Cache::default();
        for name in ["a", "b", "c"] {
            cache.upsert(component(name, "1"));
        }
        cache.begin_list();
        assert!(cache.upsert(component("b", "1")).is_none());
        cache.undecodable(Key { namespace: "n".into(), name: "c".into() });
        let gone: Vec<_> = cache.end_list().into_iter().filter_map(|c| c.old).collect();
        assert_eq!(gone.iter().map(|e| e.name()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(cache.list("n").map(|e| e.name()).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(cache.clear().len(), 2);
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
