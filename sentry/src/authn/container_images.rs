//! The container images of a pod, as the JSON that its certificate carries.
//! Source: Dapr 1.19, sentry. The size limit is ours.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Limit of the JSON. TLS peers accept certificate messages of 64 KiB and less, and a rotation adds
/// certificates to the chain.
const MAX_JSON_BYTES: usize = 8 * 1024;

/// Name of the sidecar's container.
const DAPRD: &str = "daprd";

/// A container of a pod's specification.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Container {
    name: String,
    image: String,
    restart_policy: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ContainerStatus {
    name: String,
    #[serde(rename = "imageID")]
    image_id: String,
}

/// The containers of a pod with their statuses.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PodContainers<'a> {
    /// `spec.initContainers`.
    pub(crate) init: &'a [Container],
    /// `spec.containers`.
    pub(crate) regular: &'a [Container],
    /// `status.initContainerStatuses`.
    pub(crate) init_statuses: &'a [ContainerStatus],
    /// `status.containerStatuses`.
    pub(crate) statuses: &'a [ContainerStatus],
}

/// The JSON of the certificate extension. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerImages {
    /// An array of objects, compact.
    pub(crate) json: Arc<str>,
    /// Whether digests or containers were left out because of the size limit.
    pub(crate) truncated: bool,
}

/// One entry; the order of the members is part of the format.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    role: &'static str,
    container_name: &'a str,
    image: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'a str>,
}

impl<'a> Entry<'a> {
    fn new(container: &'a Container, statuses: &'a [ContainerStatus]) -> Self {
        let status = statuses.iter().find(|status| status.name == container.name);
        Self {
            role: if container.name == DAPRD { "daprd" } else { "app" },
            container_name: &container.name,
            image: &container.image,
            digest: status.and_then(|status| digest(&status.image_id)),
        }
    }

    fn is_daprd(&self) -> bool {
        self.container_name == DAPRD
    }

