//! Advice to the authors of Components and of objects that refer to them: Events and, optionally,
//! status conditions.
//!
//! Start at [`advisor`], which runs the [`checks`] over the cached Components. The checks read the
//! table of official components in [`resources::component_types`]; [`references`] checks the names
//! by which Configurations, Subscriptions, Resiliencies and pods refer to other objects,
//! [`other_kinds`] the scopes and Secrets of all kinds; [`status`] turns findings into conditions
//! and [`status_writer`] applies them. [`lint`] runs the same checks over files.
pub(crate) mod advisor;
pub(crate) mod checks;
pub mod lint;
pub(crate) mod other_kinds;
pub(crate) mod references;
pub(crate) mod status;
pub(crate) mod status_writer;
