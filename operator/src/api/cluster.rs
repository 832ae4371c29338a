//! The API's own requests to the API server.
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams},
    core::ObjectMeta,
};
use resources::{labels::LABEL_APP_ID, names::SIDECAR_CONTAINER};

/// The pods of an app that have a sidecar, and the sidecar's image. A known address selects the pods
/// with it; when there are none, as behind address translation, all pods of the app count.
///
/// # Errors
/// The error of the API server.
pub(crate) async fn sidecars(
    client: &Client,
    namespace: &str,
    app_id: &str,
    address: Option<IpAddr>,
) -> kube::Result<Vec<(ObjectMeta, String)>> {
    let resource = ApiResource::erase::<Pod>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    if let Some(address) = address {
        let of_address = format!("status.podIP={}", address.to_canonical());
        let pods = api.list(&ListParams::default().fields(&of_address)).await?;
        let sidecars: Vec<_> = pods.items.into_iter().filter_map(sidecar).collect();
        if !sidecars.is_empty() {
            return Ok(sidecars);
        }
    }
    let of_app = format!("{LABEL_APP_ID}={app_id}");
    let pods = api.list(&ListParams::default().labels(&of_app)).await?;
    Ok(pods.items.into_iter().filter_map(sidecar).collect())
}

/// The image of a pod's sidecar, which is a container or a native sidecar.
fn sidecar(pod: DynamicObject) -> Option<(ObjectMeta, String)> {
    let containers = ["/spec/containers", "/spec/initContainers"]
        .into_iter()
        .filter_map(|path| pod.data.pointer(path)?.as_array())
        .flatten();
    let is_sidecar = |container: &&serde_json::Value| {
        container.get("name").is_some_and(|name| name == SIDECAR_CONTAINER)
    };
    let mut sidecars = containers.filter(is_sidecar);
    let image = sidecars.next()?.get("image")?.as_str()?.to_owned();
    Some((pod.metadata, image))
}
