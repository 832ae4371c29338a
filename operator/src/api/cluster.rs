//! The image of a caller's sidecar, read from the API server.
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::ObjectMeta;
use kube::{Api, Client};
use resources::annotations::ANNOTATION_APP_ID;
use resources::labels::LABEL_APP_ID;
use resources::names::SIDECAR_CONTAINER;
use serde_json::Value;

use crate::api::access::Caller;

/// The images of the sidecars that `caller` can be: that of the pod with its address. Without such a
/// pod, those of the app's pods whose address is not reported yet, and without one, as behind address
/// translation, those of all pods of the app. Empty when the app has no pod with a sidecar.
///
/// # Errors
/// The error of the API server.
pub(crate) async fn sidecar_images(client: &Client, caller: &Caller) -> kube::Result<Vec<String>> {
    let resource = ApiResource::erase::<Pod>(&());
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &caller.namespace, &resource);
    if let Some(address) = caller.address {
        // Few pods, where an app may have hundreds.
        let of_address = format!("status.podIP={}", address.to_canonical());
        let pods = api.list(&ListParams::default().fields(&of_address)).await?.items;
        let images = images_of_caller(&pods, caller);
        if !images.is_empty() {
            return Ok(images);
        }
    }
    let of_app = format!("{LABEL_APP_ID}={}", caller.app_id);
    match api.list(&ListParams::default().labels(&of_app)).await {
        Ok(pods) => Ok(images_of_caller(&pods.items, caller)),
        // The app id is not the value of a label, so no pod has it as a label.
        Err(kube::Error::Api(status)) if status.code == 400 => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn images_of_caller(pods: &[DynamicObject], caller: &Caller) -> Vec<String> {
    let of_app = pods.iter().filter(|pod| belongs_to(&pod.metadata, &caller.app_id));
    let sidecars: Vec<(&Value, &str)> =
        of_app.filter_map(|pod| Some((&pod.data, image(&pod.data)?))).collect();
    let Some(address) = caller.address.map(|address| address.to_canonical()) else {
        return sidecars.into_iter().map(|(_, image)| image.to_owned()).collect();
    };
    let select = |wanted: &dyn Fn(&[IpAddr]) -> bool| -> Vec<String> {
        let wanted = sidecars.iter().filter(|(pod, _)| wanted(&addresses(pod)));
        wanted.map(|(_, image)| (*image).to_owned()).collect()
    };
    let exact = select(&|addresses| addresses.contains(&address));
    let starting = if exact.is_empty() { select(&<[IpAddr]>::is_empty) } else { exact };
    if starting.is_empty() { select(&|_| true) } else { starting }
}

/// Pods on the network of their node share an address, so the address alone does not decide.
fn belongs_to(pod: &ObjectMeta, app_id: &str) -> bool {
    let annotation = pod.annotations.as_ref().and_then(|all| all.get(ANNOTATION_APP_ID));
    let label = pod.labels.as_ref().and_then(|all| all.get(LABEL_APP_ID));
    let stated = annotation.filter(|id| !id.is_empty()).or(label).or(pod.name.as_ref());
    stated.is_some_and(|id| id == app_id)
}

fn addresses(pod: &Value) -> Vec<IpAddr> {
    let first = pod.pointer("/status/podIP");
    let all = pod.pointer("/status/podIPs").and_then(Value::as_array).into_iter().flatten();
    let all = all.filter_map(|entry| entry.get("ip"));
    let parsed = first.into_iter().chain(all).filter_map(|text| text.as_str()?.parse().ok());
    parsed.map(|address: IpAddr| address.to_canonical()).collect()
}

/// The image of a pod's sidecar, which is a container or a native sidecar.
fn image(pod: &Value) -> Option<&str> {
    let containers = ["/spec/containers", "/spec/initContainers"]
        .into_iter()
        .filter_map(|path| pod.pointer(path)?.as_array())
        .flatten();
    let mut sidecars = containers.filter(|container| {
        container.get("name").and_then(Value::as_str) == Some(SIDECAR_CONTAINER)
    });
    sidecars.next()?.get("image")?.as_str()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use runtime::server::Outgoing;

    use super::*;

    fn pod(app: &str, ip: Option<&str>, version: &str) -> DynamicObject {
        let status = ip.map_or(json!({}), |ip| json!({"podIP": ip, "podIPs": [{"ip": ip}]}));
        serde_json::from_value(json!({
            "metadata": {"name": "p", "annotations": {"dapr.io/app-id": app}},
            "spec": {"containers": [{"name": "app", "image": "app:1"},
                {"name": "daprd", "image": format!("daprd:{version}")}]},
            "status": status,
        }))
        .unwrap()
    }

    fn caller(address: Option<&str>) -> Caller {
        let address = address.map(|text| text.parse().unwrap());
        let (namespace, app_id) = ("n".to_owned(), "a".to_owned());
        Caller { namespace, app_id, address, peer: None, outgoing: Outgoing::default() }
    }

    #[rstest]
    #[case::own_address(Some("10.0.0.1"), &["daprd:1"])]
    #[case::mapped_address(Some("::ffff:10.0.0.1"), &["daprd:1"])]
    #[case::not_reported_yet(Some("10.0.0.9"), &["daprd:3"])]
    #[case::no_address(None, &["daprd:1", "daprd:2", "daprd:3"])]
    fn image_is_that_of_the_callers_pod(#[case] address: Option<&str>, #[case] want: &[&str]) {
        let pods = [
            pod("a", Some("10.0.0.1"), "1"),
            pod("b", Some("10.0.0.1"), "0"), // on the network of the same node
            pod("a", Some("10.0.0.2"), "2"),
            pod("a", None, "3"),
        ];
        assert_eq!(images_of_caller(&pods, &caller(address)), want);
    }

    #[test]
    fn translated_address_selects_all_pods_of_the_app() {
        let pods = [pod("a", Some("10.0.0.1"), "1"), pod("a", Some("10.0.0.2"), "2")];
        let images = images_of_caller(&pods, &caller(Some("192.0.2.1")));
        assert_eq!(images, ["daprd:1", "daprd:2"]);
    }

    #[rstest]
    #[case::annotation(json!({"name": "p", "annotations": {"dapr.io/app-id": "a"}}), true)]
    #[case::annotation_wins(json!({"name": "a", "annotations": {"dapr.io/app-id": "b"}}), false)]
    #[case::label(json!({"name": "p", "labels": {"dapr.io/app-id": "a"}}), true)]
    #[case::name(json!({"name": "a", "annotations": {"dapr.io/app-id": ""}}), true)]
    #[case::other(json!({"name": "p"}), false)]
    fn pod_states_its_app(#[case] metadata: Value, #[case] want: bool) {
        assert_eq!(belongs_to(&serde_json::from_value(metadata).unwrap(), "a"), want);
    }

    #[rstest]
    #[case::native(json!({"spec": {"containers": [], "initContainers": [
        {"name": "init", "image": "x"}, {"name": "daprd", "image": "d"}]}}), Some("d"))]
    #[case::no_image(json!({"spec": {"containers": [{"name": "daprd"}]}}), None)]
    #[case::none(json!({"spec": {"containers": [{"name": "app", "image": "x"}]}}), None)]
    fn image_of_the_sidecar(#[case] pod: Value, #[case] want: Option<&str>) {
        assert_eq!(image(&pod), want);
    }

    #[test]
    fn every_address_of_a_pod_counts() {
        let pod = json!({"status": {"podIP": "10.0.0.1",
            "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": "bad"}]}});
        let want: Vec<IpAddr> =
            ["10.0.0.1", "10.0.0.1", "fd00::1"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(addresses(&pod), want);
    }
}
