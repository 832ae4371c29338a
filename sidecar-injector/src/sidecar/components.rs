//! Pluggable components: containers that serve a Component on a Unix domain socket.
//! Source: Dapr 1.18, injector.

use k8s_openapi::api::core::v1::Container;
use resources::names;
use serde_json::{Map, Value, json};

use super::container::{SOCKETS_FOLDER_VARIABLE, sockets_mount};
use super::context::ComponentContainer;
use super::options::ComponentOptions;
use crate::pod::{AppId, ContainerList, PatchWriter, PodList, PodView, name_of, quoted};

/// The containers to add to a pod.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ComponentContainers {
    /// Containers as defined by their Components, each with a name.
    pub containers: Vec<Value>,
    /// One message for each Component whose container is invalid.
    pub problems: Vec<String>,
}

/// Selects the containers for this app from the Components of a namespace, in their order. Of
/// several containers with the same image the first is used.
pub(crate) fn select(components: &[ComponentContainer], id: &AppId) -> ComponentContainers {
    let mut selected = ComponentContainers::default();
    let mut images: Vec<String> = Vec::new();
    for component in components {
        let mut container = match parse(&component.container) {
            Ok(container) => container,
            Err(why) => {
                let name = quoted(&component.name);
                selected.problems.push(format!("Component {name} has an invalid container: {why}"));
                continue;
            }
        };
        let image = container.get("image").and_then(Value::as_str).unwrap_or_default().to_owned();
        let scopes = &component.scopes;
        let in_scope = scopes.is_empty() || scopes.iter().any(|scope| scope == id.as_str());
        if images.contains(&image) || !in_scope {
            continue;
        }
        images.push(image);
        if container.get("name").and_then(Value::as_str).unwrap_or_default().is_empty() {
            container.insert("name".to_owned(), json!(component.name));
        }
        selected.containers.push(Value::Object(container));
    }
    selected
}

/// Parses a container and returns its JSON unchanged.
fn parse(text: &str) -> Result<Map<String, Value>, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    serde_json::from_value::<Container>(value.clone()).map_err(|e| e.to_string())?;
    match value {
        Value::Object(container) => Ok(container),
        _ => Err("not a JSON object".to_owned()),
    }
}

/// Adds the volume of the sockets, its mount in the pod's own component containers, and the
/// containers of Components.
pub(crate) fn write(
    patch: &mut PatchWriter,
    pod: &PodView<'_>,
    options: &ComponentOptions,
    added: Vec<Value>,
) {
    let socket_volume = names::VOLUME_COMPONENTS_SOCKET;
    patch.volumes(vec![json!({"name": socket_volume, "emptyDir": {}})]);
    let folder = &options.sockets_folder;
    let variable = json!({"name": SOCKETS_FOLDER_VARIABLE, "value": folder});
    for (index, container) in pod.containers().iter().enumerate() {
        if !options.containers.iter().any(|name| name == container.name()) {
            continue;
        }
        if !container.defines(SOCKETS_FOLDER_VARIABLE) {
            patch.extend_container(index, ContainerList::Env, vec![variable.clone()]);
        }
        if !container.mounts(socket_volume, folder) {
            let mount = vec![sockets_mount(folder)];
            patch.extend_container(index, ContainerList::VolumeMounts, mount);
        }
    }
    for mut container in added {
        push(&mut container, "env", variable.clone());
        let mounts = container.get("volumeMounts").and_then(Value::as_array);
        let volumes = mounts.into_iter().flatten().map(name_of).filter(|name| !name.is_empty());
        let volumes = volumes.map(|name| json!({"name": name, "emptyDir": {}})).collect();
        patch.volumes(volumes);
        push(&mut container, "volumeMounts", sockets_mount(folder));
        patch.push(PodList::Containers, container);
    }
}

fn push(container: &mut Value, member: &str, item: Value) {
    let Some(container) = container.as_object_mut() else { return };
    match container.get_mut(member).and_then(Value::as_array_mut) {
        Some(list) => list.push(item),
        None => {
            container.insert(member.to_owned(), Value::Array(vec![item]));
        }
    }
}
