//! The reconciler of `<app-id>-dapr` Services.
//!
//! Start at [`reconciler`]: watches fill the [`index`], which queues the Services to reconcile;
//! [`plan`] compares the desired Service of a [`workload`] with the current one. [`mtls`] decides the
//! protocol of one of its ports.
pub(crate) mod index;
pub(crate) mod mtls;
pub(crate) mod plan;
pub(crate) mod reconciler;
pub(crate) mod work_queue;
pub(crate) mod workload;
