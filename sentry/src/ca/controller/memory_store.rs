//! The Secret and the `ConfigMap` in memory, with resource versions and injected write failures.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use identity::stored::Published;
use identity::{CertificateDer, TrustAnchors};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use crate::ca::cluster::events::Events;
use crate::ca::record::{Keys, Snapshot};
use crate::ca::store::{CaStore, StoredState};
use crate::ca::store_error::StoreError;
use crate::rotation::{SecretUpdate, StaleSidecars};

/// A crash of sentry around a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Before the write.
    Before,
    /// After the write, before its response.
    After,
}

/// The error of a simulated crash.
pub(super) const CRASH: &str = "crashed";

/// The store; replicas share it.
#[derive(Clone)]
pub(super) struct MemoryStore {
    keys: Arc<Keys>,
    objects: Arc<Mutex<Objects>>,
}

struct Objects {
    snapshot: Snapshot,
    version: u64,
    /// Number of writes, failed ones included.
    writes: usize,
    /// Faults by the number of the write.
    faults: Vec<(usize, Fault)>,
    /// Trust anchors of the running sidecars.
    sidecars: Vec<TrustAnchors>,
}

impl MemoryStore {
    pub(super) fn new(keys: Keys) -> Self {
        let snapshot = Snapshot { secret: Secret::default(), config_map: ConfigMap::default() };
        let objects =
            Objects { snapshot, version: 0, writes: 0, faults: Vec::new(), sidecars: Vec::new() };
        Self { keys: Arc::new(keys), objects: Arc::new(Mutex::new(objects)) }
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.lock().snapshot.clone()
    }

    /// Injects faults by the number of the write, from 0.
    pub(super) fn inject(&self, faults: Vec<(usize, Fault)>) {
        self.lock().faults = faults;
    }

    /// Number of writes.
    pub(super) fn writes(&self) -> usize {
        self.lock().writes
    }

    /// Edits the Secret from outside.
    pub(super) fn edit(&self, change: impl FnOnce(&mut Secret)) {
        let mut objects = self.lock();
        change(&mut objects.snapshot.secret);
        objects.version += 1;
        let version = objects.version.to_string();
        objects.snapshot.secret.metadata.resource_version = Some(version);
    }

    /// The trust anchors that a pod created now gets.
    pub(super) fn anchors(&self) -> Option<TrustAnchors> {
        let Published::ConfigMap(Some(text)) =
            self.keys.published(&self.lock().snapshot.config_map)
        else {
            return None;
        };
        TrustAnchors::parse_pem(text.as_bytes()).ok()
    }

    /// Sets the trust anchors of the running sidecars.
    pub(super) fn set_sidecars(&self, sidecars: Vec<TrustAnchors>) {
        self.lock().sidecars = sidecars;
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(
        &self,
        read: Option<&String>,
        kind: &'static str,
        change: impl FnOnce(&mut Snapshot) -> &mut Option<String>,
    ) -> Result<(), StoreError> {
        let crash = || StoreError::Api { verb: "update", kind, cause: CRASH.to_owned() };
        let mut objects = self.lock();
        let number = objects.writes;
        objects.writes += 1;
        let fault = objects.faults.iter().find(|(at, _)| *at == number).map(|(_, fault)| *fault);
        if fault == Some(Fault::Before) {
            return Err(crash());
        }
        let metadata = match kind {
            "Secret" => &objects.snapshot.secret.metadata,
            _ => &objects.snapshot.config_map.metadata,
        };
        if metadata.resource_version.as_ref() != read {
            return Err(StoreError::Conflict(kind));
        }
        objects.version += 1;
        let version = objects.version.to_string();
        *change(&mut objects.snapshot) = Some(version);
        if fault == Some(Fault::After) { Err(crash()) } else { Ok(()) }
    }
}

impl CaStore for MemoryStore {
    fn events(&self) -> Events {
        Events::disabled()
    }

    async fn count_stale(&self, root: &CertificateDer<'_>) -> StaleSidecars {
        let lacks = |known: &&TrustAnchors| !known.certs().contains(root);
        StaleSidecars::Count(self.lock().sidecars.iter().filter(lacks).count())
    }

    async fn read(&self) -> Result<StoredState, StoreError> {
        Ok(StoredState::from_objects(&self.keys, self.snapshot()))
    }

    async fn write(&self, read: StoredState, update: &SecretUpdate) -> Result<(), StoreError> {
        let read = read.snapshot.ok_or(StoreError::Conflict("Secret"))?;
        self.put(read.secret.metadata.resource_version.as_ref(), "Secret", |objects| {
            self.keys.apply(&mut objects.secret, update);
            &mut objects.secret.metadata.resource_version
        })
    }

    async fn publish(&self, read: StoredState) -> Result<(), StoreError> {
        let text = read.anchors_text()?.to_owned();
        let read = read.snapshot.ok_or(StoreError::Conflict("ConfigMap"))?;
        self.put(read.config_map.metadata.resource_version.as_ref(), "ConfigMap", |objects| {
            self.keys.publish(&mut objects.config_map, &text);
            &mut objects.config_map.metadata.resource_version
        })
    }

    fn changes(&self) -> Result<BoxStream<'static, ()>, StoreError> {
        Ok(futures::stream::pending().boxed())
    }
}
