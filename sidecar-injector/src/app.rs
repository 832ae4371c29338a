//! What the application's own containers get. Source: Dapr 1.18, injector.

use resources::{names, ports};
use serde_json::{Value, json};

use crate::options::Options;
use crate::patch::{ContainerList, PatchWriter};
use crate::pod::{ContainerView, PodView};
use crate::sidecar::SOCKETS_FOLDER_VARIABLE;

/// Writes the variables, then the mounts of the API's sockets, that application containers do not
/// have yet. Sidecar, components and init containers are left alone.
pub fn write(patch: &mut PatchWriter, pod: &PodView<'_>, options: &Options) {
    let apps = pod.containers().into_iter().enumerate();
    let apps: Vec<_> = apps.filter(|(_, container)| is_app(*container, options)).collect();
    write_to(&apps, patch, options);
}

/// The same for a pod that has its sidecar already. Containers that an earlier call added for
/// Components cannot be told by their names; they have the variable that such a call gives them.
pub fn complete(patch: &mut PatchWriter, pod: &PodView<'_>, options: &Options) {
    let apps = pod.containers().into_iter().enumerate().filter(|(_, container)| {
        is_app(*container, options) && !container.defines(SOCKETS_FOLDER_VARIABLE)
    });
    write_to(&apps.collect::<Vec<_>>(), patch, options);
}

fn write_to(apps: &[(usize, ContainerView<'_>)], patch: &mut PatchWriter, options: &Options) {
    for (index, container) in apps {
        let missing = variables(options)
            .into_iter()
            .filter(|(name, _)| !container.defines(name))
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        patch.extend_container(*index, ContainerList::Env, missing);
    }
    let volume = names::VOLUME_UNIX_DOMAIN_SOCKET;
    let directory = options.api.socket_path.as_deref();
    let Some(directory) = directory.filter(|_| patch.has_volume(volume)) else { return };
    for (index, container) in apps {
        if !container.mounts(volume, directory) {
            let mount: Value = json!({"name": volume, "mountPath": directory});
            patch.extend_container(*index, ContainerList::VolumeMounts, vec![mount]);
        }
    }
}

fn is_app(container: ContainerView<'_>, options: &Options) -> bool {
    container.name() != names::SIDECAR_CONTAINER
        && !options.components.containers.iter().any(|name| name == container.name())
}

fn variables(options: &Options) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("DAPR_HTTP_PORT", ports::SIDECAR_HTTP.to_string()),
        ("DAPR_GRPC_PORT", options.api.grpc_port.to_string()),
    ];
    let protocol = options.app.effective_protocol();
    variables.extend(protocol.map(|protocol| ("APP_PROTOCOL", protocol.to_owned())));
    variables
}
