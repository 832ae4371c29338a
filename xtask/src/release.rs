//! What a release consists of: images, chart, bills of materials, installer bundle, signatures. Start
//! at `image`, which builds and pushes; `sign` signs what it pushed.

pub(crate) mod bundle;
pub(crate) mod chart;
pub(crate) mod image;
pub(crate) mod reproducible;
pub(crate) mod sbom;
pub(crate) mod sign;
