//! The webhook: HTTP, `AdmissionReview`s, allowed users, answers.
//!
//! Start at [`server::mutate`], the handler: it reads a bounded body ([`body`]), decodes the
//! [`Review`], takes a snapshot of the cluster and returns [`Review::decide`]. No request calls the
//! API server.

mod allow_list;
mod body;
mod caller;
mod decision;
mod error;
pub(crate) mod glob;
mod metrics;
mod review;
mod server;
mod warnings;

pub(crate) use allow_list::BadPattern;
pub use allow_list::{AllowList, AllowedUsers};
pub(crate) use body::MAX_BODY_BYTES;
pub use caller::CallerProof;
pub(crate) use caller::{BadPathToken, PathToken};
pub use decision::{AdmissionDecision, Outcome};
pub use metrics::AdmissionMetrics;
pub use review::Review;
pub use server::{AdmissionPolicy, Webhook, router};
