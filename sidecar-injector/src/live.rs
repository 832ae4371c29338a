//! What requests see of the cluster: snapshots that watches keep fresh.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::Value;

use crate::components::ComponentContainer;
use crate::namespace::NamespacePolicy;
use crate::platform::Platform;

/// Snapshots of watched objects. Cheap to clone; readers never wait.
#[derive(Debug, Clone)]
pub struct Live {
    mtls_enabled: Arc<ArcSwap<bool>>,
    components: Arc<ArcSwap<Components>>,
    uids: Arc<ArcSwap<Vec<String>>>,
    namespaces: Arc<ArcSwap<Namespaces>>,
    platform: Arc<ArcSwap<Platform>>,
}

/// The Namespaces that decide anything about sidecars, by name.
pub type Namespaces = HashMap<String, NamespacePolicy>;

/// The Components that bring containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Components {
    /// They were listed.
    Known {
        /// By namespace, in the order of their names.
        by_namespace: HashMap<String, Vec<ComponentContainer>>,
        /// The one namespace that may be listed; `None` when all may.
        only: Option<String>,
    },
    /// They were not, for this reason.
    Unknown(String),
}

impl Components {
    /// Those of a namespace, or why they are not known.
    ///
    /// # Errors
    /// The reason, for the user.
    pub fn of(&self, namespace: &str) -> Result<&[ComponentContainer], &str> {
        match self {
            Self::Unknown(why) => Err(why),
            Self::Known { only: Some(only), .. } if only != namespace => {
                Err("the injector may list Components of its own namespace only")
            }
            Self::Known { by_namespace, .. } => {
                Ok(by_namespace.get(namespace).map_or(&[], Vec::as_slice))
            }
        }
    }
}

impl Default for Live {
    /// Before anything was seen: mTLS on, as without a Configuration; no Components known.
    fn default() -> Self {
        let unknown = Components::Unknown("they have not been listed yet".to_owned());
        Self {
            mtls_enabled: Arc::new(ArcSwap::from_pointee(true)),
            components: Arc::new(ArcSwap::from_pointee(unknown)),
            uids: Arc::default(),
            namespaces: Arc::default(),
            platform: Arc::default(),
        }
    }
}

impl Live {
    /// Whether sidecars use mTLS among themselves.
    pub fn mtls_enabled(&self) -> bool {
        **self.mtls_enabled.load()
    }

    /// The control plane's Configuration was seen, or is not there.
    pub fn set_mtls_enabled(&self, enabled: bool) {
        self.mtls_enabled.store(Arc::new(enabled));
    }

    /// Components that bring containers.
    pub fn components(&self) -> Arc<Components> {
        self.components.load_full()
    }

    /// The Components were listed, or cannot be. A failure after a good list leaves the list: it
    /// is the best that is known.
    pub fn set_components(&self, components: Components) {
        let failed = matches!(components, Components::Unknown(_));
        if !failed || matches!(**self.components.load(), Components::Unknown(_)) {
            self.components.store(Arc::new(components));
        }
    }

    /// UIDs of listed accounts.
    pub fn uids(&self) -> Arc<Vec<String>> {
        self.uids.load_full()
    }

    /// The Namespaces that decide anything.
    pub fn namespaces(&self) -> Arc<Namespaces> {
        self.namespaces.load_full()
    }

    /// The Namespaces were listed, or one of them changed.
    pub fn set_namespaces(&self, namespaces: Namespaces) {
        self.namespaces.store(Arc::new(namespaces));
    }

    /// Versions of the cluster, as far as known.
    pub fn platform(&self) -> Platform {
        **self.platform.load()
    }

    /// The versions were asked for.
    pub fn set_platform(&self, platform: Platform) {
        self.platform.store(Arc::new(platform));
    }

    /// The listed accounts were resolved.
    pub fn set_uids(&self, uids: Vec<String>) {
        self.uids.store(Arc::new(uids));
    }
}

/// The mTLS switch of the control plane's Configuration; on unless it says otherwise.
pub fn mtls_enabled(configuration: &Value) -> bool {
    configuration.pointer("/spec/mtls/enabled").and_then(Value::as_bool).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn known(only: Option<&str>) -> Components {
        Components::Known { by_namespace: HashMap::new(), only: only.map(str::to_owned) }
    }

    #[test]
    fn a_failing_watch_leaves_the_last_good_list() {
        let live = Live::default();
        assert_eq!(live.components().of("a"), Err("they have not been listed yet"));
        live.set_components(Components::Unknown("forbidden".to_owned()));
        assert_eq!(live.components().of("a"), Err("forbidden"));
        live.set_components(known(None));
        live.set_components(Components::Unknown("gone".to_owned()));
        assert_eq!(live.components().of("a"), Ok(&[][..]));
    }

    #[test]
    fn an_installation_for_one_namespace_knows_no_others() {
        assert!(known(Some("a")).of("a").is_ok());
        assert!(known(Some("a")).of("b").is_err());
    }

    #[test]
    fn mtls_is_on_unless_switched_off() {
        assert!(mtls_enabled(&json!({})));
        assert!(mtls_enabled(&json!({"spec": {"mtls": {}}})));
        assert!(!mtls_enabled(&json!({"spec": {"mtls": {"enabled": false}}})));
    }
}
