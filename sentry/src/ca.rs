//! The certificate authority: where it is stored, how it gets into memory, and what it signs.
//!
//! ```text
//!  Secret + ConfigMap ─► cluster ─┐
//!                                 ├─► store ─► controller ─► authority ─► signed certificates
//!  three files ────────► files ───┘       (rotation decides)    │
//!                                                               └─► own_certificate
//! ```
//! Start reading at [`controller`], which reconciles the stored CA with the one in memory;
//! `identity::stored::plan` decides whether a stored CA is used and `rotation::plan` when it is
//! rotated. [`record`] is the layout of the two objects.

pub(crate) mod authority;
pub(crate) mod cluster;
pub(crate) mod controller;
pub(crate) mod files;
pub(crate) mod own_certificate;
pub(crate) mod record;
pub(crate) mod settings;
pub(crate) mod store;
pub(crate) mod store_error;

pub(crate) use authority::{Authority, IssueFailure, LeafSpec};
pub(crate) use controller::{CaController, CaPolicy};
pub use record::BundleNames;
