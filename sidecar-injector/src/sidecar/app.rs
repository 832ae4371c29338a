//! Variables and mounts of the application's containers. Source: Dapr 1.18, injector.

use resources::{names, ports};
use serde_json::{Value, json};

use super::container::SOCKETS_FOLDER_VARIABLE;
use super::options::Options;
use crate::pod::{ContainerList, ContainerView, PatchWriter, PodView};

/// Adds the variables, then the mounts of the API sockets, that application containers lack.
/// Sidecar, pluggable components and init containers stay unchanged.
pub(crate) fn write(patch: &mut PatchWriter, pod: &PodView<'_>, options: &Options) {
    let apps = pod.containers().into_iter().enumerate();
    let apps: Vec<_> = apps.filter(|(_, container)| is_app(*container, options)).collect();
    write_to(&apps, patch, options);
}

/// Like [`write`], for a pod that has its sidecar. Containers that an earlier call added for
/// Components are recognised by the variable that it set.
pub(crate) fn complete(patch: &mut PatchWriter, pod: &PodView<'_>, options: &Options) {
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
