//! The Secret and the `ConfigMap` in memory, with versions as the API server keeps them, and with
//! faults on order: for tests of what happens between two writes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::bail;
use identity::stored::Published;
use identity::{CertificateDer, TrustAnchors};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use crate::bundle_objects::ObjectsError;
use crate::bundle_record::{Change, Keys, Snapshot};
use crate::rotation::Followers;

/// What goes wrong with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Sentry dies before the API server hears of it.
    Before,
    /// It is carried out, and sentry dies before it hears of that.
    After,
}

/// The store.
pub(crate) struct Memory {
    keys: Keys,
    objects: Mutex<Objects>,
}

struct Objects {
    snapshot: Snapshot,
    version: u64,
    /// Writes so far, those that failed included.
    writes: usize,
    /// What goes wrong, by the number of the write.
    faults: Vec<(usize, Fault)>,
    /// The anchors that running sidecars were created with.
    sidecars: Vec<TrustAnchors>,
}

impl Memory {
    pub(crate) fn new(keys: Keys) -> Self {
        let snapshot = Snapshot { secret: Secret::default(), config_map: ConfigMap::default() };
        let objects =
            Objects { snapshot, version: 0, writes: 0, faults: Vec::new(), sidecars: Vec::new() };
        Self { keys, objects: Mutex::new(objects) }
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read(&self) -> Snapshot {
        self.lock().snapshot.clone()
    }

    pub(crate) fn write(&self, snapshot: &Snapshot, change: &Change) -> anyhow::Result<()> {
        self.put(snapshot.secret.metadata.resource_version.as_ref(), "Secret", |objects| {
            self.keys.apply(&mut objects.secret, change);
            &mut objects.secret.metadata.resource_version
        })
    }

    pub(crate) fn publish(&self, snapshot: &Snapshot, text: &str) -> anyhow::Result<()> {
        self.put(snapshot.config_map.metadata.resource_version.as_ref(), "ConfigMap", |objects| {
            self.keys.publish(&mut objects.config_map, text);
            &mut objects.config_map.metadata.resource_version
        })
    }

    fn put(
        &self,
        read: Option<&String>,
        kind: &'static str,
        change: impl FnOnce(&mut Snapshot) -> &mut Option<String>,
    ) -> anyhow::Result<()> {
        let mut objects = self.lock();
        let number = objects.writes;
        objects.writes += 1;
        let fault = objects.faults.iter().find(|(at, _)| *at == number).map(|(_, fault)| *fault);
        if fault == Some(Fault::Before) {
            bail!("died before the write");
        }
        let metadata = match kind {
            "Secret" => &objects.snapshot.secret.metadata,
            _ => &objects.snapshot.config_map.metadata,
        };
        if metadata.resource_version.as_ref() != read {
            return Err(ObjectsError::Conflict(kind).into());
        }
        objects.version += 1;
        let version = objects.version.to_string();
        *change(&mut objects.snapshot) = Some(version);
        if fault == Some(Fault::After) {
            bail!("died after the write");
        }
        Ok(())
    }

    /// Makes writes go wrong, by their number from 0.
    pub(crate) fn fail(&self, faults: Vec<(usize, Fault)>) {
        self.lock().faults = faults;
    }

    /// How many writes there were.
    pub(crate) fn writes(&self) -> usize {
        self.lock().writes
    }

    /// Changes the Secret by hand.
    pub(crate) fn edit(&self, change: impl FnOnce(&mut Secret)) {
        let mut objects = self.lock();
        change(&mut objects.snapshot.secret);
        objects.version += 1;
        let version = objects.version.to_string();
        objects.snapshot.secret.metadata.resource_version = Some(version);
    }

    /// The anchors that a pod created now gets, if there are any.
    pub(crate) fn anchors(&self) -> Option<TrustAnchors> {
        let Published::ConfigMap(Some(text)) =
            self.keys.published(&self.lock().snapshot.config_map)
        else {
            return None;
        };
        TrustAnchors::parse_pem(text.as_bytes()).ok()
    }

    /// The running sidecars, by what they know.
    pub(crate) fn set_sidecars(&self, sidecars: Vec<TrustAnchors>) {
        self.lock().sidecars = sidecars;
    }

    pub(crate) fn without(&self, root: &CertificateDer<'_>) -> Followers {
        let lacks = |known: &&TrustAnchors| !known.certs().contains(root);
        Followers::Without(self.lock().sidecars.iter().filter(lacks).count())
    }
}
