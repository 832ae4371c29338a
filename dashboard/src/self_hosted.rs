//! Without a cluster: looks at the processes of this machine and at the files that their sidecars
//! read, and publishes them as a cluster's objects.
//!
//! [`processes`] reads `/proc`, [`files`] the folders of resources.

mod files;
mod processes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use resources::annotations::ANNOTATION_CONFIG;
use runtime::ReadyGuard;

use crate::cluster::Cluster;
use crate::model::kind::Kind;
use crate::model::pod::Pod;
use crate::model::process::Sidecar;
use crate::model::resource::Resource;
use crate::model::{Key, Watched};
use files::Objects;

/// Interval between two looks.
const INTERVAL: Duration = Duration::from_secs(2);

/// What is there at one moment.
#[derive(Debug, Default, PartialEq)]
struct Contents {
    pods: Watched<Pod>,
    resources: BTreeMap<Kind, Watched<Resource>>,
}

/// Looks every two seconds and publishes what changed. `folder` is that of the installation,
/// `~/.dapr`. Never ends; dropping it is safe.
pub(crate) async fn watch(cluster: Cluster, folder: PathBuf, ready: ReadyGuard) {
    let mut interval = tokio::time::interval(INTERVAL);
    loop {
        interval.tick().await;
        let folder = folder.clone();
        let found = tokio::task::spawn_blocking(move || look(processes::sidecars(), &folder)).await;
        match found {
            Ok(found) => cluster.replace(found.pods, found.resources),
            Err(error) => tracing::warn!(%error, "the processes of this machine were not read"),
        }
        ready.set_ready();
    }
}

/// The sidecars, and the objects of their folders and of the installation.
fn look(mut sidecars: Vec<Sidecar>, folder: &Path) -> Contents {
    let mut folders = BTreeSet::from([folder.join("components")]);
    let mut configurations = BTreeSet::from([folder.join("config.yaml")]);
    for sidecar in &sidecars {
        folders.extend(sidecar.resources.iter().cloned());
        configurations.extend(sidecar.configurations.iter().cloned());
    }
    let mut objects = Objects::default();
    for folder in &folders {
        objects.read_folder(folder);
    }
    for file in &configurations {
        objects.read_configuration(file);
    }
    for sidecar in &mut sidecars {
        let name = sidecar.configurations.last().and_then(|file| objects.configuration(file));
        if let Some(name) = name {
            sidecar.pod.annotations.insert(ANNOTATION_CONFIG.to_owned(), name.to_owned());
        }
    }
    let resources = objects.into_kinds(&sidecars);
    let pods = sidecars.into_iter().map(|sidecar| (key(&sidecar.pod), sidecar.pod));
    Contents { pods: Watched::of(pods, None), resources }
}

fn key(pod: &Pod) -> Key {
    (pod.namespace.clone(), pod.name.clone())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::model::process::{NAMESPACE, Process};

    const COMPONENT: &str = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: NAME}\nspec: {type: state.redis, version: v1, metadata: [{name: redisPassword, value: pl4nted}]}\n";

    fn sidecar(folder: &Path) -> Sidecar {
        let command = "daprd\0--app-id\0cart\0--resources-path\0own\0--config\0own/config.yaml";
        let process =
            Process { id: 1, command: command.as_bytes(), environment: b"", folder, started: None };
        Sidecar::read(&process).unwrap()
    }

    fn names(found: &Contents, kind: Kind) -> Vec<&str> {
        found.resources[&kind].iter().map(|object| object.name.as_str()).collect()
    }

    #[test]
    fn objects_of_the_installation_and_of_the_sidecars_are_found() {
        let folder = tempfile::tempdir().unwrap();
        for part in ["components", "own"] {
            fs::create_dir(folder.path().join(part)).unwrap();
            let text = COMPONENT.replace("NAME", part);
            fs::write(folder.path().join(part).join("a.yaml"), text).unwrap();
        }
        let configuration = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: tracing}\nspec: {tracing: {samplingRate: '1'}}\n";
        fs::write(folder.path().join("own/config.yaml"), configuration).unwrap();
        let found = look(vec![sidecar(folder.path())], folder.path());
        assert_eq!(names(&found, Kind::Component), ["components", "own"]);
        assert_eq!(names(&found, Kind::Configuration), ["tracing"]);
        let readers = |name: &str| {
            let object = found.resources[&Kind::Component].find(NAMESPACE, name);
            object.unwrap().applies_to("cart")
        };
        assert!(readers("own") && !readers("components"));
        let pod = found.pods.find(NAMESPACE, "1").unwrap();
        assert_eq!((pod.app_id(), pod.configuration()), ("cart", Some("tracing")));
        assert!(!format!("{found:?}").contains("pl4nted"), "{found:?}");
    }

    #[test]
    fn a_machine_without_an_installation_has_nothing_and_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        let found = look(Vec::new(), folder.path());
        assert!(found.pods.is_synced);
        assert!(found.resources.values().all(|kind| kind.failure.is_none()), "{found:?}");
    }
}
