//! The parts of a release: images, chart, bills of materials, installer bundle, `daprctl`,
//! signatures. Start at `image`, which builds and pushes; `sign` signs what it pushed.

pub(crate) mod bundle;
pub(crate) mod chart;
pub(crate) mod daprctl;
pub(crate) mod image;
pub(crate) mod reproducible;
pub(crate) mod sbom;
pub(crate) mod sign;
