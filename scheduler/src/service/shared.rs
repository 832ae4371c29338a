//! Jobs that several members share in an etcd, which is external or a child of each of them.

use std::sync::Arc;

use runtime::{Scope, clock};
use tokio::sync::{Notify, mpsc, watch};

use super::{
    Bound, Context, RunError, announce, api, clean_up, external, left_behind, own_address, refuse,
    serve_api, serve_summary, watch_state,
};
use crate::config::{ChildEtcd, Config, ExternalEtcd};
use crate::membership::fence::Fence;
use crate::membership::member::Member;
use crate::membership::predecessor::Predecessor;
use crate::metrics::{
    Metrics, StoreKind, register_batch_size, register_rebalances, register_store,
};
use crate::service::child::{self, program};
use crate::store::etcd::{Endpoints, Etcd};
use crate::store::{Store, StoreEvent};
use crate::streams::dispatcher::{Dispatcher, Parts};

/// Serves jobs that are in an external etcd.
pub(super) async fn start_external(
    context: Context<'_>,
    etcd: &ExternalEtcd,
) -> Result<Bound, RunError> {
    let batches = register_batch_size(context.scope.metrics()).map_err(RunError::Metrics)?;
    let (store, feed) = external::connect(etcd, batches, context.scope)?;
    let refusal = left_behind::look(context.config, etcd, &store, context.scope).await?;
    match refusal {
        Some(sentence) => refuse(&context, sentence).await,
        None => start(context, StoreKind::External, store, feed).await,
    }
}

/// Runs an etcd and serves the jobs in it.
pub(super) async fn start_child(
    context: Context<'_>,
    child: &ChildEtcd,
) -> Result<Bound, RunError> {
    let program = match program::find().await {
        Ok(program) => program,
        Err(error) => {
            let directory = context.config.reference_dir.display();
            let sentence = format!(
                "jobs are stored by an etcd in {directory}: {error}. No job is written, fired or \
                 deleted. Put an etcd 3.5 program beside the scheduler. Or export the jobs with \
                 the scheduler that wrote them and import them into one with an empty \
                 --etcd-data-dir (daprctl jobs export, daprctl jobs import)"
            );
            return refuse(&context, sentence).await;
        }
    };
    let Context { config, svid, scope, .. } = context;
    let obstacle = Arc::default();
    let url = match child::start(config, child, program, svid, Arc::clone(&obstacle), scope).await {
        Ok(url) => url,
        Err(error) => return refuse(&context, runtime::chain(&error)).await,
    };
    let endpoints = Endpoints::parse(&[url], None).map_err(external::ExternalError::endpoint)?;
    let batches = register_batch_size(scope.metrics()).map_err(RunError::Metrics)?;
    let (store, feed) = Etcd::start(endpoints, None, obstacle, batches, scope);
    let (stop, own) = (scope.token().clone(), store.clone());
    let defragmentation = child::defragmentation(child);
    scope.spawn("scheduler-etcd-defragmentation", async move {
        defragmentation.run(own, stop).await;
        Ok(())
    });
    start(context, StoreKind::Etcd, store, feed).await
}

/// Serves the jobs in this store as one of its members.
async fn start(
    context: Context<'_>,
    kind: StoreKind,
    store: Etcd,
    feed: mpsc::Receiver<StoreEvent>,
) -> Result<Bound, RunError> {
    let Context { config, svid, cluster, targets, scope } = context;
    register_store(scope.metrics(), kind).map_err(RunError::Metrics)?;
    let metrics = Metrics::register(scope.metrics()).map_err(RunError::Metrics)?;
    let listener = runtime::listen(&config.listen_address, config.port).await?;
    let bound = listener.local_addr().map_err(RunError::Address)?;
    let fence = Arc::new(Fence::closed(clock::monotonic()));
    let parts = Parts {
        store: Arc::new(store.clone()),
        feed,
        fence: fence.clone(),
        leadership: Arc::new(Notify::new()),
        metrics: metrics.clone(),
    };
    let dispatcher = Dispatcher::start_idle(parts, scope);
    let hosts = Arc::new(watch::Sender::new(Vec::new()));
    let member = Member {
        store: store.clone(),
        id: config.id.clone(),
        address: own_address(config, bound.port()),
        fence: fence.clone(),
        triggers: Arc::new(dispatcher.clone()),
        hosts: hosts.clone(),
        predecessor: predecessor(config),
        rebalances: register_rebalances(scope.metrics()).map_err(RunError::Metrics)?,
    };
    take_part(member, scope);
    let state = watch_state(store.state(), targets.store, metrics.clone(), None, scope);
    scope.spawn("scheduler-etcd", state);
    let store: Arc<dyn Store> = Arc::new(store);
    clean_up(cluster, store.clone(), scope);
    serve_summary(config, &dispatcher, scope);
    announce(config);
    let api = api(store, dispatcher, fence, hosts, metrics, svid, scope);
    targets.server.set_ready();
    serve_api(listener, api.router(), svid, scope)?;
    Ok(Bound { api: bound, client: None })
}

/// What an earlier process of this member has left beside the data; `None` without a place for it.
fn predecessor(config: &Config) -> Option<Predecessor> {
    let directory = config.reference_dir.parent()?;
    let taken = Predecessor::take(directory);
    taken.unwrap_or_else(|error| {
        tracing::info!(target: "dapr.scheduler",
                "After a crash this scheduler waits until its lease expires: {}: {error}",
                directory.display());
        None
    })
}

fn take_part(member: Member, scope: &Scope) {
    let token = scope.token().clone();
    scope.spawn("scheduler-membership", async move {
        member.run(token).await;
        Ok(())
    });
}
