//! Reads a pod and its annotations, and writes the patch that changes it.
//!
//! Start at [`PodView`], the checked view of a pod's JSON, then [`PatchWriter`], which builds the
//! JSON Patch. [`deserialize`] decodes a pod within bounded memory. [`AnnotationReader`] turns
//! annotation values into typed values and collects a [`Problem`] for each value that it cannot
//! use. This room has no knowledge of sidecars, clusters or requests.

mod annotations;
mod app_id;
mod decode;
mod defaults;
mod namespace;
mod patch;
pub(crate) mod quantity;
mod spelling;
pub(crate) mod user_env;
mod view;
mod warning;

pub(crate) use annotations::{AnnotationReader, Problem, quoted};
pub(crate) use app_id::{AppId, AppIdError};
pub(crate) use decode::{MAX_VALUES, deserialize, has_too_many_values};
pub use defaults::Defaults;
pub(crate) use defaults::{BadDefaults, DefaultLayers};
pub(crate) use namespace::Injection;
pub use namespace::NamespacePolicy;
pub(crate) use patch::{ContainerList, PatchWriter, PodList, name_of};
pub(crate) use quantity::is_quantity;
pub(crate) use spelling::{UNKNOWN_ANNOTATION, unknown_annotations};
pub(crate) use user_env::{PlainVar, SecretVar, parse_from_secret, parse_plain};
pub use view::PodView;
pub(crate) use view::{API_TOKEN_DIRECTORY, BadShape, ContainerView, Owner};
pub use warning::Warning;
