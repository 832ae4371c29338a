//! Decides which sidecar a pod gets: annotations and settings to a patch.
//!
//! Start at [`mutate`]. It reads [`options::Options`] from the annotations, builds the container
//! ([`container`], [`arguments`]), and adds what the application ([`app`]) and pluggable components
//! ([`components`]) need. Everything here is a synchronous function of the pod and of an
//! [`InjectionContext`].

mod addresses;
mod app;
mod arguments;
mod components;
mod container;
mod context;
mod daprd_version;
mod mutate;
mod options;
mod platform;
mod ports;
mod security;
mod settings;
mod validation;

pub use addresses::{Actors, ControlPlane};
pub(crate) use addresses::{BadServiceAddress, cluster_domain, reminders};
pub(crate) use context::mtls_enabled;
pub use context::{ComponentContainer, InjectionContext};
pub(crate) use mutate::skip_reason;
pub use mutate::{Change, InjectError, Mutation, Rejection, SkipReason, mutate};
pub use platform::{Platform, Version};
pub use settings::{NativeDefault, Security, Settings, Toleration};
