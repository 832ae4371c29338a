//! The images of the demo, built on this machine and imported into its node; no registry is used.

use anyhow::Result;

use crate::{Architecture, Image, NodeCluster, Service, Tool, environment, peer_images};

/// Registry part of the names of images that are built on this machine.
pub const LOCAL: &str = "localhost";

/// Builds the programs of the control plane, so that [`import_images`] finds them. `profile` is cargo's
/// profile for our services.
///
/// # Errors
/// A program does not compile.
pub fn build_programs(profile: &str) -> Result<()> {
    let here = Architecture::here()?;
    Service::ALL.iter().try_for_each(|service| service.build_for_image(here, profile).map(drop))?;
    Tool::ETCD_3_5.path_for(here).map(drop)
}

/// Builds the images of the control plane and of the sample and imports them into the cluster's
/// node. `profile` is cargo's profile for our services.
///
/// # Errors
/// A service does not compile, or a program of the sample is missing on this machine.
pub fn import_images(node: &NodeCluster, profile: &str) -> Result<()> {
    let folder = environment::workspace().join("target/images");
    let import = |name: &str, image: Image| {
        let archive = folder.join(format!("{name}.tar"));
        image.write(&archive)?;
        node.import_image(&archive)
    };
    for service in Service::ALL {
        let tag = env!("CARGO_PKG_VERSION");
        let name = format!("{LOCAL}/{}:{tag}", service.binary());
        import(service.binary(), peer_images::service(service, &name, profile)?)?;
    }
    import("daprd", peer_images::daprd(&daprd_image())?)?;
    import("redis", peer_images::redis("localhost/trilby-sample-redis:1")?)?;
    import("node", peer_images::node("localhost/trilby-sample-node:1")?)?;
    import("python", peer_images::python("localhost/trilby-sample-python:1")?)
}

/// Makes the image that the tour of the building blocks needs beside those of [`import_images`].
///
/// # Errors
/// As [`import_images`], or Dapr's SDK for Python cannot be installed.
pub fn import_tour_image(node: &NodeCluster) -> Result<()> {
    node.import(&peer_images::python_sdk("localhost/trilby-sample-python-sdk:1")?)
}

/// The image of the official sidecar that [`import_images`] builds.
pub fn daprd_image() -> String {
    format!("{LOCAL}/daprd:{}", peer_images::daprd_tag())
}
