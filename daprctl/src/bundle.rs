//! `daprctl support-bundle`: diagnostics for maintainers in one file, without secrets. Start
//! reading at [`run`]; `contents` selects the members of objects.

mod archive;
mod contents;
mod logs;

use std::io;
use std::path::PathBuf;

use resources::GROUP;
use runtime::clock;
use serde_json::Value;

use self::archive::Archive;
use crate::cluster::{Cluster, ClusterFlags};
use crate::facts::answers::Ask;
use crate::facts::{Fact, Mode};
use crate::sidecars;

/// Objects in one file of the bundle; the list says how many there are.
const MAX_OBJECTS: usize = 1_000;

/// The command line of `daprctl support-bundle`.
#[derive(Debug, clap::Args)]
pub struct BundleFlags {
    /// The cluster.
    #[command(flatten)]
    cluster: ClusterFlags,
    /// Namespace of the control plane
    #[arg(short, long, value_name = "NAME", default_value = "dapr-system")]
    namespace: String,
    /// The file, a tar.gz. It must not exist. Default: dapr-support-TIME.tar.gz
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Leave out the logs of the control plane
    #[arg(long)]
    no_logs: bool,
    /// Print what would be in the bundle, and write none
    #[arg(long)]
    list: bool,
}

/// Why the bundle cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// There are no usable credentials for the API server.
    #[error(transparent)]
    Client(#[from] kubernetes::ClientError),
    /// The report cannot be serialised.
    #[error("print the report as JSON")]
    Json(#[source] serde_json::Error),
    /// The file exists, or cannot be written.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

/// Writes the bundle and returns the list of what is in it.
pub(crate) async fn run(flags: BundleFlags) -> Result<String, BundleError> {
    let cluster = flags.cluster.connect(flags.namespace.clone()).await?;
    let mut archive = Archive::default();
    let (report, found) = tokio::join!(
        cluster.report(Mode::Installed(Ask::Sidecars)),
        Box::pin(cluster.sidecars(None, Ask::Sidecars)),
    );
    let report = serde_json::to_value(report).map_err(BundleError::Json)?;
    json(&mut archive, "check.json", "what `daprctl check` found", Ok(report));
    let about = "what `daprctl sidecars` lists: versions, Components loaded and not loaded";
    let found = found.map(|facts| sidecars::to_value(&facts, &sidecars::rows(&facts)));
    json(&mut archive, "sidecars.json", about, found);
    control_plane(&cluster, &flags, &mut archive).await;
    for (plural, version) in dashboard::kinds() {
        let name = format!("dapr.io/{plural}.json");
        let path = format!("/apis/{GROUP}/{version}/{plural}");
        let about =
            format!("{plural}: names, references and public settings; other values are (hidden)");
        let listed = cluster.list(&format!("list {plural}"), &path).await;
        let listed = listed
            .map(|objects| objects.iter().filter_map(|o| dashboard::redacted(plural, o)).collect());
        objects(&mut archive, &name, &about, listed);
    }
    let now = clock::now();
    let contents = archive.contents(now);
    if flags.list {
        return Ok(contents);
    }
    let default =
        || PathBuf::from(format!("dapr-support-{}.tar.gz", now.strftime("%Y%m%dT%H%M%SZ")));
    let path = flags.file.unwrap_or_else(default);
    archive
        .write(&path, now)
        .map_err(|source| BundleError::Write { path: path.clone(), source })?;
    Ok(format!("{contents}\nwritten to {}\n", path.display()))
}

async fn control_plane(cluster: &Cluster, flags: &BundleFlags, archive: &mut Archive) {
    let namespace = &flags.namespace;
    let listing = |group: &str, plural: &str| {
        let (doing, path) = (
            format!("list {plural} in {namespace}"),
            format!("{group}/namespaces/{namespace}/{plural}"),
        );
        async move { cluster.list(&doing, &path).await }
    };
    let (pods, deployments, sets, events) = tokio::join!(
        listing("/api/v1", "pods"),
        listing("/apis/apps/v1", "deployments"),
        listing("/apis/apps/v1", "statefulsets"),
        listing("/api/v1", "events"),
    );
    let reduced = |listed: &Fact<Vec<Value>>, reduce: fn(&Value) -> Value| {
        listed.clone().map(|objects| objects.iter().map(reduce).collect())
    };
    let about = "pods of the control plane: phase, conditions, images, restarts";
    objects(archive, "control-plane/pods.json", about, reduced(&pods, contents::pod));
    let about = "Deployments of the control plane: images, replicas, names of flags";
    objects(
        archive,
        "control-plane/deployments.json",
        about,
        reduced(&deployments, contents::workload),
    );
    let about = "StatefulSets of the control plane: images, replicas, names of flags";
    objects(archive, "control-plane/statefulsets.json", about, reduced(&sets, contents::workload));
    let about = "Events of the control plane's namespace";
    objects(archive, "control-plane/events.json", about, reduced(&events, contents::event));
    if flags.no_logs {
        return;
    }
    logs::add(cluster, &pods.unwrap_or_default(), archive).await;
}

/// Adds a list of objects, or the reason why there is none.
fn objects(archive: &mut Archive, name: &str, about: &str, listed: Fact<Vec<Value>>) {
    json(archive, name, about, listed.map(|objects| contents::cut(objects, MAX_OBJECTS)));
}

/// Adds a value without strings that may hold a secret, or the reason why there is none.
fn json(archive: &mut Archive, name: &str, about: &str, value: Fact<Value>) {
    match value {
        Ok(value) => {
            let text = format!("{:#}\n", contents::without_secrets(value));
            archive.text(name, about, text);
        }
        Err(error) => archive.missing(name, about, &error),
    }
}

impl Cluster {
    async fn list(&self, doing: &str, path: &str) -> Fact<Vec<Value>> {
        self.reader().list(doing, path).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::facts::ReadError;

    #[test]
    fn what_cannot_be_read_is_in_the_list_with_its_reason() {
        let mut archive = Archive::default();
        objects(&mut archive, "a.json", "things", Err(ReadError::Forbidden("list things".into())));
        objects(&mut archive, "b.json", "others", Ok(vec![json!({"name": "x"})]));
        let list = archive.contents("2026-01-02T03:04:05Z".parse().unwrap());
        insta::assert_snapshot!(list);
    }
}
