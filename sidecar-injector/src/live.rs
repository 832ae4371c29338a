//! What requests see of the cluster: snapshots that watches keep fresh.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::components::ComponentContainer;

/// Snapshots of watched objects. Cheap to clone; readers never wait.
#[derive(Debug, Clone)]
pub struct Live {
    mtls_enabled: Arc<ArcSwap<bool>>,
    components: Arc<ArcSwap<Components>>,
    uids: Arc<ArcSwap<Vec<String>>>,
}

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

    /// The listed accounts were resolved.
    pub fn set_uids(&self, uids: Vec<String>) {
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
}
