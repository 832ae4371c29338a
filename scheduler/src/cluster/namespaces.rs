//! Deletes the jobs and reminders of a Namespace that is deleted. Source: Dapr 1.18, Kubernetes
//! mode.
//!
//! Every replica does so, without a leader: the deletion is idempotent. Only a Namespace that was
//! seen before, and that the API server reports as not found, loses its jobs; those
//! of sidecars outside the cluster stay.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PartialObjectMeta;
use kube::{Api, Client, ResourceExt as _};
use kubernetes::{FailureKind, ListChange, ListDiff, WatchEvent, WatchOptions, Watcher};
use runtime::{BoxError, ReadyGuard, chain};
use tokio_util::sync::CancellationToken;

use crate::store::{Op, Store, StoreError, Txn};

/// Between attempts to delete jobs, while the store or the API server does not answer.
const RETRY: Duration = Duration::from_secs(5);
/// Time limit of a read of a Namespace.
const CALL: Duration = Duration::from_secs(10);

/// Watches Namespaces until `stop`. `ready` once they were listed, or when they cannot be: jobs are
/// triggered without them.
pub(super) async fn run(
    client: Client,
    store: Arc<dyn Store>,
    ready: ReadyGuard,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    stop.run_until_cancelled(watch(client, store, ready)).await;
    Ok(())
}

async fn watch(client: Client, store: Arc<dyn Store>, ready: ReadyGuard) {
    let options = WatchOptions::new("Namespace");
    let watcher = Watcher::new(client.clone());
    let events = watcher.watch::<PartialObjectMeta<Namespace>, _>(options, Api::all);
    pin_mut!(events);
    let api: Api<Namespace> = Api::all(client);
    let (mut namespaces, mut denied) = (Namespaces::default(), false);
    loop {
        let retry = async {
            if namespaces.gone.is_empty() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(RETRY).await;
        };
        tokio::select! {
            event = events.next() => {
                let Some(event) = event else { return };
                if let WatchEvent::Failed(failure) = &event {
                    ready.set_ready();
                    let forbidden = matches!(failure.kind, FailureKind::Forbidden(_));
                    if forbidden && !std::mem::replace(&mut denied, true) {
                        tracing::warn!(target: LOG,
                            "The scheduler may not watch Namespaces: the jobs of deleted ones stay");
                    }
                }
                namespaces.observe(event.map(|namespace| namespace.name_any()));
                if namespaces.diff.is_synced() {
                    ready.set_ready();
                }
            }
            () = retry => {}
        }
        for namespace in namespaces.gone.clone() {
            match sweep(&api, &*store, &namespace).await {
                Ok(()) => drop(namespaces.gone.remove(&namespace)),
                Err(error) => {
                    let reason = chain(&error);
                    tracing::warn!(target: LOG, "The jobs of namespace {namespace}: {reason}");
                }
            }
        }
    }
}

const LOG: &str = "dapr.scheduler.controller";

/// Why the jobs of a Namespace stay for now.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error("the API server does not answer")]
    NoAnswer,
    #[error("look for the Namespace")]
    Find(#[source] kube::Error),
    #[error("delete them")]
    Delete(#[source] StoreError),
}

/// Deletes the jobs of a Namespace, if it does not exist.
async fn sweep(api: &Api<Namespace>, store: &dyn Store, namespace: &str) -> Result<(), SweepError> {
    let found = tokio::time::timeout(CALL, api.get_metadata_opt(namespace)).await;
    let found = found.map_err(|_| SweepError::NoAnswer)?.map_err(SweepError::Find)?;
    if found.is_some() {
        return Ok(());
    }
    let then = prefixes(namespace).map(|prefix| Op::DeleteJobs { prefix, filter: None }).into();
    let done = store.commit(Txn { then, ..Txn::default() }).await.map_err(SweepError::Delete)?;
    if done.deleted > 0 {
        tracing::info!(target: LOG,
            "Namespace {namespace} does not exist any more: deleted its jobs and reminders");
    }
    Ok(())
}

/// Prefixes of the composed names of its jobs. The delimiter ends the name of the Namespace, so
/// that `default` does not mean `default-foo`.
fn prefixes(namespace: &str) -> [Bytes; 2] {
    ["actorreminder", "app"].map(|kind| Bytes::from(format!("{kind}||{namespace}||")))
}

/// The Namespaces of the cluster.
#[derive(Debug, Default)]
struct Namespaces {
    known: BTreeSet<String>,
    diff: ListDiff<String>,
    /// Deleted, and their jobs may still be there.
    gone: BTreeSet<String>,
}

impl Namespaces {
    fn observe(&mut self, event: WatchEvent<String>) {
        let event = event.map(|name| (name, ()));
        match self.diff.apply(event, self.known.iter().cloned()) {
            ListChange::Unchanged => {}
            ListChange::Apply(name, ()) => {
                self.gone.remove(&name);
                self.known.insert(name);
            }
            ListChange::Remove(names) => {
                let seen = names.into_iter().filter(|name| self.known.remove(name));
                self.gone.extend(seen.collect::<Vec<_>>());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observe(events: &[WatchEvent<&str>]) -> Vec<String> {
        let mut namespaces = Namespaces::default();
        for event in events {
            namespaces.observe(event.as_ref().map(|name| (*name).to_owned()));
        }
        namespaces.gone.into_iter().collect()
    }

    #[test]
    fn a_namespace_that_was_seen_and_is_gone_loses_its_jobs() {
        use WatchEvent::{Apply, Delete, Init, InitApply, InitDone};
        let list = [Init, InitApply("shop"), InitApply("bank"), InitDone];
        let after = |more: &[WatchEvent<&str>]| observe(&[&list[..], more].concat());
        assert_eq!(after(&[]), Vec::<String>::new());
        assert_eq!(after(&[Delete("shop")]), ["shop"]);
        assert_eq!(after(&[Init, InitApply("shop"), InitDone]), ["bank"]);
        assert_eq!(after(&[Delete("shop"), Apply("shop")]), Vec::<String>::new());
        assert_eq!(after(&[Delete("elsewhere")]), Vec::<String>::new());
    }

    #[test]
    fn the_delimiter_ends_the_name_of_a_namespace() {
        assert_eq!(prefixes("default"), ["actorreminder||default||", "app||default||"]);
    }
}
