//! The sidecar injector: a mutating webhook that gives annotated pods their daprd.
//!
//! ```text
//!   kube-apiserver ── AdmissionReview ──► server ──► review::decide ──► mutate::mutate
//!                                           │              │                │
//!     cluster: watches ──► snapshots ───────┘         allow (who)     options (annotations)
//!     config: flags, environment                                      sidecar, arguments (container)
//!     ca_bundle: keeps the API server's trust in us                   app, components (the rest)
//!                                                                     patch (RFC 6902)
//! ```
//! Start reading at [`mutate::mutate`]. Nothing on the way of a request calls the API server: what
//! a pod depends on is watched, and each request takes a snapshot.

pub mod addresses;
pub mod allow;
pub mod app;
pub mod app_id;
pub mod arguments;
pub mod check;
pub mod components;
pub mod daprd_version;
pub mod glob;
pub mod mutate;
pub mod options;
pub mod patch;
pub mod pod;
pub mod quantity;
pub mod reader;
pub mod review;
pub mod settings;
pub mod sidecar;
pub mod spelling;
pub mod user_env;
pub mod warnings;
