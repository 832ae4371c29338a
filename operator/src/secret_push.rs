//! Sends an update to sidecars when a Secret that an object refers to has other data.
//!
//! ```text
//!  Secrets (metadata watch) ─► due: names ─► objects that use one and were sent ─► fill ─► differs?
//!                                                                                     └► feed
//! ```
//! What was sent is remembered as a hash on the object's cache entry, so a Secret costs nothing
//! until an object that uses it was sent, and labels, resyncs and unused keys change nothing.
//! Components and MCPServers only: for a Configuration or an HTTPEndpoint with secrets a sidecar
//! restarts as a whole (Dapr 1.18).
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use kube::{core::ObjectMeta, runtime::watcher::Event};
use runtime::Scope;
use tokio::sync::Notify;

use crate::{
    api::Shared,
    cache::Key,
    follow::{Seen, follow},
    secrets::Served,
    store::Store,
};

/// Secrets to look at; one entry per Secret, however often it changes.
#[derive(Default)]
struct Due {
    secrets: Mutex<Names>,
    woken: Notify,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Names {
    /// None.
    #[default]
    Nothing,
    /// These.
    Some(BTreeSet<Key>),
    /// Any may have changed while nobody watched.
    All,
}

impl Names {
    fn add(&mut self, event: &Event<ObjectMeta>) {
        match event {
            // The values that sidecars have stay theirs when the Secret is gone.
            Event::Init | Event::InitApply(_) | Event::Delete(_) => {}
            Event::InitDone => *self = Self::All,
            Event::Apply(secret) => match self {
                Self::All => {}
                Self::Some(names) => {
                    names.insert(Key::of(secret));
                }
                Self::Nothing => *self = Self::Some([Key::of(secret)].into()),
            },
        }
    }

    /// Whether one of these Secrets of a namespace is among them.
    fn hit<'a>(&self, namespace: &str, mut needed: impl Iterator<Item = &'a str>) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => needed.next().is_some(),
            Self::Some(names) => needed.any(|name| {
                names.contains(&Key { namespace: namespace.to_owned(), name: name.to_owned() })
            }),
        }
    }
}

/// Watches Secrets until the scope ends.
pub fn start(shared: &Arc<Shared>, scope: &Scope) {
    let due = Arc::new(Due::default());
    let (watched, seen, token) = (shared.clone(), due.clone(), scope.token().clone());
    scope.spawn("operator-watch", async move {
        let open = || watched.cluster.watch_secrets();
        let take = |event| {
            if let Seen::Event(event) = event {
                seen.secrets.lock().unwrap_or_else(PoisonError::into_inner).add(&event);
                seen.woken.notify_one();
            }
        };
        token.run_until_cancelled(follow("Secret", &watched.metrics, open, take)).await;
        Ok(())
    });
    let (shared, token) = (shared.clone(), scope.token().clone());
    scope.spawn("operator-secret-push", async move {
        token.run_until_cancelled(work(&shared, &due)).await;
        Ok(())
    });
}

async fn work(shared: &Shared, due: &Due) {
    loop {
        let woken = due.woken.notified();
        let names =
            std::mem::take(&mut *due.secrets.lock().unwrap_or_else(PoisonError::into_inner));
        if names == Names::Nothing {
            woken.await;
            continue;
        }
        push(shared, &shared.stores.components, &names).await;
        push(shared, &shared.stores.mcp_servers, &names).await;
    }
}

/// Sends an update for each object that was sent before and would be sent otherwise now.
async fn push<K: Served>(shared: &Shared, store: &Store<K>, names: &Names) {
    for entry in store.all() {
        let namespace = entry.object.meta().namespace.as_deref().unwrap_or_default();
        let hit = names.hit(namespace, entry.object.needed_secrets().into_iter());
        if !hit || !entry.was_sent() {
            continue;
        }
        let body = shared.deliver(&entry).await;
        if body.as_ref().is_err_and(crate::secrets::FillError::is_passing) {
            continue; // nothing is known about the Secret; streams and sidecars try again
        }
        if entry.sent_anew(body.as_deref().unwrap_or_default()) && body.is_ok() {
            tracing::info!(target: "dapr.operator.api", kind = K::KIND, namespace,
                name = entry.name(), "a Secret has changed, sidecars are told");
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
    fn only_objects_that_use_the_secret_are_looked_at() {
        let mut names = Names::default();
        names.add(&Event::Delete(secret("a")));
        assert_eq!(names, Names::Nothing);
        names.add(&Event::Apply(secret("a")));
        names.add(&Event::Apply(secret("a")));
        assert!(names.hit("n", ["b", "a"].into_iter()));
        assert!(!names.hit("m", ["a"].into_iter()), "of another namespace");
        assert!(!names.hit("n", ["b"].into_iter()));
    }

    #[test]
    fn after_a_gap_every_object_with_secrets_is_looked_at() {
        let mut names = Names::default();
        names.add(&Event::Init);
        names.add(&Event::InitApply(secret("a")));
        assert_eq!(names, Names::Nothing, "a list says nothing before it is complete");
        names.add(&Event::InitDone);
        names.add(&Event::Apply(secret("a")));
        assert_eq!(names, Names::All);
        assert!(names.hit("n", ["b"].into_iter()));
        assert!(!names.hit("n", std::iter::empty()));
    }
}
