//! Advice to the authors of Components and of what refers to them: Events and, optionally, status conditions.
//!
//! Start at [`advisor`], which runs the [`checks`] over the cached Components. The checks read the
//! table of official components in [`component_types`]; [`references`] checks the names by which
//! Configurations, Subscriptions, Resiliencies and pods refer to other objects; [`status`] turns findings into conditions
//! and [`status_writer`] applies them.
pub(crate) mod advisor;
pub(crate) mod checks;
pub(crate) mod component_types;
pub(crate) mod references;
pub(crate) mod status;
pub(crate) mod status_writer;
