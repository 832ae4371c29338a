//! The data on disk before an engine is chosen.

use std::path::Path;

use runtime::Scope;

use super::RunError;
use super::choice::{Found, MAX_COUNTED, OwnData};
use super::open::take;
use crate::config::{ChildEtcd, Config, StoreEngine};
use crate::service::child::data::{self, EtcdData};
use crate::store::backend::{Backend as _, BackendError, Page, View};
use crate::store::disk::Disk;
use crate::store::keys;
use crate::store::range::KeyRange;

/// Keys of one page.
const PAGE: usize = 1_000;

/// Reads the directories of both engines; that of the embedded engine only where the other may be
/// used.
///
/// # Errors
/// The process stops while it waits.
pub(super) async fn look(
    config: &Config,
    engine: StoreEngine,
    child: &ChildEtcd,
    scope: &Scope,
) -> Result<Found, RunError> {
    let (etcd, marked) = (etcd_data(config).await?, data::is_marked(&child.marker));
    let embedded = etcd == EtcdData::Absent && child.peers.len() == 1;
    let own = if embedded && engine != StoreEngine::Etcd {
        OwnData::Jobs(0)
    } else {
        own_data(config, scope).await?
    };
    let (etcd_dir, own_dir) = (config.reference_dir.clone(), config.store_dir.clone());
    Ok(Found { etcd_dir, etcd, marked, own_dir, own })
}

/// The data of an etcd in the directory of Dapr's own scheduler, if there are any.
pub(super) async fn etcd_data(config: &Config) -> Result<EtcdData, RunError> {
    let directory = config.reference_dir.clone();
    // Fails only when the runtime stops.
    let found = tokio::task::spawn_blocking(move || data::find(&directory)).await;
    found.map_err(|_| RunError::Stopped)
}

/// The jobs of the embedded engine; waits while another process holds its directory.
///
/// # Errors
/// The process stops while it waits.
pub(super) async fn own_data(config: &Config, scope: &Scope) -> Result<OwnData, RunError> {
    if !config.store_dir.exists() {
        return Ok(OwnData::Jobs(0));
    }
    let held = match take(config, scope).await? {
        Ok(held) => held,
        Err(error) => return Ok(OwnData::Unreadable(error.to_string())),
    };
    let data = held.data();
    // Fails only when the runtime stops.
    let count = tokio::task::spawn_blocking(move || count(&data)).await;
    Ok(match count.map_err(|_| RunError::Stopped)? {
        Ok(count) => OwnData::Jobs(count),
        Err(error) => OwnData::Unreadable(error.to_string()),
    })
}

/// The number of jobs in the files of the embedded engine, up to [`MAX_COUNTED`].
fn count(data: &Path) -> Result<usize, BackendError> {
    if !data.exists() {
        return Ok(0);
    }
    count_in(&Disk::open(data)?.view()?)
}

fn count_in(view: &impl View) -> Result<usize, BackendError> {
    let range = KeyRange::prefix(keys::JOBS.into());
    let (mut count, mut after) = (0, None);
    while count < MAX_COUNTED {
        let limit = PAGE.min(MAX_COUNTED - count);
        let page = view.page(&Page { range: &range, after: after.as_ref(), limit })?;
        let Some((last, _)) = page.last() else { break };
        count += page.len();
        after = Some(last.clone());
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// A store with so many jobs.
    struct Stored(usize);

    impl View for Stored {
        fn page(&self, page: &Page<'_>) -> Result<Vec<(Bytes, Bytes)>, BackendError> {
            let number = |after: &Bytes| str::from_utf8(after).unwrap().parse::<usize>().unwrap();
            let from = page.after.map_or(0, |after| number(after) + 1);
            let numbers = (from..self.0).take(page.limit);
            Ok(numbers.map(|number| (number.to_string().into(), Bytes::new())).collect())
        }

        fn meta(&self, _: &str) -> Result<Option<Bytes>, BackendError> {
            Ok(None)
        }
    }

    #[test]
    fn so_many_jobs_are_counted_and_no_more() {
        for (stored, counted) in
            [(0, 0), (MAX_COUNTED - 1, MAX_COUNTED - 1), (MAX_COUNTED + 1, MAX_COUNTED)]
        {
            assert_eq!(count_in(&Stored(stored)).unwrap(), counted);
        }
    }
}
