//! Snapshots of cluster state for requests. Watches and polls update them.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::pod::NamespacePolicy;
use crate::sidecar::{ComponentContainer, Platform};

/// The state of the cluster that requests read. Cheap to clone; reads do not block.
#[derive(Debug, Clone)]
pub struct ClusterSnapshot {
    mtls_enabled: Arc<ArcSwap<bool>>,
    components: Arc<ArcSwap<Components>>,
    uids: Arc<ArcSwap<Vec<String>>>,
    namespaces: Arc<ArcSwap<Namespaces>>,
    platform: Arc<ArcSwap<Platform>>,
}

/// Namespaces with labels or annotations for sidecars, by name.
pub(crate) type Namespaces = HashMap<String, NamespacePolicy>;

/// The Components that define containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Components {
    Known {
        /// By namespace, ordered by name.
        by_namespace: HashMap<String, Vec<ComponentContainer>>,
        /// The only namespace that the injector may list; `None` if it may list all.
        only: Option<String>,
    },
    /// Not listed, with the reason.
    Unknown(String),
}

impl Components {
    /// The Components of a namespace.
    ///
    /// # Errors
    /// The reason why they are unknown, for the user.
    pub(crate) fn of(&self, namespace: &str) -> Result<&[ComponentContainer], &str> {
        match self {
            Self::Unknown(why) => Err(why),
            Self::Known { only: Some(only), .. } if only != namespace => {
                Err("the injector may list Components of its own namespace only (RBAC)")
            }
            Self::Known { by_namespace, .. } => {
                Ok(by_namespace.get(namespace).map_or(&[], Vec::as_slice))
            }
        }
    }
}

impl Default for ClusterSnapshot {
    /// The state before the first list: mTLS is on, Components are unknown.
    fn default() -> Self {
        let unknown = Components::Unknown("not listed yet".to_owned());
        Self {
            mtls_enabled: Arc::new(ArcSwap::from_pointee(true)),
            components: Arc::new(ArcSwap::from_pointee(unknown)),
            uids: Arc::default(),
            namespaces: Arc::default(),
            platform: Arc::default(),
        }
    }
}

impl ClusterSnapshot {
    pub(crate) fn mtls_enabled(&self) -> bool {
        **self.mtls_enabled.load()
    }

    pub(crate) fn set_mtls_enabled(&self, enabled: bool) {
        self.mtls_enabled.store(Arc::new(enabled));
    }

    pub(crate) fn components(&self) -> Arc<Components> {
        self.components.load_full()
    }

    /// A failure after a successful list keeps the list.
    pub(crate) fn set_components(&self, components: Components) {
        let failed = matches!(components, Components::Unknown(_));
        if !failed || matches!(**self.components.load(), Components::Unknown(_)) {
            self.components.store(Arc::new(components));
        }
    }

    /// UIDs of the service accounts that are allowed to inject.
    pub(crate) fn uids(&self) -> Arc<Vec<String>> {
        self.uids.load_full()
    }

    pub(crate) fn namespaces(&self) -> Arc<Namespaces> {
        self.namespaces.load_full()
    }

    pub(crate) fn set_namespaces(&self, namespaces: Namespaces) {
        self.namespaces.store(Arc::new(namespaces));
    }

    pub(crate) fn platform(&self) -> Platform {
        **self.platform.load()
    }

    pub(crate) fn set_platform(&self, platform: Platform) {
        self.platform.store(Arc::new(platform));
    }

    pub(crate) fn set_uids(&self, uids: Vec<String>) {
        self.uids.store(Arc::new(uids));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(only: Option<&str>) -> Components {
        Components::Known { by_namespace: HashMap::new(), only: only.map(str::to_owned) }
    }

    #[test]
    fn a_failing_watch_keeps_the_last_list() {
        let snapshot = ClusterSnapshot::default();
        assert_eq!(snapshot.components().of("a"), Err("not listed yet"));
        snapshot.set_components(Components::Unknown("forbidden".to_owned()));
        assert_eq!(snapshot.components().of("a"), Err("forbidden"));
        snapshot.set_components(known(None));
        snapshot.set_components(Components::Unknown("gone".to_owned()));
        assert_eq!(snapshot.components().of("a"), Ok(&[][..]));
    }

    #[test]
    fn an_installation_for_one_namespace_has_no_other_components() {
        assert!(known(Some("a")).of("a").is_ok());
        assert!(known(Some("a")).of("b").is_err());
    }
}
