//! Container images and release artefacts without a container daemon. Start reading at [`image`].

pub(crate) mod architecture;
pub mod bundle;
pub mod chart_repo;
pub mod image;
pub mod peer_images;
pub mod provenance;
pub mod registry;
pub mod reproducible;
pub mod sbom;
pub mod signing;
