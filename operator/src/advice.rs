//! Advice to the authors of Components: Events and, optionally, status conditions.
//!
//! Start at [`advisor`], which runs the [`checks`] over the cached Components. The checks read the
//! table of official components in [`component_types`]; [`status`] turns findings into conditions
//! and [`status_writer`] applies them.
pub(crate) mod advisor;
pub(crate) mod checks;
pub(crate) mod component_types;
pub(crate) mod status;
pub(crate) mod status_writer;
