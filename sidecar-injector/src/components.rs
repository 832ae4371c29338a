//! Pluggable components: containers that implement a Component behind a Unix domain socket.
//! Source: Dapr 1.18, injector.

use k8s_openapi::api::core::v1::Container;
use resources::names;
use serde_json::{Map, Value, json};

use crate::app_id::AppId;
use crate::options::ComponentOptions;
use crate::patch::{ContainerList, PatchWriter, PodList, name_of};
use crate::pod::PodView;
use crate::reader::quoted;
use crate::sidecar::{SOCKETS_FOLDER_VARIABLE, sockets_mount};

/// A Component that brings its own container, as the watch saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentContainer {
    /// The Component's name.
    pub name: String,
    /// Apps that may use it; empty is all.
    pub scopes: Vec<String>,
    /// The text of its annotation: core/v1 Container as JSON.
    pub container: String,
}

/// The containers to add to a pod, and what kept others out.
#[derive(Debug, Default, PartialEq)]
pub struct Chosen {
    /// Containers as their Components define them, each with a name.
    pub containers: Vec<Value>,
    /// One sentence for each Component whose container cannot be used.
    pub problems: Vec<String>,
}

/// The containers for this app among a namespace's Components, in their order; the first of
/// several with the same image wins.
pub fn choose(components: &[ComponentContainer], id: &AppId) -> Chosen {
    let mut chosen = Chosen::default();
    let mut images: Vec<String> = Vec::new();
    for component in components {
        let mut container = match parse(&component.container) {
            Ok(container) => container,
            Err(why) => {
                let name = quoted(&component.name);
                chosen.problems.push(format!("Component {name} has a bad container: {why}"));
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
        chosen.containers.push(Value::Object(container));
    }
    chosen
}

/// A container as JSON, unchanged if core/v1 can read it.
fn parse(text: &str) -> Result<Map<String, Value>, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    serde_json::from_value::<Container>(value.clone()).map_err(|e| e.to_string())?;
    match value {
        Value::Object(container) => Ok(container),
        _ => Err("it is not a JSON object".to_owned()),
    }
}

/// Writes the operations for the components of a pod: the volume of their sockets, what the pod's
/// own component containers need, and the containers to add.
pub fn write(
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
