//! Conversion of Subscriptions between `v1alpha1` and `v2alpha1`.
//!
//! Start at [`webhook`], the HTTP endpoint that the API server calls; [`conversion`] is the pure
//! conversion. [`crd_controller`] keeps the CRD pointing at this webhook, with the patch computed by
//! [`crd_patch`].
pub(crate) mod conversion;
pub(crate) mod crd_controller;
pub(crate) mod crd_patch;
mod raw_object;
pub(crate) mod webhook;
