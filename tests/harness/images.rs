//! Container images and release artefacts without a container daemon. Start reading at [`image`].

pub(crate) mod architecture;
pub(crate) mod archive;
pub mod bundle;
pub mod chart_repo;
mod go_materials;
pub mod image;
pub mod krew;
pub mod peer_images;
pub mod provenance;
pub mod registry;
pub mod reproducible;
pub mod sbom;
pub mod signing;