    fn json(&self) -> String {
        // Strings always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The digest in an `imageID`: the text after the last `@`, or a bare `sha256:…`.
fn digest(image_id: &str) -> Option<&str> {
    let digest = match image_id.rsplit_once('@') {
        Some((_, digest)) => digest,
        None if image_id.starts_with("sha256:") => image_id,
        None => "",
    };
    (!digest.is_empty()).then_some(digest)
}

impl ContainerImages {
    /// Collects the images: native sidecars first, then the regular containers. `None` if there are
    /// none.
    pub(crate) fn new(pod: PodContainers<'_>) -> Option<Self> {
        let native = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
        let init = pod.init.iter().filter(native);
        let mut entries: Vec<Entry<'_>> = init
            .map(|container| Entry::new(container, pod.init_statuses))
            .chain(pod.regular.iter().map(|container| Entry::new(container, pod.statuses)))
            .collect();
        if entries.is_empty() {
            return None;
        }
        let mut parts: Vec<String> = entries.iter().map(Entry::json).collect();
        let truncated = array_len(&parts) > MAX_JSON_BYTES;
        if truncated {
            for entry in &mut entries {
                entry.digest = None;
            }
            let whole: Vec<(bool, String)> =
                entries.iter().map(|entry| (entry.is_daprd(), entry.json())).collect();
            parts = drop_trailing_apps(whole);
        }
        Some(Self { json: format!("[{}]", parts.join(",")).into(), truncated })
    }
}

/// Drops app entries from the end until the array fits; the entry of daprd stays.
fn drop_trailing_apps(entries: Vec<(bool, String)>) -> Vec<String> {
    let mut len = 2 + entries.iter().map(|(_, json)| json.len() + 1).sum::<usize>();
    let mut kept = Vec::with_capacity(entries.len());
    for (is_daprd, json) in entries.into_iter().rev() {
        if len > MAX_JSON_BYTES && !is_daprd {
            len -= json.len() + 1;
        } else {
            kept.push(json);
        }
    }
    kept.reverse();
    kept
}

/// Length of the JSON array, brackets and commas included.
fn array_len(parts: &[String]) -> usize {
    2 + parts.iter().map(|part| part.len() + 1).sum::<usize>().saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn container(name: &str, image: &str, restart_policy: Option<&str>) -> Container {
        Container {
            name: name.to_owned(),
            image: image.to_owned(),
            restart_policy: restart_policy.map(str::to_owned),
        }
    }

    fn status(name: &str, image_id: &str) -> ContainerStatus {
        ContainerStatus { name: name.to_owned(), image_id: image_id.to_owned() }
    }

    #[test]
    fn writes_the_json_of_the_example() {
        let regular = [
            container("daprd", "registry.example/dapr/daprd:1.19.0", None),
            container("myapp", "registry.example/myapp:v2", None),
        ];
        let statuses = [status("daprd", "registry.example/dapr/daprd@sha256:aaa111")];
        let pod =
            PodContainers { regular: &regular, statuses: &statuses, ..PodContainers::default() };
        let images = ContainerImages::new(pod).unwrap();
        assert_eq!(
            &*images.json,
            r#"[{"role":"daprd","containerName":"daprd","image":"registry.example/dapr/daprd:1.19.0","digest":"sha256:aaa111"},{"role":"app","containerName":"myapp","image":"registry.example/myapp:v2"}]"#
        );
        assert_eq!((images.json.len(), images.truncated), (187, false));
    }

    #[test]
    fn lists_native_sidecars_first_and_no_other_init_container() {
        let init = [
            container("setup", "a", None),
            container("daprd", "b", Some("Always")),
            container("once", "c", Some("OnFailure")),
        ];
        let regular = [container("app", "d", None)];
        let init_statuses = [status("daprd", "sha256:1"), status("daprd", "sha256:2")];
        // A status of the same name in the other list does not count.
        let statuses = [status("daprd", "sha256:3")];
        let pod = PodContainers {
            init: &init,
            regular: &regular,
            init_statuses: &init_statuses,
            statuses: &statuses,
        };
        assert_eq!(
            &*ContainerImages::new(pod).unwrap().json,
            r#"[{"role":"daprd","containerName":"daprd","image":"b","digest":"sha256:1"},{"role":"app","containerName":"app","image":"d"}]"#
        );
        let none = PodContainers { regular: &[], init: &init[..1], ..pod };
        assert_eq!(ContainerImages::new(none), None);
    }

    #[rstest]
    #[case::repository("docker.io/a@sha256:x", Some("sha256:x"))]
    #[case::last_at("a@b@sha256:x", Some("sha256:x"))]
    #[case::bare("sha256:x", Some("sha256:x"))]
    #[case::empty_digest("repo@", None)]
    #[case::tag("repo:v1", None)]
    #[case::empty("", None)]
    fn reads_digests(#[case] image_id: &str, #[case] want: Option<&str>) {
        assert_eq!(digest(image_id), want);
    }

    /// An app container whose entry has `len` bytes.
    fn padded(len: usize) -> Container {
        let empty = Entry::new(&container("a", "", None), &[]).json().len();
        container("a", &"x".repeat(len - empty), None)
    }

    #[rstest]
    #[case::at_the_limit(MAX_JSON_BYTES - 2, 1, false)]
    #[case::above_the_limit(MAX_JSON_BYTES - 1, 0, true)]
    fn limits_the_size(#[case] len: usize, #[case] entries: usize, #[case] truncated: bool) {
        let regular = [padded(len)];
        let pod = PodContainers { regular: &regular, ..PodContainers::default() };
        let images = ContainerImages::new(pod).unwrap();
        let parsed: Vec<serde_json::Value> = serde_json::from_str(&images.json).unwrap();
        assert_eq!((parsed.len(), images.truncated), (entries, truncated));
    }

    #[test]
    fn drops_digests_before_containers_and_never_daprd() {
        let regular: Vec<_> = (0..150)
            .map(|n| container(&format!("app-{n}"), "image", None))
            .chain([container("daprd", "image", None)])
            .collect();
        let statuses: Vec<_> =
            regular.iter().map(|c| status(&c.name, &format!("a@sha256:{}", c.name))).collect();
        let pod =
            PodContainers { regular: &regular, statuses: &statuses, ..PodContainers::default() };
        let images = ContainerImages::new(pod).unwrap();
        assert!(images.truncated && images.json.len() <= MAX_JSON_BYTES);
        assert!(!images.json.contains("digest"));
        let parsed: Vec<serde_json::Value> = serde_json::from_str(&images.json).unwrap();
        assert_eq!(parsed.last().unwrap()["role"], "daprd");
        assert_eq!(parsed[0]["containerName"], "app-0");
    }

    proptest! {
        #[test]
        fn the_size_is_bounded(lengths in prop::collection::vec(0_usize..3000, 1..40)) {
            let regular: Vec<_> = lengths
                .iter()
                .enumerate()
                .map(|(n, len)| container(&format!("c{n}"), &"x".repeat(*len), None))
                .collect();
            let pod = PodContainers { regular: &regular, ..PodContainers::default() };
            let images = ContainerImages::new(pod).unwrap();
            prop_assert!(images.json.len() <= MAX_JSON_BYTES);
            prop_assert!(serde_json::from_str::<serde_json::Value>(&images.json).is_ok());
        }
    }
}
