//! Asks the other members about the own one before each start of etcd.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::future::join_all;
use transport::fetch::Fetcher;
use transport::file_client::{FileClient, FileClientError};

use super::data;
use super::join::{self, ClusterState, DataLost, Listed};
use crate::config::{ChildEtcd, Peer};

/// Time limit of an answer: members that start together do not answer each other.
const ANSWER: Duration = Duration::from_secs(3);
/// Limit of a list of members in bytes; one has a few hundred.
const MAX_BYTES: usize = 1 << 20;

/// The start of the own member.
pub(super) struct Rejoin {
    directory: PathBuf,
    own: Peer,
    others: Vec<String>,
    tls: Option<FileClient>,
    /// Why etcd does not run, for callers of the store.
    obstacle: Arc<ArcSwapOption<String>>,
}

impl Rejoin {
    pub(super) fn new(
        directory: PathBuf,
        child: &ChildEtcd,
        tls: Option<FileClient>,
        obstacle: Arc<ArcSwapOption<String>>,
    ) -> Self {
        let others = child.peers.iter().filter(|peer| peer.id != child.own.id);
        let others = others.map(|peer| peer.url.clone()).collect();
        Self { directory, own: child.own.clone(), others, tls, obstacle }
    }

    /// How etcd starts. While the others do not answer, it is taken for the first start of all.
    ///
    /// # Errors
    /// [`DataLost`]
    pub(super) async fn cluster_state(&self) -> Result<ClusterState, DataLost> {
        let state = self.judge().await;
        let why = state.as_ref().err().map(|lost| Arc::new(lost.to_string()));
        self.obstacle.store(why);
        state
    }

    async fn judge(&self) -> Result<ClusterState, DataLost> {
        // With files, etcd knows its cluster.
        if self.others.is_empty() || data::has_log(&self.directory) {
            return Ok(ClusterState::New);
        }
        match self.ask().await {
            Ok(Some(listed)) => join::judge(&listed, &self.own, &self.directory),
            Ok(None) => Ok(ClusterState::New),
            Err(error) => {
                tracing::warn!(target: super::LOG, "{}", runtime::chain(&error));
                Ok(ClusterState::New)
            }
        }
    }

    /// The members that another one lists; `None` when none answers.
    async fn ask(&self) -> Result<Option<Vec<Listed>>, FileClientError> {
        let fetcher = match &self.tls {
            Some(files) => files.fetcher(ANSWER, MAX_BYTES)?,
            None => Fetcher::plain(ANSWER, MAX_BYTES),
        };
        let ask = |url: &String| {
            let (fetcher, url) = (fetcher.clone(), format!("{url}/members"));
            async move { fetcher.get(&url).await.ok().and_then(|body| join::parse(&body)) }
        };
        Ok(join_all(self.others.iter().map(ask)).await.into_iter().flatten().next())
    }
}
