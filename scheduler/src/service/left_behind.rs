//! Jobs on the disk of a scheduler that is to use an external etcd: a change of the store must not
//! leave them behind silently.

use runtime::Scope;

use super::RunError;
use super::choice::{OwnData, counted};
use super::found::{etcd_data, own_data};
use crate::config::{Config, ExternalEtcd};
use crate::service::child::data::EtcdData;
use crate::store::etcd::Etcd;

/// The reason to refuse to serve, if there are jobs on disk and none in the etcd. Waits for etcd
/// only if there are jobs on disk.
///
/// # Errors
/// The process stops while it waits.
pub(super) async fn look(
    config: &Config,
    external: &ExternalEtcd,
    store: &Etcd,
    scope: &Scope,
) -> Result<Option<String>, RunError> {
    let Some(found) = find(config, scope).await? else { return Ok(None) };
    let used = scope.token().run_until_cancelled(store.was_used()).await;
    if used.ok_or(RunError::Stopped)? {
        tracing::warn!(target: "dapr.scheduler",
            "{found}, which are not fired: the external etcd has jobs of its own. If they were moved there, \
             delete the directory");
        return Ok(None);
    }
    let endpoints = external.endpoints.join(", ");
    Ok(Some(format!(
        "{found}, and the external etcd at {endpoints} has none. No job is written or fired. \
         To keep the jobs, go back to the store on disk: --etcd-embed=true, in the chart \
         dapr_scheduler.etcdEmbed=true. To move them, export them there (dapr scheduler export), \
         import them into the etcd, and delete the directory. To give them up, delete it"
    )))
}

/// A text about the jobs on disk; `None` without jobs.
async fn find(config: &Config, scope: &Scope) -> Result<Option<String>, RunError> {
    if etcd_data(config).await? != EtcdData::Absent {
        return Ok(Some(format!("{} holds jobs of an etcd", config.reference_dir.display())));
    }
    let directory = config.store_dir.display();
    Ok(match own_data(config, scope).await? {
        OwnData::Jobs(0) => None,
        OwnData::Jobs(jobs) => Some(format!("{directory} holds {} jobs", counted(jobs))),
        OwnData::Unreadable(why) => {
            Some(format!("{directory} holds a job store that cannot be read ({why})"))
        }
    })
}
