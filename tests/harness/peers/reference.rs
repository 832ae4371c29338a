//! The reference control plane as it is installed: its own chart, images of its own programs. Both
//! are used as they are, for comparison and for the way from it and back.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::{Image, NodeCluster, Service, Tool, module_folder, tools};

/// Registry part of the names of the images that [`import_images`] builds.
pub const REGISTRY: &str = "localhost/reference";

impl Service {
    /// The reference's program of this service.
    pub const fn reference(self) -> Tool {
        match self {
            Self::Operator => Tool::REFERENCE_OPERATOR,
            Self::Injector => Tool::REFERENCE_INJECTOR,
            Self::Sentry => Tool::REFERENCE_SENTRY,
            Self::Placement => Tool::REFERENCE_PLACEMENT,
            Self::Scheduler => Tool::REFERENCE_SCHEDULER,
        }
    }
}

/// The folder of the reference's chart, in its published module.
///
/// # Errors
/// When the module cannot be downloaded.
pub fn chart() -> Result<PathBuf> {
    let chart = module_folder("github.com/dapr/dapr", tools::DAPR)?.join("charts/dapr");
    ensure!(chart.join("Chart.yaml").is_file(), "no chart in {}", chart.display());
    Ok(chart)
}

/// The tag of the reference's images: its version without the `v`.
pub fn tag() -> &'static str {
    tools::DAPR.trim_start_matches('v')
}

/// The image of one of the reference's services, built like ours.
///
/// # Errors
/// When the program is missing and cannot be built.
pub fn image(service: Service, name: &str) -> Result<Image> {
    let entry = format!("/{}", service.binary());
    let image = Image::new(name).file(service.reference().path()?, &entry)?;
    Ok(image.ca_roots().entrypoint(&[&entry]))
}

/// Builds the images of the reference control plane and imports them into the cluster's node.
///
/// # Errors
/// When a program is missing and cannot be built.
pub fn import_images(node: &NodeCluster) -> Result<()> {
    for service in Service::ALL {
        node.import(&image(service, &format!("{REGISTRY}/{}:{}", service.binary(), tag()))?)?;
    }
    Ok(())
}
