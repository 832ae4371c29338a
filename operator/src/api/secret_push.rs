//! Publishes an update when a Secret that an object references has changed.
//!
//! ```text
//!  Secrets (metadata watch) ─► changed names ─► objects that reference one ─► resolve ─► hash differs?
//!                                               and have been sent                        └► publish
//! ```
//! The cache entry of an object holds a hash of the JSON that was sent. A Secret therefore costs
//! nothing until an object that references it was sent, and a change of labels or of unused keys
//! publishes nothing. Only Components and MCPServers are updated: a sidecar restarts when it receives
//! a Configuration or an HTTPEndpoint with Secrets (Dapr 1.18).
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use kube::core::ObjectMeta;
use kubernetes::WatchEvent;
use runtime::Scope;
use tokio::sync::Notify;

use kubernetes::ObjectKey;

use crate::api::context::Context;
use crate::cache::store::Store;
use crate::cluster::watch::handle_events;
use crate::secrets::resolution::ServedKind;

/// The Secrets that changed since the last push.
#[derive(Default)]
struct Queue {
    changed: Mutex<ChangedSecrets>,
    woken: Notify,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum ChangedSecrets {
    #[default]
    Nothing,
    Some(BTreeSet<ObjectKey>),
    /// Any Secret may have changed while the watch was interrupted.
    All,
}

impl ChangedSecrets {
    fn add(&mut self, event: &WatchEvent<ObjectMeta>) {
        match event {
            // Sidecars keep the values of a deleted Secret.
            WatchEvent::Init
            | WatchEvent::InitApply(_)
            | WatchEvent::Delete(_)
            | WatchEvent::Failed(_) => {}
            WatchEvent::InitDone => *self = Self::All,
            WatchEvent::Apply(secret) => match self {
                Self::All => {}
                Self::Some(names) => {
                    names.insert(ObjectKey::of(secret));
                }
                Self::Nothing => *self = Self::Some([ObjectKey::of(secret)].into()),
            },
        }
    }

    /// Whether one of the `needed` Secrets of a namespace changed.
    fn affects<'a>(&self, namespace: &str, mut needed: impl Iterator<Item = &'a str>) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => needed.next().is_some(),
            Self::Some(names) => needed.any(|name| {
                names
                    .contains(&ObjectKey { namespace: namespace.to_owned(), name: name.to_owned() })
            }),
        }
    }
}

/// Watches Secrets and publishes updates until the scope ends.
pub(crate) fn start(context: &Arc<Context>, scope: &Scope) {
    let queue = Arc::new(Queue::default());
    let (watched, seen) = (context.clone(), queue.clone());
    scope.spawn_until_cancelled("operator-watch", async move {
        let events = watched.cluster.watch_secrets();
        handle_events("Secret", &watched.metrics, events, |event| {
            seen.changed.lock().unwrap_or_else(PoisonError::into_inner).add(&event);
            seen.woken.notify_one();
        })
        .await;
    });
    let context = context.clone();
    scope.spawn_until_cancelled("operator-secret-push", async move {
        push_forever(&context, &queue).await;
    });
}

async fn push_forever(context: &Context, queue: &Queue) {
    loop {
        let woken = queue.woken.notified();
        let names =
            std::mem::take(&mut *queue.changed.lock().unwrap_or_else(PoisonError::into_inner));
        if names == ChangedSecrets::Nothing {
            woken.await;
            continue;
        }
        push(context, &context.stores.components, &names).await;
        push(context, &context.stores.mcp_servers, &names).await;
    }
}

/// Publishes an update for each object that was sent before and now resolves to other JSON.
async fn push<K: ServedKind>(context: &Context, store: &Store<K>, names: &ChangedSecrets) {
    for entry in store.all() {
        let namespace = entry.object.meta().namespace.as_deref().unwrap_or_default();
        let affected = names.affects(namespace, entry.object.needed_secrets().into_iter());
        if !affected || !entry.was_sent() {
            continue;
        }
        let body = context.resolve(&entry).await;
        if body.as_ref().is_err_and(crate::secrets::resolution::FillError::is_transient) {
            continue; // the Secret could not be read; streams and sidecars retry
        }
        if entry.replace_sent_hash(body.as_deref().unwrap_or_default()) && body.is_ok() {
            tracing::info!(target: "dapr.operator.api", kind = K::KIND, namespace,
                name = entry.name(), "a referenced Secret changed, publishing an update");
            store.touch(&entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("n".to_owned()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn only_objects_that_reference_the_secret_are_affected() {
        let mut names = ChangedSecrets::default();
        names.add(&WatchEvent::Delete(secret("a")));
        assert_eq!(names, ChangedSecrets::Nothing);
        names.add(&WatchEvent::Apply(secret("a")));
        names.add(&WatchEvent::Apply(secret("a")));
        assert!(names.affects("n", ["b", "a"].into_iter()));
        assert!(!names.affects("m", ["a"].into_iter()), "another namespace");
        assert!(!names.affects("n", ["b"].into_iter()));
    }

    #[test]
    fn every_object_with_secrets_is_affected_after_a_relist() {
        let mut names = ChangedSecrets::default();
        names.add(&WatchEvent::Init);
        names.add(&WatchEvent::InitApply(secret("a")));
        assert_eq!(names, ChangedSecrets::Nothing, "the list is not complete");
        names.add(&WatchEvent::InitDone);
        names.add(&WatchEvent::Apply(secret("a")));
        assert_eq!(names, ChangedSecrets::All);
        assert!(names.affects("n", ["b"].into_iter()));
        assert!(!names.affects("n", std::iter::empty()));
    }
}
